package asd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// modelRecord is what the model knows of a record.
type modelRecord struct {
	payload []byte
	info    []byte
	version uint64
}

// model drives an ASD and a map side by side. Since is the history after the last moment at which
// everything was known to be durable: a crash may leave any of its states.
type model struct {
	t     *rapid.T
	tb    testing.TB
	dir   string
	opts  Options
	a     *ASD
	state map[string]modelRecord
	since []map[string]modelRecord
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base := memoryDir(t)
		defer os.RemoveAll(base)
		dir := filepath.Join(base, "asd")
		if _, err := Format(dir, testCluster); err != nil {
			t.Fatal(err)
		}
		m := &model{t: rt, tb: t, dir: dir, state: map[string]modelRecord{},
			opts: Options{SegmentSize: 1 << 20, Compaction: Compaction{Mode: rapid.SampledFrom([]CompactionMode{CompactAuto, CompactManual}).Draw(rt, "mode"), Rate: -1, MinGarbage: 0.2}}}
		m.open()
		defer func() { m.a.Close() }()
		m.durable()
		rt.Repeat(map[string]func(*rapid.T){
			"":        func(*rapid.T) {},
			"apply":   m.apply,
			"apply2":  m.apply,
			"apply3":  m.apply,
			"read":    m.read,
			"range":   m.ranges,
			"sync":    m.sync,
			"compact": m.compact,
			"one":     m.compactOne,
			"seal":    m.seal,
			"reopen":  m.reopen,
			"crash":   m.crash,
			"check":   m.check,
		})
		m.check(rt)
		m.loseIndex(rt)
	})
}

func (m *model) open() {
	a, err := Open(context.Background(), m.dir, m.opts)
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.a = a
}

func (m *model) durable() { m.since = []map[string]modelRecord{maps.Clone(m.state)} }

func keyGen() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf("k%02d", rapid.OneOf(rapid.IntRange(0, 2), rapid.IntRange(0, 30)).Draw(t, "key"))
	})
}

func (m *model) apply(t *rapid.T) {
	var b Batch
	next := maps.Clone(m.state)
	holds := true
	for range rapid.IntRange(0, 2).Draw(t, "asserts") {
		k := keyGen().Draw(t, "assert")
		r, ok := m.state[k]
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			b.AssertAbsent([]byte(k))
			holds = holds && !ok
		case 1:
			b.AssertExists([]byte(k))
			holds = holds && ok
		default:
			b.AssertVersion([]byte(k), r.version)
			holds = holds && ok
		}
	}
	var put []string
	for range rapid.IntRange(1, 4).Draw(t, "ops") {
		k := keyGen().Draw(t, "key")
		if rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
			b.Delete([]byte(k))
			delete(next, k)
			continue
		}
		n := rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, 10000), rapid.IntRange(0, 180<<10)).Draw(t, "size")
		r := modelRecord{payload: NewBuffer(n), info: fmt.Appendf(nil, "info %d", n)}
		copy(r.payload, payload(n, uint64(n)*31+uint64(len(m.since))))
		b.Put([]byte(k), r.info, r.payload)
		next[k] = r
		put = append(put, k)
	}
	d := Durability(rapid.IntRange(0, 1).Draw(t, "durability"))
	v, err := m.a.Apply(context.Background(), &b, d)
	var ae *AssertError
	if errors.As(err, &ae) && !holds {
		return
	}
	if err != nil || !holds {
		t.Fatalf("apply: %v, asserts hold: %v", err, holds)
	}
	for _, k := range put {
		if r, ok := next[k]; ok {
			r.version = v
			next[k] = r
		}
	}
	m.state = next
	m.since = append(m.since, maps.Clone(next))
	if d == Durable {
		m.durable()
	}
}

func (m *model) read(t *rapid.T) {
	k := keyGen().Draw(t, "key")
	r, ok := m.state[k]
	got, err := m.a.Get(context.Background(), []byte(k), nil)
	if !ok && errors.Is(err, ErrNotFound) {
		return
	}
	if err != nil || !ok || !bytes.Equal(got, r.payload) {
		t.Fatalf("get %s: %v, %d bytes; exists %v, %d bytes", k, err, len(got), ok, len(r.payload))
	}
	off := rapid.IntRange(0, len(got)).Draw(t, "off")
	s := []Section{{Off: int64(off), Buf: make([]byte, rapid.IntRange(0, len(got)-off).Draw(t, "len"))}}
	if err := m.a.PartialGet(context.Background(), []byte(k), s); err != nil || !bytes.Equal(s[0].Buf, got[off:off+len(s[0].Buf)]) {
		t.Fatalf("partial get %s: %v", k, err)
	}
}

func (m *model) ranges(t *rapid.T) {
	from, to := keyGen().Draw(t, "from"), keyGen().Draw(t, "to")
	limit := rapid.IntRange(1, 10).Draw(t, "limit")
	list, more, err := m.a.Range(context.Background(), []byte(from), []byte(to), RangeOptions{Limit: limit, Info: true})
	if err != nil {
		t.Fatalf("range: %v", err)
	}
	var want []string
	for _, k := range slices.Sorted(maps.Keys(m.state)) {
		if k >= from && k < to {
			want = append(want, k)
		}
	}
	if more != (len(want) > limit) || len(list) != min(limit, len(want)) {
		t.Fatalf("range: %d records, more %v, want %d with limit %d", len(list), more, len(want), limit)
	}
	for i, h := range list {
		r := m.state[want[i]]
		if string(h.Key) != want[i] || h.Version != r.version || h.Size != int64(len(r.payload)) || !bytes.Equal(h.Info, r.info) {
			t.Fatalf("range: record %d is %+v, want %s version %d", i, h, want[i], r.version)
		}
	}
}

func (m *model) sync(t *rapid.T) {
	if err := m.a.Sync(context.Background()); err != nil {
		t.Fatalf("sync: %v", err)
	}
	m.durable()
}

func (m *model) compact(t *rapid.T) {
	if err := m.a.Compact(context.Background()); err != nil {
		t.Fatalf("compact: %v", err)
	}
	m.durable()
}

// compactOne compacts any sealed segment, however little garbage it has.
func (m *model) compactOne(t *rapid.T) {
	a := m.a
	a.compactMu.Lock()
	defer a.compactMu.Unlock()
	a.table.RLock()
	var ids []uint64
	for id, s := range a.table.segments {
		if s.sealed && !s.dying && !s.missing { // as victim chooses
			ids = append(ids, id)
		}
	}
	a.table.RUnlock()
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	id := ids[rapid.IntRange(0, len(ids)-1).Draw(t, "victim")]
	if err := a.recountDeletes(0); err != nil {
		t.Fatalf("recount: %v", err)
	}
	if err := a.compactSegment(context.Background(), a.table.segments[id], -1); err != nil {
		t.Fatalf("compact segment %d: %v", id, err)
	}
	m.durable()
}

func (m *model) seal(t *rapid.T) {
	if err := m.a.submit(&request{seal: true}); err != nil {
		t.Fatalf("seal: %v", err)
	}
}

func (m *model) reopen(t *rapid.T) {
	if err := m.a.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	m.durable()
	m.open()
	m.check(t)
}

func (m *model) loseIndex(t *rapid.T) {
	if err := m.a.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	m.durable()
	if err := os.RemoveAll(filepath.Join(m.dir, indexName)); err != nil {
		t.Fatal(err)
	}
	m.open()
	m.check(t)
}

// crash cuts the power. What is there afterwards is one of the states since everything was durable.
func (m *model) crash(t *rapid.T) {
	m.a.crash(m.tb, rapid.Uint64().Draw(t, "seed"))
	if rapid.IntRange(0, 2).Draw(t, "index") == 0 {
		if err := os.RemoveAll(filepath.Join(m.dir, indexName)); err != nil {
			t.Fatal(err)
		}
	}
	m.open()
	var errs []error
	for _, s := range slices.Backward(m.since) {
		m.state = s
		err := m.compare()
		if err == nil {
			m.durable()
			return
		}
		errs = append(errs, err)
	}
	t.Fatalf("after the crash none of %d states is there: %v", len(m.since), errs)
}

func (m *model) check(t *rapid.T) {
	if err := m.compare(); err != nil {
		t.Fatal(err)
	}
}

func (m *model) compare() error {
	for i := range 31 {
		k := fmt.Sprintf("k%02d", i)
		r, ok := m.state[k]
		got, err := m.a.Get(context.Background(), []byte(k), nil)
		if !ok && errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil || !ok || !bytes.Equal(got, r.payload) {
			return fmt.Errorf("%s: %v, %d bytes; should exist %v, %d bytes", k, err, len(got), ok, len(r.payload))
		}
		h, err := m.a.Head(context.Background(), []byte(k))
		if err != nil || h.Version != r.version || !bytes.Equal(h.Info, r.info) {
			return fmt.Errorf("%s: head %+v, %v; want version %d", k, h, err, r.version)
		}
	}
	if st := m.a.Stat(); st.Records != int64(len(m.state)) {
		return fmt.Errorf("stat says %d records, want %d", st.Records, len(m.state))
	}
	return nil
}
