package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// Node is a running node. Safe for concurrent use.
//
// Lock order: none of its locks is held while another one is taken, a call leaves the node, or a file is
// touched.
type Node struct {
	opts      Options
	log       *slog.Logger
	id        string
	creds     *identity.Credentials
	advertise string
	began     time.Time

	mux   *mux.Mux
	grpc  *grpc.Server
	kv    *kvrpc.Server
	peers *Client // as this node, to others

	ctx    context.Context // until Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	closed atomic.Bool

	image atomic.Pointer[image]
	book  *addressBook
	addrs []string      // that node.pem has; the goroutine follow's
	over  chan struct{} // closed when the node was removed

	mu      sync.Mutex
	changed chan struct{}      // closed and replaced with the image
	members map[string]*member // by raft ID
	left    map[string]uint64  // members that may go, by raft ID: index of the image when their leader agreed
	asking  map[string]bool    // whether they may
	err     error              // why the node is over
}

// Open runs the node that lives in o.Dir. It returns when the node listens and its copy of the directory
// is open, which may be without a quorum: WaitReady waits for more. ctx bounds Open, not the node.
func Open(ctx context.Context, o Options) (_ *Node, err error) {
	if o.Logger == nil {
		o.Logger = discard()
	}
	if o.HeartbeatTimeout == 0 {
		o.HeartbeatTimeout = time.Second
	}
	if o.SyncTimeout == 0 {
		o.SyncTimeout = 5 * time.Second
	}
	bundle, err := identity.ReadBundle(filepath.Join(o.Dir, nodeFile))
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if bundle.ID.Kind != identity.Node {
		return nil, fmt.Errorf("cluster: %s is the identity of %s, not of a node", filepath.Join(o.Dir, nodeFile), bundle.ID)
	}
	if o.Listener == nil {
		if o.Listener, err = net.Listen("tcp", o.Listen); err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
	}
	n := &Node{
		opts: o, log: o.Logger.With("node", bundle.ID.Name), id: bundle.ID.Name, creds: bundle.Credentials,
		advertise: o.Advertise, began: time.Now(),
		changed: make(chan struct{}), over: make(chan struct{}), members: map[string]*member{},
		left: map[string]uint64{}, asking: map[string]bool{}, addrs: bundle.Addrs,
	}
	if n.advertise == "" {
		n.advertise = o.Listener.Addr().String()
	}
	if err := identity.CheckAddr(n.advertise); err != nil {
		_ = o.Listener.Close()
		return nil, fmt.Errorf("cluster: %w", err)
	}
	n.image.Store(emptyImage)
	if n.book, err = openAddresses(o.Dir, n.id, n.advertise); err != nil {
		_ = o.Listener.Close()
		return nil, fmt.Errorf("cluster: %w", err)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.mux = mux.New(mux.Options{Listener: o.Listener, Logger: n.log})
	seeds := slices.Concat([]string{n.advertise}, o.Peers, bundle.Addrs)
	if n.peers, err = Dial(&identity.Bundle{Credentials: n.creds, Addrs: seeds}); err != nil {
		_ = o.Listener.Close()
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = n.shutdown()
		}
	}()
	n.serve()
	if err := n.openDirectory(ctx); err != nil {
		return nil, err
	}
	if !slices.Contains(bundle.Addrs, n.advertise) {
		// Commands that use this directory must find the node from now on.
		bundle.Addrs = append([]string{n.advertise}, bundle.Addrs...)
		n.addrs = bundle.Addrs[:min(len(bundle.Addrs), maxAddrs)]
		if err := identity.WriteBundle(filepath.Join(o.Dir, nodeFile), &identity.Bundle{Credentials: n.creds, Addrs: n.addrs}); err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
	}
	n.work.Go(n.follow)
	n.work.Go(n.host)
	n.work.Go(n.announce)
	return n, nil
}

// ID is the node's name, which never changes.
func (n *Node) ID() string { return n.id }

// ClusterID names the cluster.
func (n *Node) ClusterID() string { return n.creds.ID.Cluster }

// Addr is where the node listens.
func (n *Node) Addr() string { return n.mux.Addr().String() }

// Advertised is where others reach the node.
func (n *Node) Advertised() string { return n.advertise }

// Admin returns a client that speaks as this node. The node closes it.
func (n *Node) Admin() *Client { return n.peers }

// Bundle is what a client in this process needs to speak as this node.
func (n *Node) Bundle() *identity.Bundle {
	return &identity.Bundle{Credentials: n.creds, Addrs: n.knownAddrs()}
}

// Member returns this node's member of a store. Without one the error matches kv.ErrNoStore; when the
// member does not run it matches kv.ErrClosed and says why. A node that cannot tell yet, because the store
// is being created, or because its copy of the directory may be behind, returns a *kv.NotLeaderError: the
// caller asks another node, or again. The node closes the member.
func (n *Node) Member(store string) (*raftkv.Store, error) {
	im := n.image.Load()
	s := im.stores[store]
	switch {
	case n.removed(): // others know
		return nil, &kv.NotLeaderError{}
	case s != nil && ready(s):
		return n.member(store)
	case store == Directory:
	case s != nil, !n.upToDate(im):
		return nil, &kv.NotLeaderError{}
	}
	return nil, fmt.Errorf("%w: %q", kv.ErrNoStore, store)
}

// fresh is how old the directory may be for a node to say that a store does not exist.
const fresh = 2 * time.Second

// upToDate says whether an image shows all that a leader has lately said is in the directory.
func (n *Node) upToDate(im *image) bool {
	d, err := n.member(Directory)
	return err == nil && d.Age() < fresh && im.index >= d.AppliedIndex()
}

// member is Member for stores in any state, and for the directory.
func (n *Node) member(store string) (*raftkv.Store, error) {
	raftID := n.raftID(store)
	n.mu.Lock()
	m := n.members[raftID]
	n.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("%w: %q has no member on node %s", kv.ErrNoStore, store, n.id)
	}
	return m.running()
}

func (n *Node) raftID(store string) string {
	if store == Directory {
		return Directory
	}
	return n.image.Load().stores[store].GetRaftId()
}

// Done is closed when the node can be stopped because the cluster has removed it; Err says so.
func (n *Node) Done() <-chan struct{} { return n.over }

func (n *Node) removed() bool {
	select {
	case <-n.over:
		return true
	default:
		return false
	}
}

// Err returns nil until Done is closed.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// WaitReady waits until the node knows a leader of the directory, is known to the cluster at its address,
// and runs the members that it shall have.
func (n *Node) WaitReady(ctx context.Context) error {
	for {
		changed := n.imageChanged()
		missing := n.notReady()
		if missing == "" {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond): // what a member does announces itself to nobody
		case <-n.over:
			return n.Err()
		case <-n.ctx.Done():
			return fmt.Errorf("cluster: node %s: %w", n.id, kv.ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("cluster: node %s is not ready: %s: %w", n.id, missing, ctx.Err())
		}
	}
}

func (n *Node) notReady() string {
	im := n.image.Load()
	d, err := n.member(Directory)
	if err != nil {
		return err.Error()
	}
	if d.Stats().Leader == "" {
		return "the directory has no leader"
	}
	if row := im.nodes[n.id]; row == nil || row.Address != n.advertise {
		return "the directory does not know it yet"
	}
	config := n.directoryConfig()
	for name, s := range im.stores {
		if _, mine := im.wish(s, config)[n.id]; !mine {
			continue
		}
		if _, err := n.member(name); errors.Is(err, kv.ErrNoStore) {
			return "its member of " + name + " is not open"
		}
	}
	return ""
}

// imageChanged is closed when the image is replaced.
func (n *Node) imageChanged() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// setImage makes a new state of the directory known.
func (n *Node) setImage(im *image) {
	var rows []*clusterpb.Address
	for id, x := range im.nodes {
		if x.Address != "" {
			rows = append(rows, &clusterpb.Address{Id: id, Address: x.Address, Generation: x.Generation})
		}
	}
	n.learnAddresses(rows)
	n.image.Store(im)
	n.mu.Lock()
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	n.mux.Drop(func(c *mux.Conn) bool { return im.refused(c.Peer) != nil })
	if err := im.refused(n.creds.ID); err != nil {
		n.refused(err)
	}
}

// resolve returns the address of a node.
func (n *Node) resolve(id string) (string, error) {
	if id == n.id {
		return n.advertise, nil
	}
	a := n.book.get(id)
	if a == "" {
		return "", fmt.Errorf("cluster: the address of node %s is not known", id)
	}
	return a, nil
}

// address is resolve for those who can do without.
func (n *Node) address(id string) string {
	a, _ := n.resolve(id)
	return a
}

// Close hands leaderships over, then stops the node. Everything that was acknowledged is durable anyway.
func (n *Node) Close() error {
	if n.closed.Load() {
		return kv.ErrClosed
	}
	n.handOver()
	return n.Kill()
}

// Kill stops the node without a word to the others, as far as the process can: first the network, then
// the rest.
func (n *Node) Kill() error {
	if !n.closed.CompareAndSwap(false, true) {
		return kv.ErrClosed
	}
	return n.shutdown()
}

func (n *Node) shutdown() error {
	n.cancel()
	_ = n.mux.Close()
	if n.grpc != nil {
		n.kv.Close()
		n.grpc.Stop()
	}
	n.work.Wait() // nobody opens a member any more
	n.mu.Lock()
	members := slices.Collect(maps.Values(n.members))
	n.mu.Unlock()
	for _, m := range members { // those that this node dialled
		m.streams().cut()
	}
	errs := make([]error, len(members))
	var closing sync.WaitGroup
	for i, m := range members {
		closing.Go(func() { errs[i] = m.close() })
	}
	closing.Wait()
	return errors.Join(append(errs, n.peers.Close())...)
}
