package raftkv

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
)

// The test below drives the three layers by hand: it decides when a batch is committed, when an epoch is
// lost and when a table is flushed, so a run depends on nothing but the numbers that rapid draws.

// layers is a store without raft, and the model of what it shows.
type layers struct {
	*Store
	index     uint64 // of the last log entry
	now       layersPicture
	committed layersPicture
	ends      []layersEnd // what each batch that is not committed leads to
	open      []openView
}

type layersPicture map[kv.Keyspace]map[string]string

type layersEnd struct {
	seq     uint64
	picture layersPicture
}

// openView is a view and what it showed when it was opened.
type openView struct {
	*view
	want layersPicture
}

func (p layersPicture) clone() layersPicture {
	c := layersPicture{}
	for ks, m := range p {
		c[ks] = maps.Clone(m)
	}
	return c
}

func (p layersPicture) list(ks kv.Keyspace, r kv.Range) string {
	var keys []string
	for k := range p[ks] {
		if k >= string(r.From) && (r.To == nil || k < string(r.To)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if r.Reverse {
		slices.Reverse(keys)
	}
	if r.Limit > 0 && len(keys) > r.Limit {
		keys = keys[:r.Limit]
	}
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "%.8s/%d/%.8s=%s ", k, len(k), k[max(0, len(k)-8):], p[ks][k])
	}
	return b.String()
}

func list(r kv.Reader, ks kv.Keyspace, rng kv.Range) (string, error) {
	var b strings.Builder
	err := r.Range(ks, rng, func(k, v []byte) bool {
		fmt.Fprintf(&b, "%.8s/%d/%.8s=%s ", k, len(k), k[max(0, len(k)-8):], v)
		return true
	})
	return b.String(), err
}

func newLayers(t *rapid.T, dir string) *layers {
	o := Options{Dir: dir, partBytes: 200, mapBytes: 64 << 20, SegmentBytes: 64 << 10}
	if err := o.setDefaults(); err != nil {
		t.Fatal(err)
	}
	s := newStore(o)
	if err := s.openFiles(); err != nil {
		t.Fatal(err)
	}
	l := &layers{Store: s, now: layersPicture{}, committed: layersPicture{}}
	l.lead()
	return l
}

// lead begins an epoch in the next term.
func (l *layers) lead() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epochs++
	l.epoch = &epoch{id: l.epochs, term: l.applied.term + 1, committed: l.Store.committed}
}

// commit lets the oldest batch take effect, as fsm.apply does.
func (l *layers) commit() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.epoch
	if len(e.queue) == 0 {
		if e.open == nil {
			return false
		}
		e.seal()
	}
	e.inFlight++
	l.index++
	last := e.queue[0].last
	l.Store.commit(e, l.index)
	for len(l.ends) > 0 && l.ends[0].seq <= last {
		l.committed, l.ends = l.ends[0].picture, l.ends[1:]
	}
	return true
}

var (
	genSpace     = rapid.SampledFrom([]kv.Keyspace{"a", "b"})
	genLayersKey = rapid.Custom(func(t *rapid.T) string {
		k := rapid.StringMatching(`[abc]{1,3}`).Draw(t, "key")
		if n := rapid.SampledFrom([]int{0, 0, 0, 0, 8, maxPlain, maxPlain + 1, kv.MaxKey}).Draw(t, "long"); n > len(k) {
			k = k[:1] + strings.Repeat("b", n-len(k)) + k[1:]
		}
		return k
	})
	genLayersRange = rapid.Custom(func(t *rapid.T) kv.Range {
		r := kv.Range{Reverse: rapid.Bool().Draw(t, "reverse"), Limit: rapid.IntRange(0, 5).Draw(t, "limit")}
		if rapid.Bool().Draw(t, "hasFrom") {
			r.From = []byte(genLayersKey.Draw(t, "from"))
		}
		if rapid.Bool().Draw(t, "hasTo") {
			r.To = []byte(genLayersKey.Draw(t, "to"))
		}
		return r
	})
)

// check compares some of what a reader shows with the model.
func (p layersPicture) check(t *rapid.T, r kv.Reader) {
	ks, key, rng := genSpace.Draw(t, "ks"), genLayersKey.Draw(t, "get"), genLayersRange.Draw(t, "range")
	want, there := p[ks][key]
	got, err := r.Get(ks, []byte(key))
	if there != (err == nil) || err != nil && !errors.Is(err, kv.ErrNotFound) || !bytes.Equal(got, []byte(want)) {
		t.Fatalf("get %.8s/%d: %q, %v; want %q (%v)", key, len(key), got, err, want, there)
	}
	if got, err := list(r, ks, rng); err != nil || got != p.list(ks, rng) {
		t.Fatalf("range %s from %.8q/%d to %.8q/%d reverse %v limit %d:\n%s, %v\nwant\n%s", ks, rng.From, len(rng.From),
			rng.To, len(rng.To), rng.Reverse, rng.Limit, got, err, p.list(ks, rng))
	}
}

func (l *layers) update(t *rapid.T) {
	next := l.now.clone()
	_, b, _, err := l.evaluate(kv.Ordered, func(tx kv.Txn) error {
		for range rapid.IntRange(1, 5).Draw(t, "ops") {
			ks, key := genSpace.Draw(t, "ks"), genLayersKey.Draw(t, "key")
			if next[ks] == nil {
				next[ks] = map[string]string{}
			}
			if rapid.IntRange(0, 2).Draw(t, "op") == 0 {
				tx.Delete(ks, []byte(key))
				delete(next[ks], key)
			} else {
				v := rapid.StringMatching(`[x-z]{0,4}`).Draw(t, "value")
				tx.Put(ks, []byte(key), []byte(v))
				next[ks][key] = v
			}
		}
		next.check(t, tx)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	l.now = next
	if b != nil {
		l.ends = append(l.ends, layersEnd{b.last, next})
	}
	if rapid.Bool().Draw(t, "seal") {
		l.mu.Lock()
		if l.epoch.open != nil {
			l.epoch.seal()
		}
		l.mu.Unlock()
	}
}

// loseEpoch discards what is pending.
func (l *layers) loseEpoch() {
	committed := l.Store.committed
	l.endEpoch(nil, &kv.NotLeaderError{})
	l.now, l.ends = l.committed, nil
	l.open = slices.DeleteFunc(l.open, func(v openView) bool { // its epoch tells whoever reads it
		gone := v.seq > committed
		if gone {
			v.close()
		}
		return gone
	})
	l.lead()
}

func (l *layers) openView(t *rapid.T, committed bool) {
	v := new(view)
	if err := v.open(l.Store, committed); err != nil {
		t.Fatal(err)
	}
	want := l.now
	if committed {
		want = l.committed
	}
	l.open = append(l.open, openView{v, want})
}

// flush writes some parts of the active table into the state file. All of it must be committed: in a
// running store the flusher waits for that.
func (l *layers) flush(t *rapid.T) {
	for l.commit() {
	}
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	sealed := l.sealActive()
	for c := newFlushCursor(sealed.table); ; {
		if err := l.flushPart(sealed, c, sealed.state); err != nil {
			t.Fatal(err)
		}
		l.check(t)
		if c.done() {
			return
		}
	}
}

func (l *layers) check(t *rapid.T) {
	l.checkNew(t, false, l.now)
	l.checkNew(t, true, l.committed)
	for _, v := range l.open {
		v.want.check(t, v)
	}
}

func (l *layers) checkNew(t *rapid.T, committed bool, want layersPicture) {
	var v view
	if err := v.open(l.Store, committed); err != nil {
		t.Fatal(err)
	}
	defer v.close()
	want.check(t, &v)
}

// TestLayers: pending, recent and base show the model's picture together, whatever is committed, lost,
// flushed or still being read.
func TestLayers(t *testing.T) {
	base, err := os.MkdirTemp("/dev/shm", "raftkv")
	if err != nil {
		base = t.TempDir()
	}
	defer os.RemoveAll(base)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "layers")
		if err != nil {
			t.Fatal(err)
		}
		l := newLayers(t, dir)
		defer func() {
			for _, v := range l.open {
				v.close()
			}
			l.retire(l.gen)
			_ = l.gen.base.close()
			_ = l.wal.Close()
			_ = os.RemoveAll(dir)
		}()
		t.Repeat(map[string]func(*rapid.T){
			"":       l.check,
			"update": l.update,
			"commit": func(*rapid.T) { l.commit() },
			"lose":   func(*rapid.T) { l.loseEpoch() },
			"flush":  l.flush,
			"view":   func(t *rapid.T) { l.openView(t, rapid.Bool().Draw(t, "committed")) },
			"close": func(t *rapid.T) {
				if n := len(l.open); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "view")
					l.open[i].close()
					l.open = slices.Delete(l.open, i, i+1)
				}
			},
			"verify": func(t *rapid.T) {
				if _, err := l.Verify(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}
