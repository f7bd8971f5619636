package kvrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is raft's TCP endpoint of a member. Closing it closes the connections that others have opened,
// which raft's transport leaves to them.
type wire struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
	over  bool
}

func (w *wire) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(addr), timeout)
}

func (w *wire) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		_ = c.Close()
	}
	w.conns[c] = true
	return c, nil
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	for c := range w.conns {
		_ = c.Close()
	}
	return w.Listener.Close()
}

// node is one member with its server.
type node struct {
	id       string
	raftAddr string
	rpcAddr  string
	raftL    net.Listener // listening already, or nil
	rpcL     net.Listener
	store    *raftkv.Store
	member   Member // what the server is given, store unless a test wraps it
	server   *Server
	grpc     *grpc.Server
	done     chan struct{}
	held     []net.Listener // its addresses while it is stopped
	holders  sync.WaitGroup
}

// hold keeps the addresses of a stopped node from being given to another process, whose members would
// be taken for ours. Who connects is sent away.
func (n *node) hold(t testing.TB) {
	for _, addr := range []string{n.raftAddr, n.rpcAddr} {
		l := listenAt(t, addr)
		n.held = append(n.held, l)
		n.holders.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		})
	}
}

func (n *node) release() {
	for _, l := range n.held {
		_ = l.Close()
	}
	n.held = nil
	n.holders.Wait()
}

// group is a store on several members in this process, over real TCP.
type group struct {
	t     testing.TB
	dir   string
	o     groupOptions
	mu    sync.Mutex
	nodes []*node
}

type groupOptions struct {
	members    int
	heartbeat  time.Duration
	wrap       func(i int, s *raftkv.Store) Member
	procedures map[string]Procedure
	server     func(*ServerOptions)
	raft       func(*raftkv.Options)
}

const testStore = "s"

func startGroup(t testing.TB, o groupOptions) *group {
	t.Helper()
	if o.members == 0 {
		o.members = 3
	}
	if o.heartbeat == 0 {
		o.heartbeat = 300 * time.Millisecond
	}
	g := &group{t: t, dir: t.TempDir(), o: o}
	for i := range o.members {
		a, b := listenAt(t, "127.0.0.1:0"), listenAt(t, "127.0.0.1:0")
		g.nodes = append(g.nodes, &node{id: fmt.Sprint("m", i), raftL: a, rpcL: b, raftAddr: a.Addr().String(), rpcAddr: b.Addr().String()})
	}
	t.Cleanup(g.close)
	for i := range g.nodes {
		g.start(i)
	}
	return g
}

func listenAt(t testing.TB, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	eventually(t, "listen at "+addr, func() bool {
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	return l
}

func (g *group) servers() (out []raft.Server) {
	for _, n := range g.nodes {
		out = append(out, raft.Server{ID: raft.ServerID(n.id), Address: raft.ServerAddress(n.raftAddr)})
	}
	return out
}

// address finds a node by its raft address, which is what raftkv tells of the leader.
func (g *group) address(id string) string {
	for _, n := range g.nodes {
		if n.raftAddr == id || n.id == id {
			return n.rpcAddr
		}
	}
	return ""
}

func (g *group) start(i int) {
	g.t.Helper()
	n := g.nodes[i]
	raftL, rpcL := n.raftL, n.rpcL
	if n.raftL, n.rpcL = nil, nil; raftL == nil { // again, where the others expect it
		n.release()
		raftL, rpcL = listenAt(g.t, n.raftAddr), listenAt(g.t, n.rpcAddr)
	}
	ro := raftkv.Options{
		Dir: filepath.Join(g.dir, n.id), ID: n.id, Bootstrap: g.servers(), HeartbeatTimeout: g.o.heartbeat,
		Transport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: &wire{Listener: raftL, conns: map[net.Conn]bool{}}, MaxPool: 2, Timeout: 2 * time.Second, Logger: hclog.NewNullLogger()}),
	}
	if g.o.raft != nil {
		g.o.raft(&ro)
	}
	s, err := raftkv.Open(context.Background(), ro)
	if err != nil {
		g.t.Fatal(err)
	}
	var m Member = s
	if g.o.wrap != nil {
		m = g.o.wrap(i, s)
	}
	so := ServerOptions{
		NodeID: n.id, Addr: g.address, Procedures: g.o.procedures,
		Stores: func(name string) (Member, error) {
			if name != testStore {
				return nil, kv.ErrNoStore
			}
			return m, nil
		},
	}
	if g.o.server != nil {
		g.o.server(&so)
	}
	srv := NewServer(so)
	gs := grpc.NewServer(srv.GRPCOptions()...)
	srv.Register(gs)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = gs.Serve(rpcL)
	}()
	g.mu.Lock()
	n.store, n.member, n.server, n.grpc, n.done = s, m, srv, gs, done
	g.mu.Unlock()
}

// stop ends a node: its clients are cut off, then the member stops.
func (g *group) stop(i int) {
	g.mu.Lock()
	n := g.nodes[i]
	s, srv, gs, done := n.store, n.server, n.grpc, n.done
	n.store = nil
	g.mu.Unlock()
	if s == nil {
		return
	}
	gs.Stop()
	<-done
	srv.Close()
	if err := s.Close(); err != nil {
		var not *kv.NotLeaderError
		if !errors.As(err, &not) && !errors.Is(err, kv.ErrUnknownOutcome) && !errors.Is(err, kv.ErrClosed) {
			g.t.Errorf("close: %v", err)
		}
	}
	n.hold(g.t)
}

func (g *group) close() {
	for i := range g.nodes {
		g.stop(i)
	}
	for _, n := range g.nodes {
		n.release()
	}
}

func (g *group) addrs() (out []string) {
	for _, n := range g.nodes {
		out = append(out, n.rpcAddr)
	}
	return out
}

func (g *group) client(o ClientOptions) *Client {
	g.t.Helper()
	if o.Addrs == nil {
		o.Addrs = g.addrs()
	}
	c, err := Dial(context.Background(), o)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// leader waits for a member that leads.
func (g *group) leader() int {
	g.t.Helper()
	found := -1
	eventually(g.t, "for a leader", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		for i, n := range g.nodes {
			if n.store != nil && n.store.Epoch() != 0 {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

// eventually polls a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
