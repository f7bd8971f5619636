package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// wire is a member's TCP endpoint, which can be cut off from all others.
type wire struct {
	net.Listener
	cut   atomic.Bool
	mu    sync.Mutex
	conns map[net.Conn]bool
}

func listen(t *testing.T, addr string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return &wire{Listener: l, conns: map[net.Conn]bool{}}
}

type wireConn struct {
	net.Conn
	w *wire
}

func (c wireConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.conns, c.Conn)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

func (w *wire) keep(c net.Conn) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut.Load() {
		c.Close()
		return nil, errors.New("cut off")
	}
	w.conns[c] = true
	return wireConn{c, w}, nil
}

func (w *wire) Accept() (net.Conn, error) {
	for {
		c, err := w.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if k, err := w.keep(c); err == nil {
			return k, nil
		}
	}
}

func (w *wire) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if w.cut.Load() {
		return nil, errors.New("cut off")
	}
	c, err := net.DialTimeout("tcp", string(addr), timeout)
	if err != nil {
		return nil, err
	}
	return w.keep(c)
}

// Close also closes the connections that others opened, which raft's transport leaves to them.
func (w *wire) Close() error {
	w.isolate(true)
	return w.Listener.Close()
}

func (w *wire) isolate(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut.Store(yes)
	if yes {
		for c := range w.conns {
			c.Close()
		}
		clear(w.conns)
	}
}

type cluster struct {
	t       *testing.T
	dir     string
	servers []raft.Server
	wires   []*wire
	members []*raftkv.Store // nil while stopped
	tune    func(i int, o *raftkv.Options)
}

const heartbeat = 200 * time.Millisecond

func startCluster(t *testing.T, n int) *cluster {
	return startTuned(t, n, func(int, *raftkv.Options) {})
}

// startTuned starts members whose options tune has changed.
func startTuned(t *testing.T, n int, tune func(i int, o *raftkv.Options)) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), wires: make([]*wire, n), members: make([]*raftkv.Store, n), tune: tune}
	for i := range n {
		c.wires[i] = listen(t, "127.0.0.1:0")
		c.servers = append(c.servers, raft.Server{
			ID: raft.ServerID(fmt.Sprint("m", i)), Address: raft.ServerAddress(c.wires[i].Addr().String())})
	}
	for i := range n {
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.stop(i)
		}
	})
	return c
}

func (c *cluster) start(i int) {
	c.t.Helper()
	if c.wires[i] == nil {
		c.wires[i] = listen(c.t, string(c.servers[i].Address))
	}
	o := raftkv.Options{
		Dir:              filepath.Join(c.dir, string(c.servers[i].ID)),
		ID:               string(c.servers[i].ID),
		Transport:        raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: c.wires[i], MaxPool: 2, Timeout: 2 * time.Second, Logger: hclog.NewNullLogger()}),
		Bootstrap:        c.servers,
		FlushBytes:       100 << 10,
		SegmentBytes:     64 << 10,
		MinLog:           1,
		HeartbeatTimeout: heartbeat,
	}
	c.tune(i, &o)
	c.members[i] = open(c.t, o)
}

func (c *cluster) stop(i int) {
	if s := c.members[i]; s != nil {
		c.members[i] = nil
		if err := s.Close(); err != nil && !isUnavailable(err) {
			c.t.Errorf("close: %v", err)
		}
		c.wires[i] = nil
	}
}

// isUnavailable is an error that a client answers by looking for another leader.
func isUnavailable(err error) bool {
	var not *kv.NotLeaderError
	return errors.As(err, &not) || errors.Is(err, kv.ErrUnknownOutcome) || errors.Is(err, kv.ErrClosed)
}

// wait polls a condition that nothing announces.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// leader waits for a member that leads and is not excluded.
func (c *cluster) leader(except ...int) (int, *raftkv.Store) {
	c.t.Helper()
	found := -1
	wait(c.t, "for a leader", func() bool {
		for i, s := range c.members {
			skip := s == nil
			for _, e := range except {
				skip = skip || e == i
			}
			if !skip && s.Stats().Leads {
				found = i
				return true
			}
		}
		return false
	})
	return found, c.members[found]
}

// must returns whoever leads.
func (c *cluster) must() *raftkv.Store {
	_, lead := c.leader()
	return lead
}

// converge waits until all running members have applied what the leader has, and compares them.
func (c *cluster) converge() {
	c.t.Helper()
	_, lead := c.leader()
	for {
		err := lead.Sync(context.Background())
		if err == nil {
			break
		}
		if !isUnavailable(err) {
			c.t.Fatal(err)
		}
		_, lead = c.leader()
	}
	index := lead.Stats().AppliedIndex
	want := dump(c.t, lead)
	for i, s := range c.members {
		if s == nil {
			continue
		}
		wait(c.t, "for a member to catch up", func() bool { return s.Stats().AppliedIndex >= index })
		if got := dump(c.t, s); got != want {
			c.t.Errorf("member %d differs from the leader:\n%s\nwant\n%s", i, got, want)
		}
	}
}

func dump(t testing.TB, s kv.Store) string {
	t.Helper()
	var b strings.Builder
	if err := s.View(context.Background(), kv.Stale, func(r kv.Reader) error {
		for _, ks := range []kv.Keyspace{"seq", "data", "a"} {
			fmt.Fprintf(&b, "%s:", ks)
			if err := r.Range(ks, kv.Range{}, func(k, v []byte) bool {
				fmt.Fprintf(&b, " %x=%d/%x", k, len(v), v[:min(len(v), 8)])
				return true
			}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func steps(t testing.TB, s kv.Store, n int) {
	t.Helper()
	for i := range n {
		if _, err := crashStep(s, kv.Commit(min(i%10, 1))); err != nil {
			t.Fatal(err)
		}
	}
}

// steps runs the workload on whoever leads; an election in between is not an error.
func (c *cluster) steps(n int) {
	c.t.Helper()
	c.commit(n, func(i int) kv.Commit { return kv.Commit(min(i%10, 1)) })
}

// durably is steps that an election cannot take back.
func (c *cluster) durably(n int) {
	c.t.Helper()
	c.commit(n, func(int) kv.Commit { return kv.Durable })
}

func (c *cluster) commit(n int, strength func(i int) kv.Commit) {
	c.t.Helper()
	for i := 0; i < n; {
		_, err := crashStep(c.must(), strength(i))
		if err != nil && !isUnavailable(err) {
			c.t.Fatal(err)
		}
		if err == nil {
			i++
		}
	}
}

// picture checks what the leader shows.
func (c *cluster) picture() uint64 {
	c.t.Helper()
	for {
		n, err := lookAt(c.must())
		if err == nil {
			return n
		}
		if !isUnavailable(err) {
			c.t.Fatal(err)
		}
	}
}

func put(s kv.Store, c kv.Commit, k, v string) error {
	return s.Update(context.Background(), c, func(tx kv.Txn) error { tx.Put("a", []byte(k), []byte(v)); return nil })
}

// TestThreeMembers: replication, a follower that missed more than the log still has, and a leader that
// goes away.
func TestThreeMembers(t *testing.T) {
	c := startCluster(t, 3)
	c.steps(150)
	c.converge()

	i, _ := c.leader()
	follower := (i + 1) % 3
	var not *kv.NotLeaderError
	for _, l := range []kv.Level{kv.Linearizable, kv.Pending} {
		err := c.members[follower].View(context.Background(), l, func(kv.Reader) error { return nil })
		if !errors.As(err, &not) || not.Leader != string(c.servers[i].Address) {
			t.Errorf("view of level %d at a follower: %v", l, err)
		}
	}
	if err := put(c.members[follower], kv.Ordered, "k", "v"); !errors.As(err, &not) {
		t.Errorf("update at a follower: %v", err)
	}

	// The follower is away while the log is truncated behind it: it gets the state file.
	c.stop(follower)
	_, lead := c.leader()
	before := lead.Stats().AppliedIndex
	for lead.Stats().StateIndex < before+10 {
		c.steps(100)
		_, lead = c.leader()
	}
	c.start(follower)
	c.converge()
	if n := c.members[follower].Stats().Restores; n == 0 {
		t.Error("the follower caught up without a snapshot")
	}
	// What it received is durable, and goes on from the log.
	c.steps(20)
	c.stop(follower)
	c.steps(20)
	c.start(follower)
	c.converge()

	i, _ = c.leader()
	c.stop(i)
	if n := c.picture(); n < 190 {
		t.Errorf("the new leader shows %d transactions", n)
	}
	c.steps(50)
	c.start(i)
	c.converge()

	wait(t, "for a transfer of the leadership", func() bool { // raft gives up after an election timeout
		return c.must().TransferLeadership(context.Background()) == nil
	})
	c.steps(50)
	c.converge()
}

// TestIsolatedLeader: a leader that lost touch acknowledges nothing it cannot keep, answers no
// linearizable read, and gives up what it had sequenced.
func TestIsolatedLeader(t *testing.T) {
	c := startCluster(t, 3)
	c.steps(30)
	c.converge()
	i, old := c.leader()

	epoch := old.Epoch()
	c.wires[i].isolate(true)
	ordered := put(old, kv.Ordered, "lost", "x") // may still be accepted
	durable := put(old, kv.Durable, "lost too", "x")
	if !isUnavailable(durable) {
		t.Errorf("a durable update without a quorum: %v", durable)
	}
	if ordered == nil {
		if err := old.Sync(context.Background()); !errors.Is(err, kv.ErrUnknownOutcome) {
			t.Errorf("sync after acknowledged updates were lost: %v", err)
		}
	}
	if err := old.SyncSince(context.Background(), epoch); !errors.Is(err, kv.ErrUnknownOutcome) {
		t.Errorf("sync of a session of the lost leadership: %v", err)
	}
	if err := old.View(context.Background(), kv.Linearizable, func(kv.Reader) error { return nil }); !isUnavailable(err) {
		t.Errorf("a linearizable read without a quorum: %v", err)
	}
	if err := old.View(context.Background(), kv.Stale, func(r kv.Reader) error {
		if v, err := get(r, "lost"); v != "" {
			t.Errorf("a stale read shows %q, %v, which was never committed", v, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	wait(t, "for an update", func() bool {
		_, lead := c.leader(i)
		return put(lead, kv.Durable, "kept", "y") == nil
	})
	c.wires[i].isolate(false)
	c.converge()
	for _, s := range c.members {
		if err := s.View(context.Background(), kv.Stale, func(r kv.Reader) error {
			for k, want := range map[string]string{"lost": "", "lost too": "", "kept": "y"} {
				if v, _ := get(r, k); v != want {
					t.Errorf("%s is %q, want %q", k, v, want)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

func get(r kv.Reader, k string) (string, error) {
	v, err := r.Get("a", []byte(k))
	return string(v), err
}

// TestGrow: a store that began alone becomes three members.
func TestGrow(t *testing.T) {
	dir := t.TempDir()
	s := open(t, raftkv.Options{Dir: filepath.Join(dir, "0"), ID: "m0"})
	steps(t, s, 20)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, wires: make([]*wire, 3), members: make([]*raftkv.Store, 3)}
	t.Cleanup(func() {
		for i := range c.members {
			c.stop(i)
		}
	})
	for i := range 3 {
		c.wires[i] = listen(t, "127.0.0.1:0")
		c.servers = append(c.servers, raft.Server{ID: raft.ServerID(fmt.Sprint("m", i)), Address: raft.ServerAddress(c.wires[i].Addr().String())})
		trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: c.wires[i], MaxPool: 2, Timeout: 2 * time.Second, Logger: hclog.NewNullLogger()})
		c.members[i] = open(t, raftkv.Options{
			Dir: filepath.Join(dir, fmt.Sprint(i)), ID: fmt.Sprint("m", i), Transport: trans, Join: true, HeartbeatTimeout: heartbeat,
		})
	}
	_, lead := c.leader()
	for i := range 3 { // its own address first
		wait(t, "for the new member", func() bool {
			_, lead = c.leader()
			return lead.AddVoter(context.Background(), string(c.servers[i].ID), string(c.servers[i].Address)) == nil
		})
		c.durably(20)
	}
	c.converge()
	if n := len(lead.Members()); n != 3 {
		t.Errorf("%d members", n)
	}
	c.stop(0)
	c.durably(20)
	if n := c.picture(); n < 100 {
		t.Errorf("%d transactions, want 100", n)
	}
}
