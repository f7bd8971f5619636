package kvsession

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/internal/batch"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// rowsOf is a state of the store: keyspace and key to value.
type rowsOf map[[2]string]string

func (m rowsOf) keys(ks string, g kv.Range) []string {
	var keys []string
	for k := range m {
		if k[0] == ks && k[1] >= string(g.From) && (g.To == nil || k[1] < string(g.To)) {
			keys = append(keys, k[1])
		}
	}
	slices.Sort(keys)
	if g.Reverse {
		slices.Reverse(keys)
	}
	if g.Limit > 0 && len(keys) > g.Limit {
		keys = keys[:g.Limit]
	}
	return keys
}

func (m rowsOf) list(ks string, g kv.Range) string {
	keys := m.keys(ks, g)
	for i, k := range keys {
		keys[i] = k + "=" + m[[2]string{ks, k}]
	}
	return strings.Join(keys, " ")
}

// fakeMember is a leader as a model, with everything that can go wrong: connections break at any moment,
// answers and acknowledgements come late or never, and what is not durable may be gone afterwards.
type fakeMember struct {
	mu      sync.Mutex
	rng     *rand.Rand
	first   rowsOf   // what was there before the session
	log     [][]byte // batches that are applied
	durable int      // how many of them cannot be lost
	rows    rowsOf
	conns   int
	breaks  float64 // how likely a request breaks the connection
	problem error
}

func (f *fakeMember) apply(data []byte) {
	f.log = append(f.log, data)
	if err := batch.Decode(data, func(ks kv.Keyspace, key, value []byte) error {
		if value == nil {
			delete(f.rows, [2]string{string(ks), string(key)})
		} else {
			f.rows[[2]string{string(ks), string(key)}] = string(value)
		}
		return nil
	}); err != nil {
		f.problem = err
	}
}

// lose is what a new leader may look like: a part of what is not durable is gone.
func (f *fakeMember) lose() {
	log := f.log[:f.durable+f.rng.IntN(len(f.log)-f.durable+1)]
	f.log, f.rows = nil, maps.Clone(f.first)
	for _, b := range log {
		f.apply(b)
	}
	f.durable = len(f.log)
}

type fakeConn struct {
	f       *fakeMember
	once    sync.Once
	broken  chan struct{}
	answers chan *kvpb.SessionResponse
	opened  bool
	parts   []byte
	held    []*kvpb.SessionResponse // answers that are late
	acked   int
}

var errBroken = errors.New("the line is broken")

func (f *fakeMember) Dial(context.Context, error) (Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rng.IntN(4) == 0 {
		return nil, errBroken
	}
	f.conns++
	c := &fakeConn{f: f, broken: make(chan struct{}), answers: make(chan *kvpb.SessionResponse, 1<<16)}
	go c.tick()
	return c, nil
}

func (c *fakeConn) Close() { c.once.Do(func() { close(c.broken) }) }

func (c *fakeConn) Recv() (*kvpb.SessionResponse, error) {
	select {
	case m := <-c.answers:
		return m, nil
	case <-c.broken:
		return nil, errBroken
	}
}

// tick lets late answers and acknowledgements arrive.
func (c *fakeConn) tick() {
	t := time.NewTicker(200 * time.Microsecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.f.mu.Lock()
			c.settle()
			c.f.mu.Unlock()
		case <-c.broken:
			return
		}
	}
}

// settle delivers some of what is late. The caller holds f.mu.
func (c *fakeConn) settle() {
	f := c.f
	if c.opened && f.rng.IntN(2) == 0 {
		f.durable = len(f.log)
	}
	if c.opened && f.rng.IntN(2) == 0 && c.acked < f.durable {
		c.acked = f.durable
		c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Durable{Durable: &kvpb.SessionDurable{Number: uint64(c.acked)}}}
	}
	for len(c.held) > 0 && f.rng.IntN(2) == 0 {
		i := f.rng.IntN(len(c.held))
		c.answers <- c.held[i]
		c.held = slices.Delete(c.held, i, i+1)
	}
}

func (c *fakeConn) Send(m *kvpb.SessionRequest) error {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-c.broken:
		return errBroken
	default:
	}
	if f.rng.Float64() < f.breaks {
		c.Close() // before it is seen
		return errBroken
	}
	switch r := m.GetRequest().(type) {
	case *kvpb.SessionRequest_Open:
		f.lose()
		c.opened, c.acked = true, len(f.log)
		c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Opened{Opened: &kvpb.SessionOpened{Epoch: 1, Last: uint64(len(f.log))}}}
	case *kvpb.SessionRequest_Renew:
		c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Renewed{Renewed: &kvpb.SessionRenewed{Id: r.Renew.GetId()}}}
	case *kvpb.SessionRequest_Release:
		c.answers <- &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Released{Released: &kvpb.SessionReleased{}}}
	case *kvpb.SessionRequest_Batch:
		c.parts = append(c.parts, r.Batch.GetData()...)
		if r.Batch.GetMore() {
			break
		}
		if n := int(r.Batch.GetNumber()); n == len(f.log)+1 {
			f.apply(c.parts)
		} else if n > len(f.log) {
			f.problem = fmt.Errorf("batch %d comes after %d", n, len(f.log))
		}
		c.parts = nil
	case *kvpb.SessionRequest_Read:
		c.held = append(c.held, &kvpb.SessionResponse{Response: &kvpb.SessionResponse_Rows{Rows: f.read(r.Read)}})
	}
	c.settle()
	if f.rng.Float64() < f.breaks {
		c.Close() // after it was seen
	}
	return nil
}

func (f *fakeMember) read(q *kvpb.SessionRead) *kvpb.SessionRows {
	out := &kvpb.SessionRows{Id: q.GetId()}
	for _, k := range q.GetKeys() {
		v, ok := f.rows[[2]string{string(k.GetKeyspace()), string(k.GetKey())}]
		out.Rows = append(out.Rows, &kvpb.SessionRow{Value: []byte(v), Absent: !ok})
	}
	if len(q.GetKeys()) > 0 {
		return out
	}
	ks := string(q.GetKeyspace())
	row := func(k string) *kvpb.SessionRow {
		return &kvpb.SessionRow{Key: []byte(k), Value: []byte(f.rows[[2]string{ks, k}])}
	}
	out.Low, out.High, out.End = q.GetKey(), q.GetKey(), q.GetEnd()
	if q.GetBefore() > 0 {
		g := kv.Range{To: append([]byte{}, q.GetKey()...), Reverse: true}
		if q.GetEnd() {
			g.To = nil
		}
		keys := f.rows.keys(ks, g)
		if n := int(q.GetBefore()); len(keys) > n {
			keys = keys[:n]
			out.Low = []byte(keys[n-1])
		} else {
			out.Low = nil
		}
		slices.Reverse(keys)
		for _, k := range keys {
			out.Rows = append(out.Rows, row(k))
		}
	}
	if q.GetAfter() > 0 && !q.GetEnd() {
		keys := f.rows.keys(ks, kv.Range{From: q.GetKey()})
		if n := int(q.GetAfter()); len(keys) > n {
			keys = keys[:n]
			out.High = append([]byte(keys[n-1]), 0)
		} else {
			out.End = true
		}
		for _, k := range keys {
			out.Rows = append(out.Rows, row(k))
		}
	}
	return out
}

// openView is a view that is held open while others go on.
type openView struct {
	state rowsOf
	ask   chan func(kv.Reader)
	done  chan error
	busy  chan string // not nil: a look is under way, and this tells what was wrong
}

func hold(s *Session, level kv.Level, state rowsOf) *openView {
	v := &openView{state: state, ask: make(chan func(kv.Reader)), done: make(chan error, 1)}
	began := make(chan struct{})
	go func() {
		v.done <- s.View(context.Background(), level, func(r kv.Reader) error {
			close(began)
			for fn := range v.ask {
				fn(r)
			}
			return nil
		})
	}()
	<-began
	return v
}

// do runs fn in the view.
func (v *openView) do(t *rapid.T, fn func(kv.Reader)) {
	v.wait(t)
	done := make(chan struct{})
	v.ask <- func(r kv.Reader) { defer close(done); fn(r) }
	<-done
}

// start begins to look at a part of the view, while others go on.
func (v *openView) start(t *rapid.T) {
	v.wait(t)
	v.busy = make(chan string, 1)
	l := drawLook(t)
	v.ask <- func(r kv.Reader) { v.busy <- v.state.compare(l, r) }
}

// wait waits for a look that is under way.
func (v *openView) wait(t *rapid.T) {
	if v.busy != nil {
		if wrong := <-v.busy; wrong != "" {
			t.Fatal("later: " + wrong)
		}
		v.busy = nil
	}
}

var (
	genSpace = rapid.SampledFrom([]string{"p", "pq"})
	genKey   = rapid.StringMatching(`[abc]{1,3}`)
	genValue = rapid.StringMatching(`[x-z]{0,8}`)
	genBound = rapid.OneOf(rapid.Just[[]byte](nil), rapid.SliceOfN(rapid.SampledFrom([]byte("abc\x00d")), 0, 3))
	genRange = rapid.Custom(func(t *rapid.T) kv.Range {
		return kv.Range{From: genBound.Draw(t, "from"), To: genBound.Draw(t, "to"),
			Reverse: rapid.Bool().Draw(t, "reverse"), Limit: rapid.IntRange(0, 4).Draw(t, "limit")}
	})
)

// look is a part of a state to look at.
type look struct {
	ks, key string
	g       kv.Range
}

func drawLook(t *rapid.T) look {
	return look{genSpace.Draw(t, "ks"), genKey.Draw(t, "key"), genRange.Draw(t, "range")}
}

// compare says what is wrong with what a reader shows.
func (m rowsOf) compare(l look, r kv.Reader) string {
	want, ok := m[[2]string{l.ks, l.key}]
	got, err := r.Get(kv.Keyspace(l.ks), []byte(l.key))
	if ok != (err == nil) || err != nil && !errors.Is(err, kv.ErrNotFound) || string(got) != want {
		return fmt.Sprintf("get %s/%q: %q, %v; want %q, %v", l.ks, l.key, got, err, want, ok)
	}
	var list bytes.Buffer
	if err := r.Range(kv.Keyspace(l.ks), l.g, func(k, v []byte) bool {
		if list.Len() > 0 {
			list.WriteByte(' ')
		}
		fmt.Fprintf(&list, "%s=%s", k, v)
		return true
	}); err != nil || list.String() != m.list(l.ks, l.g) {
		return fmt.Sprintf("range %s %+v: %q, %v; want %q", l.ks, l.g, list.String(), err, m.list(l.ks, l.g))
	}
	return ""
}

func (m rowsOf) check(t *rapid.T, r kv.Reader) {
	if wrong := m.compare(drawLook(t), r); wrong != "" {
		t.Fatal(wrong)
	}
}

// TestModel runs random transactions against a session whose line and member fail all the time, with
// views that stay open meanwhile, and compares everything that is read with a model, and at the end what
// the member has.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rowsOf{}
		for range rapid.IntRange(0, 30).Draw(t, "rows before") {
			m[[2]string{genSpace.Draw(t, "ks"), genKey.Draw(t, "key")}] = genValue.Draw(t, "value")
		}
		f := &fakeMember{
			rng:   rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
			first: maps.Clone(m), rows: maps.Clone(m),
			breaks: rapid.SampledFrom([]float64{0, 0.02, 0.2}).Draw(t, "breaks"),
		}
		s, err := OpenWith(context.Background(), f, "s", Options{
			Owner: "o", TTL: time.Hour, rows: rapid.SampledFrom([]int{1, 4, 9}).Draw(t, "page"),
			CacheBytes: rapid.SampledFrom([]int64{1, 5000, 1 << 20}).Draw(t, "cache"),
			Window:     rapid.SampledFrom([]time.Duration{1, time.Millisecond}).Draw(t, "window"),
		})
		if err != nil {
			t.Fatal(err)
		}
		var views []*openView
		closeView := func(i int) {
			views[i].wait(t)
			close(views[i].ask)
			if err := <-views[i].done; err != nil {
				t.Fatalf("view: %v", err)
			}
			views = slices.Delete(views, i, i+1)
		}
		defer func() {
			for _, v := range views {
				close(v.ask)
				<-v.done
			}
			_ = s.Close()
		}()
		t.Repeat(map[string]func(*rapid.T){
			"update": func(t *rapid.T) {
				n := rapid.IntRange(0, 6).Draw(t, "ops")
				var next rowsOf
				if err := s.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error {
					next = maps.Clone(m)
					for range n {
						ks, key := genSpace.Draw(t, "ks"), genKey.Draw(t, "key")
						switch rapid.IntRange(0, 4).Draw(t, "op") {
						case 0, 1, 2:
							v := genValue.Draw(t, "value")
							tx.Put(kv.Keyspace(ks), []byte(key), []byte(v))
							next[[2]string{ks, key}] = v
						case 3:
							tx.Delete(kv.Keyspace(ks), []byte(key))
							delete(next, [2]string{ks, key})
						case 4:
							next.check(t, tx)
						}
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				m = next
			},
			"view": func(t *rapid.T) {
				l := rapid.SampledFrom([]kv.Level{kv.Pending, kv.Linearizable, kv.Stale}).Draw(t, "level")
				if err := s.View(context.Background(), l, func(r kv.Reader) error { m.check(t, r); return nil }); err != nil {
					t.Fatal(err)
				}
			},
			"hold": func(t *rapid.T) {
				if len(views) < 3 {
					views = append(views, hold(s, kv.Pending, m))
				}
			},
			"look": func(t *rapid.T) {
				if len(views) > 0 {
					v := views[rapid.IntRange(0, len(views)-1).Draw(t, "which")]
					v.do(t, func(r kv.Reader) { v.state.check(t, r) })
				}
			},
			"look later": func(t *rapid.T) {
				if len(views) > 0 {
					views[rapid.IntRange(0, len(views)-1).Draw(t, "which")].start(t)
				}
			},
			"let go": func(t *rapid.T) {
				if len(views) > 0 {
					closeView(rapid.IntRange(0, len(views)-1).Draw(t, "which"))
				}
			},
			"sync": func(t *rapid.T) {
				if err := s.Sync(context.Background()); err != nil {
					t.Fatal(err)
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				if f.problem != nil || !maps.Equal(f.rows, m) {
					t.Fatalf("the member has %v, want %v; %v", f.rows, m, f.problem)
				}
			},
			"pause": func(*rapid.T) { time.Sleep(300 * time.Microsecond) },
		})
		for len(views) > 0 {
			v := views[0]
			v.do(t, func(r kv.Reader) { v.state.check(t, r) })
			closeView(0)
		}
		if err := s.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		if f.problem != nil || !maps.Equal(f.rows, m) {
			t.Fatalf("the member has %v, want %v; %v", f.rows, m, f.problem)
		}
	})
}
