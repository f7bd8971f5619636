// Package sessiontest runs a cluster inside a test, for tests of sessions and of what stands on them: members
// over a network in memory, each with its gRPC server on the loopback. Members can be stopped, cut off from
// each other and from clients.
package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/kv/kvsession"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// Patience bounds a wait for a condition. It is only reached when something hangs.
const Patience = 3 * time.Minute

const heartbeat = 500 * time.Millisecond

// Rig is a cluster in this process: members over a network in memory, each with its gRPC server.
type Rig struct {
	t       testing.TB
	dir     string
	servers []raft.Server
	nodes   []*node
}

// node is one member. Its parts are nil while it is down.
type node struct {
	id     string
	net    *raft.InmemTransport
	member *raftkv.Store
	addr   string
	front  *front
	rpc    *kvrpc.Server
	grpc   *grpc.Server
	served chan struct{}
}

// front is a member's listener for clients, which can be cut off.
type front struct {
	net.Listener
	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func (f *front) Accept() (net.Conn, error) {
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		f.mu.Lock()
		if f.cut {
			f.mu.Unlock()
			c.Close()
			continue
		}
		f.conns[c] = true
		f.mu.Unlock()
		return c, nil
	}
}

// isolate breaks the clients' connections and lets no new ones through.
func (f *front) isolate(yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = yes
	if yes {
		for c := range f.conns {
			c.Close()
		}
		clear(f.conns)
	}
}

// MemDir is a directory in memory, for tests of which no power failure is a part.
func MemDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kvsession")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// New starts a cluster of n members; one alone has no network.
func New(t testing.TB, n int) *Rig {
	t.Helper()
	r := &Rig{t: t, dir: MemDir(t)}
	for i := range n {
		id := fmt.Sprint("m", i)
		r.servers = append(r.servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
		r.nodes = append(r.nodes, &node{id: id, addr: "127.0.0.1:0"})
	}
	for i := range n {
		r.Start(i)
	}
	t.Cleanup(func() {
		for i := range r.nodes {
			r.Stop(i)
		}
	})
	return r
}

// Start starts a member that was stopped.
func (r *Rig) Start(i int) {
	r.t.Helper()
	n := r.nodes[i]
	o := raftkv.Options{Dir: filepath.Join(r.dir, n.id), ID: n.id, HeartbeatTimeout: heartbeat}
	if len(r.nodes) > 1 {
		_, n.net = raft.NewInmemTransportWithTimeout(raft.ServerAddress(n.id), time.Second)
		o.Transport, o.Bootstrap = n.net, r.servers
		r.Connect(i, true)
	}
	var err error
	if n.member, err = raftkv.Open(context.Background(), o); err != nil {
		r.t.Fatal(err)
	}
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	n.addr = l.Addr().String()
	n.front = &front{Listener: l, conns: map[net.Conn]bool{}}
	r.serve(n)
}

// serve puts the member of a node behind gRPC.
func (r *Rig) serve(n *node) {
	member := n.member
	n.rpc = kvrpc.NewServer(kvrpc.ServerOptions{
		Stores: func(name string) (kvrpc.Member, error) {
			if name != "s" {
				return nil, kv.ErrNoStore
			}
			return member, nil
		},
		Addr: r.addr,
	})
	n.grpc = grpc.NewServer(n.rpc.GRPCOptions()...)
	n.rpc.Register(n.grpc)
	n.served = make(chan struct{})
	g, f, served := n.grpc, n.front, n.served
	go func() {
		defer close(served)
		_ = g.Serve(f)
	}()
}

func (r *Rig) addr(id string) string {
	for _, n := range r.nodes {
		if n.id == id {
			return n.addr
		}
	}
	return ""
}

// Connect joins or cuts the network between member i and the others.
func (r *Rig) Connect(i int, yes bool) {
	a := r.nodes[i]
	for j, b := range r.nodes {
		if i == j || a.net == nil || b.net == nil {
			continue
		}
		if yes {
			a.net.Connect(raft.ServerAddress(b.id), b.net)
			b.net.Connect(raft.ServerAddress(a.id), a.net)
		} else {
			a.net.Disconnect(raft.ServerAddress(b.id))
			b.net.Disconnect(raft.ServerAddress(a.id))
		}
	}
}

// Stop ends a member, as a process that is told to.
func (r *Rig) Stop(i int) {
	n := r.nodes[i]
	if n.member == nil {
		return
	}
	r.Connect(i, false)
	n.front.isolate(true)
	n.grpc.Stop()
	n.rpc.Close()
	<-n.served
	if err := n.member.Close(); err != nil && !Unavailable(err) {
		r.t.Errorf("close member %d: %v", i, err)
	}
	n.member, n.net = nil, nil
}

// Unavailable is how a member that loses its leadership fails.
func Unavailable(err error) bool {
	var not *kv.NotLeaderError
	return errors.As(err, &not) || errors.Is(err, kv.ErrUnknownOutcome) || errors.Is(err, kv.ErrClosed)
}

// Wait polls a condition that nothing announces.
func Wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// Member returns the store of a member, nil while it is stopped.
func (r *Rig) Member(i int) *raftkv.Store { return r.nodes[i].member }

// Isolate breaks a member's connections to clients and lets no new ones through, or lets them again.
func (r *Rig) Isolate(i int, yes bool) { r.nodes[i].front.isolate(yes) }

// Leader waits for a member that leads.
func (r *Rig) Leader() int {
	r.t.Helper()
	found := -1
	Wait(r.t, "for a leader", func() bool {
		for i, n := range r.nodes {
			if n.member != nil && n.member.Stats().Leads {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

// Tap is a client's way to all members, which can be cut.
type Tap struct {
	mu    sync.Mutex
	off   bool
	conns map[net.Conn]bool
}

func (p *Tap) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		c.Close()
		return nil, errors.New("cut off")
	}
	p.conns[c] = true
	return c, nil
}

// Cut breaks the connections and lets no new ones through, or lets them again.
func (p *Tap) Cut(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = yes
	if yes {
		for c := range p.conns {
			c.Close()
		}
		clear(p.conns)
	}
}

// Client returns a client of all members. It is closed with the test.
func (r *Rig) Client() *kvrpc.Client { return r.clientOver(nil) }

func (r *Rig) clientOver(p *Tap) *kvrpc.Client {
	r.t.Helper()
	o := kvrpc.ClientOptions{}
	for _, n := range r.nodes {
		o.Addrs = append(o.Addrs, n.addr)
	}
	if p != nil {
		o.DialContext = p.dial
	}
	c, err := kvrpc.Dial(context.Background(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Session opens a session of owner "o", or of whom the options name. The test closes it, or the cleanup.
func (r *Rig) Session(o kvsession.Options) *kvsession.Session {
	r.t.Helper()
	s, err := r.Open(o)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// Tapped opens a session over a line of its own.
func (r *Rig) Tapped(o kvsession.Options) (*kvsession.Session, *Tap) {
	r.t.Helper()
	p := &Tap{conns: map[net.Conn]bool{}}
	s, err := r.openOver(r.clientOver(p), o)
	if err != nil {
		r.t.Fatal(err)
	}
	return s, p
}

// Open is Session, for one that may be refused.
func (r *Rig) Open(o kvsession.Options) (*kvsession.Session, error) { return r.openOver(r.Client(), o) }

func (r *Rig) openOver(c *kvrpc.Client, o kvsession.Options) (*kvsession.Session, error) {
	r.t.Helper()
	if o.Owner == "" {
		o.Owner = "o"
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	s, err := kvsession.Open(ctx, c, "s", o)
	if err == nil {
		r.t.Cleanup(func() {
			if err := s.Close(); err != nil && !errors.Is(err, kv.ErrClosed) && !errors.Is(err, kv.ErrFenced) {
				r.t.Errorf("close the session: %v", err)
			}
		})
	}
	return s, err
}
