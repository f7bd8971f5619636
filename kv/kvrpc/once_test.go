package kvrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// forgetful is a member that now and then does not know what became of writes that are durable, as after
// a crash between commit and answer.
type forgetful struct {
	*raftkv.Store
	active *atomic.Bool
	told   *atomic.Int64
}

func (m forgetful) SyncSince(ctx context.Context, epoch uint64) error {
	err := m.Store.SyncSince(ctx, epoch)
	if err == nil && m.active.Load() && rand.IntN(4) == 0 {
		m.told.Add(1)
		return kv.ErrUnknownOutcome
	}
	return err
}

// cutter closes connections of clients at random moments.
type cutter struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutter) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// logOp is an operation on a value that grows: it appends a token, or reads with an empty one.
type logOp struct {
	key   int
	token string
}

// appendModel: an append returns the value it made, a read the value. An output of nil is not known.
var appendModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[int][]porcupine.Operation{}
		for _, o := range history {
			parts[o.Input.(logOp).key] = append(parts[o.Input.(logOp).key], o)
		}
		var out [][]porcupine.Operation
		for _, p := range parts {
			out = append(out, p)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		after := state.(string) + input.(logOp).token
		return output == nil || output.(string) == after, after
	},
}

func appendProcedure(tx kv.Txn, args []byte) ([]byte, error) {
	key, token, _ := bytes.Cut(args, []byte("/"))
	v, err := tx.Get("log", key)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return nil, err
	}
	v = append(bytes.Clone(v), token...)
	tx.Put("log", bytes.Clone(key), v)
	return v, nil
}

// TestAppliedOnce: while answers get lost, connections break, leadership moves and a leader dies, every
// append that was acknowledged is there exactly once, every other at most once, and what all clients saw
// is linearizable.
func TestAppliedOnce(t *testing.T) {
	const keys = 4
	var active atomic.Bool
	var told atomic.Int64
	g := startGroup(t, groupOptions{
		procedures: map[string]Procedure{"append": appendProcedure},
		wrap:       func(_ int, s *raftkv.Store) Member { return forgetful{s, &active, &told} },
	})
	var lines cutter
	var mu sync.Mutex
	var history []porcupine.Operation
	acked := map[string]bool{}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	active.Store(true)

	stop := make(chan struct{})
	var workers sync.WaitGroup
	for n := range 6 {
		s := g.client(ClientOptions{DialContext: lines.dial}).Store(testStore)
		workers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				op := logOp{key: rand.IntN(keys)}
				if rand.IntN(4) > 0 {
					op.token = fmt.Sprintf("[%d.%d]", n, i)
				}
				call := time.Now().UnixNano()
				var out []byte
				var err error
				short, cancel := context.WithTimeout(ctx, time.Duration(5+rand.IntN(2000))*time.Millisecond)
				if op.token == "" {
					if out, err = s.Get(short, "log", fmt.Append(nil, op.key), ReadOptions{}); errors.Is(err, kv.ErrNotFound) {
						err = nil
					}
				} else {
					out, err = s.Call(short, kv.Durable, "append", fmt.Appendf(nil, "%d/%s", op.key, op.token))
				}
				cancel()
				o := porcupine.Operation{ClientId: n, Input: op, Call: call, Output: string(out), Return: time.Now().UnixNano()}
				if err != nil {
					if op.token == "" || !errors.Is(err, kv.ErrUnknownOutcome) {
						if !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("%+v: %v", op, err)
						}
						continue // it did nothing
					}
					o.Output, o.Return = nil, math.MaxInt64
				}
				mu.Lock()
				history = append(history, o)
				if err == nil && op.token != "" {
					acked[op.token] = true
				}
				mu.Unlock()
			}
		})
	}
	for i := range 24 {
		time.Sleep(60 * time.Millisecond)
		switch i % 6 {
		case 1, 3, 4:
			lines.cut()
		case 2:
			_ = g.nodes[g.leader()].store.TransferLeadership(ctx)
		case 5:
			if i == 11 {
				lead := g.leader()
				g.stop(lead)
				g.leader()
				g.start(lead)
			}
		}
	}
	eventually(t, "for an acknowledged append, and a member that forgets", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(acked) > 0 && told.Load() > 0
	})
	close(stop)
	workers.Wait()
	active.Store(false)

	s := g.client(ClientOptions{}).Store(testStore)
	counts := map[string]int{}
	for k := range keys {
		v, err := s.Get(ctx, "log", fmt.Append(nil, k), ReadOptions{})
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			t.Fatal(err)
		}
		for token := range strings.SplitAfterSeq(string(v), "]") {
			counts[token]++
		}
	}
	delete(counts, "")
	for token, n := range counts {
		if n > 1 {
			t.Errorf("%s was applied %d times", token, n)
		}
	}
	for token := range acked {
		if counts[token] == 0 {
			t.Errorf("%s was acknowledged and is not there", token)
		}
	}
	if r := porcupine.CheckOperationsTimeout(appendModel, history, 30*time.Second); r == porcupine.Illegal {
		t.Error("the history is not linearizable")
	} else if r == porcupine.Unknown {
		t.Log("the history was too long to be checked in time")
	}
	t.Logf("%d operations, %d appends acknowledged, %d applied, %d times a member forgot", len(history), len(acked), len(counts), told.Load())
}

// TestLeaderDies: clients go on when the leader dies, and lose nothing that was acknowledged.
func TestLeaderDies(t *testing.T) {
	g := startGroup(t, groupOptions{})
	s := g.client(ClientOptions{}).Store(testStore)
	ctx := testContext(t)
	var stop atomic.Bool
	var workers sync.WaitGroup
	var last [8]int
	for n := range last {
		workers.Go(func() {
			for i := 1; !stop.Load(); i++ {
				if err := s.Set(ctx, kv.Durable, "a", fmt.Append(nil, n), fmt.Append(nil, i)); err != nil {
					t.Error(err)
					return
				}
				last[n] = i
			}
		})
	}
	lead := g.leader()
	before := g.nodes[lead].store.AppliedIndex()
	eventually(t, "for writes", func() bool { return g.nodes[lead].store.AppliedIndex() > before+50 })
	g.stop(lead)
	next := g.leader()
	before = g.nodes[next].store.AppliedIndex()
	eventually(t, "for writes at the next leader", func() bool { return g.nodes[next].store.AppliedIndex() > before+50 })
	stop.Store(true)
	workers.Wait()
	for n := range last {
		v, err := s.Get(ctx, "a", fmt.Append(nil, n), ReadOptions{})
		if err != nil || string(v) != fmt.Sprint(last[n]) {
			t.Errorf("%d is %q, %v; want %d", n, v, err, last[n])
		}
	}
}

// TestOneAddress: a client that was given the address of one member, which leads and dies, goes on with the
// others.
func TestOneAddress(t *testing.T) {
	g := startGroup(t, groupOptions{})
	lead := g.leader()
	c := g.client(ClientOptions{Addrs: g.addrs()[lead : lead+1]})
	s := c.Store(testStore)
	ctx := testContext(t)
	if err := s.Set(ctx, kv.Durable, "a", []byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client to know all members", func() bool { return len(c.Addrs()) == 3 })
	g.stop(lead)
	if err := s.Set(ctx, kv.Durable, "a", []byte("k"), []byte("w")); err != nil {
		t.Error(err)
	}
}

// TestNoQuorum: without a quorum writes and reads fail within their deadline and say why.
func TestNoQuorum(t *testing.T) {
	g := startGroup(t, groupOptions{})
	s := g.client(ClientOptions{}).Store(testStore)
	ctx := testContext(t)
	if err := s.Set(ctx, kv.Durable, "a", []byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	lead := g.leader()
	for i := range g.nodes {
		if i != lead {
			g.stop(i)
		}
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	err := s.Set(short, kv.Durable, "a", []byte("k"), []byte("w"))
	if !errors.Is(err, kv.ErrNoQuorum) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write: %v", err)
	}
	short, cancel = context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := s.Get(short, "a", []byte("k"), ReadOptions{}); !errors.Is(err, kv.ErrNoQuorum) {
		t.Errorf("a linearizable read: %v", err)
	}
	var info ReadInfo
	eventually(t, "for a stale read", func() bool {
		_, err = s.Get(ctx, "a", []byte("k"), ReadOptions{Level: kv.Stale, Info: &info})
		return err == nil
	})
	short, cancel = context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	eventually(t, "for the age to grow", func() bool { return g.nodes[lead].store.Age() > 100*time.Millisecond })
	if _, err := s.Get(short, "a", []byte("k"), ReadOptions{Level: kv.Stale, MaxAge: time.Millisecond}); !errors.Is(err, ErrTooStale) {
		t.Errorf("a read of a limited age: %v", err)
	}
}

// TestWatchMoves: a watch goes on at another member when its own dies, with nothing lost and nothing
// twice.
func TestWatchMoves(t *testing.T) {
	g := startGroup(t, groupOptions{})
	c := g.client(ClientOptions{})
	s := c.Store(testStore)
	ctx := testContext(t)
	if err := s.Set(ctx, kv.Durable, "a", []byte("first"), nil); err != nil {
		t.Fatal(err)
	}
	const events = 300
	var lines cutter
	watching := g.client(ClientOptions{DialContext: lines.dial}).Store(testStore)
	got := make(chan int, events)
	var info ReadInfo
	if _, err := s.MultiGet(ctx, nil, ReadOptions{Info: &info}); err != nil {
		t.Fatal(err)
	}
	var w sync.WaitGroup
	done := errors.New("done")
	w.Go(func() {
		err := watching.Watch(ctx, WatchOptions{Keyspace: "w", From: info.Index + 1}, func(_ uint64, evs []Event) error {
			for _, e := range evs {
				var n int
				fmt.Sscanf(string(e.Value), "%d", &n)
				got <- n
				if n == events-1 {
					return done
				}
			}
			return nil
		})
		if !errors.Is(err, done) {
			t.Errorf("watch: %v", err)
		}
		close(got)
	})
	for i := range events {
		if err := s.Set(ctx, kv.Durable, "w", []byte("k"), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		if i%40 == 39 {
			lines.cut()
		}
		if i == events/2 {
			lead := g.leader()
			g.stop(lead)
			g.leader()
			g.start(lead)
		}
	}
	w.Wait()
	want := 0
	for n := range got {
		if n != want {
			t.Fatalf("event %d, want %d", n, want)
		}
		want++
	}
	if want != events {
		t.Errorf("%d events, want %d", want, events)
	}
}

// deposed is a member that still takes itself for the leader, while the others follow another one.
type deposed struct {
	*raftkv.Store
	is *atomic.Bool
}

func (m deposed) View(ctx context.Context, l kv.Level, fn func(kv.Reader) error) error {
	if err := m.Store.View(ctx, l, fn); err != nil || l != kv.Linearizable || !m.is.Load() {
		return err
	}
	return &kv.NotLeaderError{}
}

func (m deposed) ViewAt(ctx context.Context, l kv.Level, fn func(kv.Reader, uint64) error) (uint64, error) {
	seen, err := m.Store.ViewAt(ctx, l, fn)
	if err != nil || l != kv.Linearizable || !m.is.Load() {
		return seen, err
	}
	return 0, &kv.NotLeaderError{}
}

func (m deposed) SyncSince(ctx context.Context, epoch uint64) error {
	if m.is.Load() { // there is nothing to wait for when nothing was written
		return nil
	}
	return m.Store.SyncSince(ctx, epoch)
}

// TestDeposed: a leader that does not know that it is none answers no linearizable read, and tells nobody
// what it has seen in a transaction that wrote nothing.
func TestDeposed(t *testing.T) {
	var is atomic.Bool
	g := startGroup(t, groupOptions{members: 1, wrap: func(_ int, s *raftkv.Store) Member { return deposed{s, &is} }})
	s := g.client(ClientOptions{}).Store(testStore)
	ctx := testContext(t)
	if err := s.Set(ctx, kv.Durable, "a", []byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	is.Store(true)
	for name, ask := range map[string]func(context.Context) error{
		"get":   func(ctx context.Context) error { _, err := s.Get(ctx, "a", []byte("k"), ReadOptions{}); return err },
		"range": func(ctx context.Context) error { _, err := s.Range(ctx, "a", kv.Range{}, RangeOptions{}); return err },
		"count": func(ctx context.Context) error { _, err := s.Count(ctx, "a", kv.Range{}, ReadOptions{}); return err },
		"conflict": func(ctx context.Context) error {
			_, err := s.Apply(ctx, kv.Durable, []kv.Step{{Op: kv.OpAssertAbsent, Keyspace: "a", Key: []byte("k")}})
			return err
		},
		"test": func(ctx context.Context) error {
			_, _, err := s.TestAndSet(ctx, kv.Durable, "a", []byte("k"), []byte("other"), nil)
			return err
		},
		"ordered test": func(ctx context.Context) error {
			_, _, err := s.TestAndSet(ctx, kv.Ordered, "a", []byte("k"), []byte("other"), nil)
			return err
		},
	} {
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		if err := ask(short); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrUnknownOutcome) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if v, err := s.Get(ctx, "a", []byte("k"), ReadOptions{Level: kv.Stale}); err != nil || string(v) != "v" {
		t.Errorf("stale: %q, %v", v, err)
	}
}
