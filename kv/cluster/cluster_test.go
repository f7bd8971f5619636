package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/raftkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 3 * time.Minute

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// wait polls a condition that nothing announces.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// testLog writes to the test's log, until the test is over.
type testLog struct {
	t     testing.TB
	mu    sync.Mutex
	over  bool
	lines []string
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.t.Logf("%s", b[:len(b)-1])
		l.lines = append(l.lines, string(b))
	}
	return len(b), nil
}

// town is a cluster in this process.
type town struct {
	t         testing.TB
	heartbeat time.Duration
	edit      func(id string, o *cluster.Options) // or nil
	dir       string
	log       *slog.Logger
	lines     *testLog
	nodes     map[string]*cluster.Node // that run
}

func newTown(t testing.TB) *town {
	l := &testLog{t: t}
	c := &town{
		t: t, heartbeat: time.Second, dir: t.TempDir(), lines: l, nodes: map[string]*cluster.Node{},
		log: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	t.Cleanup(func() {
		for id := range c.nodes {
			c.kill(id)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.over = true
	})
	return c
}

// logged reports whether some node has logged a line with all of these in it.
func (c *town) logged(parts ...string) bool {
	c.lines.mu.Lock()
	defer c.lines.mu.Unlock()
	return slices.ContainsFunc(c.lines.lines, func(line string) bool {
		return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) })
	})
}

func (c *town) path(id string) string { return filepath.Join(c.dir, id) }

func (c *town) options(id string) cluster.Options {
	o := cluster.Options{
		Dir: c.path(id), Listen: "127.0.0.1:0", Logger: c.log, HeartbeatTimeout: c.heartbeat,
		Tune: func(_ string, o *raftkv.Options) { o.FlushBytes, o.SegmentBytes = 256<<10, 256<<10 },
	}
	if c.edit != nil {
		c.edit(id, &o)
	}
	return o
}

// start runs a node that was initialised or has joined.
func (c *town) start(id string) *cluster.Node {
	c.t.Helper()
	n, err := cluster.Open(within(c.t), c.options(id))
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[id] = n
	return n
}

func (c *town) kill(id string) {
	c.t.Helper()
	n := c.nodes[id]
	delete(c.nodes, id)
	if err := n.Kill(); err != nil {
		c.t.Errorf("kill %s: %v", id, err)
	}
}

// found makes the first node.
func (c *town) found(id string) *cluster.Node {
	c.t.Helper()
	if err := cluster.Init(within(c.t), cluster.InitOptions{Dir: c.path(id), ID: id, Logger: c.log}); err != nil {
		c.t.Fatal(err)
	}
	n := c.start(id)
	if err := n.WaitReady(within(c.t)); err != nil {
		c.t.Fatal(err)
	}
	return n
}

func (c *town) token(o cluster.TokenOptions) string {
	c.t.Helper()
	token, err := c.admin().NewToken(within(c.t), o)
	if err != nil {
		c.t.Fatal(err)
	}
	return token
}

// join adds a node.
func (c *town) join(id string) *cluster.Node {
	c.t.Helper()
	if err := cluster.Join(within(c.t), cluster.JoinOptions{Dir: c.path(id), ID: id, Token: c.token(cluster.TokenOptions{}), Logger: c.log}); err != nil {
		c.t.Fatal(err)
	}
	n := c.start(id)
	if err := n.WaitReady(within(c.t)); err != nil {
		c.t.Fatal(err)
	}
	return n
}

func (c *town) admin() *cluster.Client {
	for _, n := range c.nodes {
		return n.Admin()
	}
	c.t.Fatal("no node runs")
	return nil
}

// startTown makes a cluster of nodes a, b, c...
func startTown(t testing.TB, size int) *town {
	t.Helper()
	c := newTown(t)
	c.grow(size)
	return c
}

func (c *town) grow(size int) {
	c.t.Helper()
	c.found("a")
	for i := 1; i < size; i++ {
		c.join(string(rune('a' + i)))
	}
	// A store that is created now begins with all of them.
	wait(c.t, "the nodes vote in the directory", func() bool {
		votes := 0
		for _, s := range c.status().Stores {
			if s.Store.Name != cluster.Directory {
				continue
			}
			for _, m := range s.Members {
				if m.Voter {
					votes++
				}
			}
		}
		return votes == map[int]int{1: 1, 2: 2, 3: 3, 4: 3, 5: 5}[size]
	})
}

func (c *town) create(name string, voters ...string) {
	c.t.Helper()
	if _, err := c.admin().CreateStore(within(c.t), &clusterpb.CreateStoreRequest{Name: name, Voters: voters}); err != nil {
		c.t.Fatal(err)
	}
}

// leader returns who leads a store.
func (c *town) leader(store string) (id string, s *raftkv.Store) {
	c.t.Helper()
	wait(c.t, "a leader of "+store, func() bool {
		for id, n := range c.nodes {
			m, err := n.Member(store)
			if err == nil && m.Stats().Leads {
				_, s = id, m
				return true
			}
		}
		return false
	})
	for n, x := range c.nodes {
		if m, err := x.Member(store); err == nil && m == s {
			id = n
		}
	}
	return id, s
}

// put writes a key, at whoever leads.
func (c *town) put(store, key, value string) {
	c.t.Helper()
	for {
		_, s := c.leader(store)
		err := s.Update(within(c.t), kv.Durable, func(tx kv.Txn) error { tx.Put("k", []byte(key), []byte(value)); return nil })
		var not *kv.NotLeaderError
		switch {
		case err == nil:
			return
		case errors.As(err, &not), errors.Is(err, kv.ErrUnknownOutcome), errors.Is(err, kv.ErrClosed), errors.Is(err, kv.ErrNoQuorum):
		default:
			c.t.Fatal(err)
		}
	}
}

// shows waits until a node's own copy has the value.
func (c *town) shows(id, store, key, value string) {
	c.t.Helper()
	wait(c.t, fmt.Sprintf("%s shows %s=%s of %s", id, key, value, store), func() bool {
		m, err := c.nodes[id].Member(store)
		if err != nil {
			return false
		}
		var got string
		err = m.View(context.Background(), kv.Stale, func(r kv.Reader) error {
			v, err := r.Get("k", []byte(key))
			got = string(v)
			return err
		})
		return err == nil && got == value
	})
}

func (c *town) status() *clusterpb.StatusResponse {
	c.t.Helper()
	st, err := c.admin().Status(within(c.t))
	if err != nil {
		c.t.Fatal(err)
	}
	return st
}

// members waits until a store has exactly these voters and learners.
func (c *town) members(store string, voters, learners []string) {
	c.t.Helper()
	want := fmt.Sprint(voters, learners)
	got := ""
	for end := time.Now().Add(patience); got != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("store %s has voters and learners %s, want %s", store, got, want)
		}
		for _, s := range c.status().Stores {
			if s.Store.Name != store || s.Leader == "" {
				continue
			}
			v, l := []string{}, []string{}
			for _, m := range s.Members {
				if m.Voter {
					v = append(v, m.Node)
				} else {
					l = append(l, m.Node)
				}
			}
			got = fmt.Sprint(v, l)
		}
	}
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.members(cluster.Directory, []string{"a", "b", "c"}, nil)
	c.create("s")
	c.put("s", "x", "1")
	for id := range c.nodes {
		c.shows(id, "s", "x", "1")
	}
	id, _ := c.leader("s")
	c.kill(id)
	c.put("s", "x", "2")
	c.start(id)
	c.shows(id, "s", "x", "2")
}
