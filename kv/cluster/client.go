package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
)

const (
	// attemptTimeout bounds one attempt of a call that has to find out who can answer.
	attemptTimeout = 5 * time.Second
	retryPause     = 50 * time.Millisecond
	// maxAddrs bounds the addresses that a client knows and a bundle holds.
	maxAddrs = 64
)

// NotAccepted is in the text of an error that matches ErrDenied when not the call was refused but the caller,
// whoever it asks.
const NotAccepted = "no node accepts the certificate"

// Client administers a cluster. It asks any node and follows to whoever leads, until the call's context
// is over. Safe for concurrent use.
type Client struct {
	creds *identity.Credentials

	mu     sync.Mutex
	addrs  []string // the one that answered last is first
	conns  map[string]*grpc.ClientConn
	closed bool
}

// LoadBundle reads what is needed to talk to a cluster: from a client's bundle, or from the directory of
// a node.
func LoadBundle(path string) (*identity.Bundle, error) {
	if fi, err := os.Stat(path); err != nil {
		return nil, err
	} else if fi.IsDir() {
		path = filepath.Join(path, nodeFile)
	}
	return identity.ReadBundle(path)
}

// DialFile returns a client with what LoadBundle finds at path.
func DialFile(path string) (*Client, error) {
	b, err := LoadBundle(path)
	if err != nil {
		return nil, err
	}
	return Dial(b)
}

// Dial returns a client. It connects when it is used.
func Dial(b *identity.Bundle) (*Client, error) {
	if b.Credentials == nil || len(b.Addrs) == 0 {
		return nil, errors.New("cluster: credentials and the address of a node are needed")
	}
	return &Client{creds: b.Credentials, addrs: slices.Clone(b.Addrs), conns: map[string]*grpc.ClientConn{}}, nil
}

// Identity says as whom the client speaks.
func (c *Client) Identity() identity.ID { return c.creds.ID }

// Close closes the connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, cc := range c.conns {
		errs = append(errs, cc.Close())
	}
	clear(c.conns)
	return errors.Join(errs...)
}

// conn returns the connection to an address. node is who must answer there, or empty.
func (c *Client) conn(address, node string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("cluster: client: %w", net.ErrClosed)
	}
	key := node + "@" + address
	if cc := c.conns[key]; cc != nil {
		return cc, nil
	}
	cc, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.creds.ClientConfig(node, protoGRPC))),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return mux.DialTCP(ctx, a) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: mux.DialTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, err
	}
	c.conns[key] = cc
	return cc, nil
}

// order returns the addresses to try.
func (c *Client) order() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.addrs)
}

// answered notes that a node answers at address.
func (c *Client) answered(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addrs = slices.DeleteFunc(c.addrs, func(a string) bool { return a == address })
	c.addrs = slices.Insert(c.addrs, 0, address)
	c.addrs = c.addrs[:min(len(c.addrs), maxAddrs)]
}

// learn adds addresses at the end of those to try.
func (c *Client) learn(addrs []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addrs {
		if a != "" && !slices.Contains(c.addrs, a) && len(c.addrs) < maxAddrs {
			c.addrs = append(c.addrs, a)
		}
	}
}

// call makes a call at whoever can answer it. again says that an earlier attempt may have done something.
func (c *Client) call(ctx context.Context, what string, fn func(ctx context.Context, s clusterpb.ClusterClient, again bool) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	var last error
	var again bool
	for next := ""; ; {
		addrs := c.order()
		if next != "" {
			addrs = slices.Insert(slices.DeleteFunc(addrs, func(a string) bool { return a == next }), 0, next)
			next = ""
		}
		var denied error // by a node, while none admits us
		admitted := false
		for _, a := range addrs {
			err := c.attempt(ctx, a, func(ctx context.Context, s clusterpb.ClusterClient) error { return fn(ctx, s, again) })
			if err == nil {
				c.answered(a)
				return nil
			}
			retry, to, err := fromStatus(err)
			var re *redirectError
			again = again || !errors.As(err, &re)
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				retry = true // the attempt ran out of time, not the call
			}
			if !retry {
				return fmt.Errorf("%s: %w", what, err)
			}
			last = fmt.Errorf("%s: %w", a, err)
			switch {
			case errors.Is(err, ErrDenied):
				denied = last
			case errors.As(err, &re), errors.Is(err, context.DeadlineExceeded):
				admitted = true // it has nobody to send us to, or no time
			}
			if ctx.Err() != nil {
				return unanswered(ctx, what, last)
			}
			if to != "" && to != a {
				next = to
				break
			}
		}
		if denied != nil && !admitted && next == "" {
			return fmt.Errorf("%s: %s of %s: %w", what, NotAccepted, c.creds.ID, denied)
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return unanswered(ctx, what, last)
		}
	}
}

func unanswered(ctx context.Context, what string, last error) error {
	return fmt.Errorf("%s: %w: %w (last answer: %v)", what, kv.ErrNoQuorum, context.Cause(ctx), last)
}

func (c *Client) attempt(ctx context.Context, address string, fn func(context.Context, clusterpb.ClusterClient) error) error {
	cc, err := c.conn(address, "")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return fn(ctx, clusterpb.NewClusterClient(cc))
}

func hasText(s string, err error) bool { return strings.Contains(s, err.Error()) }

// Status asks every node about itself and its members.
func (c *Client) Status(ctx context.Context) (out *clusterpb.StatusResponse, err error) {
	err = c.call(ctx, "status", func(ctx context.Context, s clusterpb.ClusterClient, _ bool) (err error) {
		out, err = s.Status(ctx, &clusterpb.StatusRequest{})
		return err
	})
	if err == nil {
		for _, n := range out.Nodes {
			c.learn([]string{n.Node.Address})
		}
	}
	return out, err
}

// Addresses returns where the nodes of the cluster can be reached, sorted by their names, without those that are
// leaving it.
func (c *Client) Addresses(ctx context.Context) (out []string, err error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range st.Nodes {
		if n.Node.State == clusterpb.NodeState_NODE_ACTIVE && identity.CheckAddr(n.Node.Address) == nil && len(out) < maxAddrs {
			out = append(out, n.Node.Address)
		}
	}
	return out, nil
}

// Stores lists the stores, as the node that answers knows them.
func (c *Client) Stores(ctx context.Context) ([]*clusterpb.Store, error) {
	var out *clusterpb.ListStoresResponse
	err := c.call(ctx, "list stores", func(ctx context.Context, s clusterpb.ClusterClient, _ bool) (err error) {
		out, err = s.ListStores(ctx, &clusterpb.ListStoresRequest{})
		return err
	})
	return out.GetStores(), err
}

// CreateStore makes a store and waits until it can be written to. Without voters, its members are those
// of the directory, and follow them.
func (c *Client) CreateStore(ctx context.Context, r *clusterpb.CreateStoreRequest) (*clusterpb.Store, error) {
	req := &clusterpb.CreateStoreRequest{
		Name: r.Name, Voters: r.Voters, Learners: r.Learners, Preferred: r.Preferred, IfAbsent: r.IfAbsent, Nonce: make([]byte, 16),
	}
	_, _ = rand.Read(req.Nonce) // never fails
	var out *clusterpb.CreateStoreResponse
	err := c.call(ctx, "create store "+r.Name, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) (err error) {
		out, err = s.CreateStore(ctx, req)
		return err
	})
	return out.GetStore(), err
}

// DeleteStore deletes a store with everything in it.
func (c *Client) DeleteStore(ctx context.Context, name string) error {
	return c.call(ctx, "delete store "+name, func(ctx context.Context, s clusterpb.ClusterClient, again bool) error {
		_, err := s.DeleteStore(ctx, &clusterpb.DeleteStoreRequest{Name: name})
		if again {
			if _, _, e := fromStatus(err); errors.Is(e, kv.ErrNoStore) {
				return nil // the earlier attempt did it
			}
		}
		return err
	})
}

// SetMembers says where a store shall live, and returns when that is noted. Status shows how far it is.
func (c *Client) SetMembers(ctx context.Context, name string, voters, learners []string) error {
	return c.call(ctx, "set members of "+name, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) error {
		_, err := s.SetMembers(ctx, &clusterpb.SetMembersRequest{Name: name, Voters: voters, Learners: learners})
		return err
	})
}

// SetPreferred says which nodes shall lead a store, the best first.
func (c *Client) SetPreferred(ctx context.Context, name string, preferred []string) error {
	return c.call(ctx, "set preferred leaders of "+name, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) error {
		_, err := s.SetPreferred(ctx, &clusterpb.SetPreferredRequest{Name: name, Preferred: preferred})
		return err
	})
}

// TransferLeader makes another member of a store lead: the node to, or the one that is furthest when it is
// empty. A preferred leader takes the lead again when it has caught up.
func (c *Client) TransferLeader(ctx context.Context, name, to string) error {
	return c.call(ctx, "transfer the lead of "+name, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) error {
		_, err := s.TransferLeader(ctx, &clusterpb.TransferLeaderRequest{Name: name, To: to})
		return err
	})
}

// SetLearner says whether a node never votes.
func (c *Client) SetLearner(ctx context.Context, node string, learner bool) error {
	return c.call(ctx, "change node "+node, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) error {
		_, err := s.SetLearner(ctx, &clusterpb.SetLearnerRequest{Node: node, Learner: learner})
		return err
	})
}

// RemoveNode begins to take a node out of every store; when that is done, its certificate is refused. With
// force it is refused at once.
func (c *Client) RemoveNode(ctx context.Context, node string, force bool) error {
	return c.call(ctx, "remove node "+node, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) error {
		_, err := s.RemoveNode(ctx, &clusterpb.RemoveNodeRequest{Node: node, Force: force})
		return err
	})
}

// ReplaceNode puts node by in the place of node, in every store, and removes node.
func (c *Client) ReplaceNode(ctx context.Context, node, by string) error {
	return c.call(ctx, "replace node "+node, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) error {
		_, err := s.ReplaceNode(ctx, &clusterpb.ReplaceNodeRequest{Node: node, By: by})
		return err
	})
}

// TokenOptions of NewToken.
type TokenOptions struct {
	TTL     time.Duration // one hour when 0
	Uses    int           // how many nodes may join with it; one when 0
	Learner bool          // whoever joins with it never votes
}

// NewToken makes a token with which new nodes join.
func (c *Client) NewToken(ctx context.Context, o TokenOptions) (string, error) {
	var out *clusterpb.NewTokenResponse
	err := c.call(ctx, "new token", func(ctx context.Context, s clusterpb.ClusterClient, _ bool) (err error) {
		out, err = s.NewToken(ctx, &clusterpb.NewTokenRequest{TtlMs: o.TTL.Milliseconds(), Uses: uint32(o.Uses), Learner: o.Learner})
		return err
	})
	return out.GetToken(), err
}
