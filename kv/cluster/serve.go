package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
)

// maxJoining is how many exchanges with newcomers may be under way; further ones are closed.
const maxJoining = 16

// serve starts the services of the node's listener.
func (n *Node) serve() {
	check := func(p identity.ID, _ *x509.Certificate) error { return n.image.Load().refused(p) }
	l := mux.NewListener(n.mux.Addr())
	n.kv = n.newKV()
	n.grpc = grpc.NewServer(append(n.kv.GRPCOptions(),
		grpc.Creds(muxCredentials{}),
		grpc.WaitForHandlers(true), // a handler writes to the node's directory, which may be opened again at once
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := authorize(ctx, info.FullMethod); err != nil {
				return nil, toStatus(err)
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := authorize(s.Context(), info.FullMethod); err != nil {
				return toStatus(err)
			}
			return next(srv, s)
		}),
	)...)
	clusterpb.RegisterClusterServer(n.grpc, adminServer{n: n})
	n.kv.Register(n.grpc)
	n.mux.Handle(protoGRPC, mux.Service{TLS: n.creds.ServerConfig(check, protoGRPC), Serve: l.Serve})
	n.mux.Handle(protoRaft, mux.Service{
		TLS: n.creds.ServerConfig(func(p identity.ID, _ *x509.Certificate) error {
			if p.Kind != identity.Node {
				return fmt.Errorf("%w: %s is not a node", identity.ErrIdentity, p)
			}
			return n.image.Load().refused(p)
		}, protoRaft),
		Serve: n.acceptStream,
	})
	for protocol, serve := range n.opts.Services {
		n.mux.Handle(protocol, mux.Service{TLS: n.creds.ServerConfig(check, protocol), Serve: serve})
	}
	slots := make(chan struct{}, maxJoining)
	n.mux.Handle(protoJoin, mux.Service{TLS: n.creds.Admitting(protoJoin), Serve: func(c *mux.Conn) {
		select {
		case slots <- struct{}{}:
			n.admit(c)
			<-slots
		default:
			_ = c.Close()
		}
	}})
	n.work.Go(func() {
		if err := n.grpc.Serve(l); err != nil && n.ctx.Err() == nil {
			n.log.Error("the services stopped", "cause", err)
		}
	})
	n.work.Go(n.mux.Run)
}

// peerInfo is what gRPC knows about a caller.
type peerInfo struct {
	credentials.CommonAuthInfo
	id identity.ID
}

func (peerInfo) AuthType() string { return "gabion" }

// muxCredentials tells gRPC who the peer of a connection is. The handshake is done already.
type muxCredentials struct{}

func (muxCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	m, ok := c.(*mux.Conn)
	if !ok || m.Peer.Name == "" {
		return nil, nil, fmt.Errorf("%w: a connection that was not admitted", identity.ErrIdentity)
	}
	return c, peerInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, m.Peer}, nil
}

func (muxCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("cluster: these credentials are for serving")
}

func (muxCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (c muxCredentials) Clone() credentials.TransportCredentials { return c }
func (muxCredentials) OverrideServerName(string) error           { return nil }

// caller returns who makes a call.
func caller(ctx context.Context) (identity.ID, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}, fmt.Errorf("%w: nobody is known to call", ErrDenied)
	}
	info, ok := p.AuthInfo.(peerInfo)
	if !ok {
		return identity.ID{}, fmt.Errorf("%w: the caller has shown no certificate", ErrDenied)
	}
	return info.id, nil
}

// What a method of the administration takes; everything else there takes the right to administer.
var (
	forAll   = []string{"Status", "NodeStatus", "ListStores"}
	forNodes = []string{"Announce", "SetReady"}
)

// authorize says whether the caller may call a method.
func authorize(ctx context.Context, method string) error {
	who, err := caller(ctx)
	if err != nil {
		return err
	}
	name, admin := strings.CutPrefix(method, "/"+clusterpb.Cluster_ServiceDesc.ServiceName+"/")
	switch {
	case !admin, slices.Contains(forAll, name):
		return nil
	case slices.Contains(forNodes, name):
		if who.Kind == identity.Node {
			return nil
		}
	case who.MayAdminister():
		return nil
	}
	return fmt.Errorf("%w: %s may not call %s", ErrDenied, who, name)
}

// ask asks one node about its member of a store, or about all its members when store is empty. It must be
// that node that answers.
func (n *Node) ask(ctx context.Context, node, store string) (*clusterpb.NodeStatusResponse, error) {
	if node == n.id {
		return n.status(store), nil
	}
	address, err := n.resolve(node)
	if err != nil {
		return nil, err
	}
	cc, err := n.peers.conn(address, node)
	if err != nil {
		return nil, err
	}
	r := &clusterpb.NodeStatusRequest{}
	if store != "" {
		r.Stores = []string{store}
	}
	out, err := clusterpb.NewClusterClient(cc).NodeStatus(ctx, r)
	if err != nil {
		_, _, err = fromStatus(err)
	}
	return out, err
}

// announce is the goroutine that tells the others where this node listens, until the directory says so.
// Any node that hears it can then reach this one, even while there is no leader. A node that hears of no
// leader asks in the same way whether the others still admit it.
func (n *Node) announce() {
	for n.ctx.Err() == nil {
		changed := n.imageChanged()
		d, err := n.member(Directory)
		if n.image.Load().nodes[n.id].GetAddress() != n.advertise || err != nil || d.Stats().Leader == "" {
			n.announceOnce()
		}
		n.await(changed)
	}
}

func (n *Node) announceOnce() {
	ctx, cancel := context.WithTimeout(n.ctx, askTimeout)
	defer cancel()
	own := n.book.own()
	to := n.peers.order()
	for _, x := range n.book.all() {
		if !slices.Contains(to, x.Address) {
			to = append(to, x.Address)
		}
	}
	var calls sync.WaitGroup
	for _, a := range to {
		calls.Go(func() {
			var r *clusterpb.AnnounceResponse
			err := n.peers.attempt(ctx, a, func(ctx context.Context, s clusterpb.ClusterClient) (err error) {
				r, err = s.Announce(ctx, &clusterpb.AnnounceRequest{Address: own.Address, Generation: own.Generation})
				return err
			})
			if err == nil {
				n.learnAddresses(r.Known)
				if to := r.Leader.GetAddress(); to != "" {
					n.peers.learn([]string{to})
				}
				return
			}
			if _, _, err := fromStatus(err); errors.Is(err, ErrDenied) {
				n.refused(err)
			} else {
				n.log.Debug("could not tell where this node listens", "to", a, "cause", err)
			}
		})
	}
	calls.Wait()
}

// refused notes that the cluster does not admit this node any more.
func (n *Node) refused(cause error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.err = fmt.Errorf("cluster: node %s is not admitted any more: it was removed: %w", n.id, cause)
		close(n.over)
		n.log.Error("the cluster refuses this node; it was removed, and can be stopped", "cause", cause)
	}
}

// setReady tells the directory that a new store has a leader.
func (c *Client) setReady(ctx context.Context, row *clusterpb.Store) error {
	return c.call(ctx, "note that "+row.Name+" is ready", func(ctx context.Context, s clusterpb.ClusterClient, _ bool) error {
		_, err := s.SetReady(ctx, &clusterpb.SetReadyRequest{Name: row.Name, RaftId: row.RaftId})
		return err
	})
}
