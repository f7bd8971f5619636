package asd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fill puts records of many sizes, some in shared frames, some dead, and returns what is there.
func fill(t testing.TB, a *ASD, n int) map[string][]byte {
	t.Helper()
	want := make(map[string][]byte)
	for i := 0; i < n; {
		var b Batch
		for range 1 + i%3 {
			k := fmt.Sprintf("k%04d", i)
			p := NewBuffer([]int{10, 3000, 5000, 40 << 10, 150 << 10}[i%5])
			copy(p, payload(len(p), uint64(i)))
			b.Put([]byte(k), []byte("info of "+k), p)
			want[k] = p
			i++
		}
		if _, err := a.Apply(t.Context(), &b, Written); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < n; i += 7 {
		k := fmt.Sprintf("k%04d", i)
		del(t, a, k)
		delete(want, k)
	}
	return want
}

func flip(t testing.TB, path string, off int64) (undo func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	was := b[0]
	if _, err := f.WriteAt([]byte{was ^ 0x20}, off); err != nil {
		t.Fatal(err)
	}
	return func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{was}, off); err != nil {
			t.Fatal(err)
		}
	}
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func TestFlipFormat(t *testing.T) {
	dir := newDir(t)
	mustOpen(t, dir, Options{}).Close()
	for off := range int64(formatSize) {
		undo := flip(t, filepath.Join(dir, formatName), off)
		_, err := Open(t.Context(), dir, Options{})
		var oe *OpenError
		if !errors.Is(err, ErrDamaged) || !errors.As(err, &oe) || oe.Hint == "" {
			t.Fatalf("byte %d: %v", off, err)
		}
		undo()
	}
	if err := os.Truncate(filepath.Join(dir, formatName), 30); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrDamaged) {
		t.Fatalf("cut short: %v", err)
	}
}

// TestFlipSegment flips one byte at a time all over a segment. Only the records of the frame that is hit may suffer,
// and those never show wrong content.
func TestFlipSegment(t *testing.T) {
	for _, lose := range []bool{false, true} {
		t.Run(fmt.Sprintf("index lost %v", lose), func(t *testing.T) {
			base := memoryDir(t)
			orig, dir := filepath.Join(base, "orig"), filepath.Join(base, "asd")
			if _, err := Format(orig, testCluster); err != nil {
				t.Fatal(err)
			}
			opts := Options{SegmentSize: 2 << 20, Compaction: Compaction{Mode: CompactManual}}
			a := mustOpen(t, orig, opts)
			want := fill(t, a, 60)
			seg := segmentPath(".", a.table.segments[1].state.slot)
			a.Close()
			if lose {
				os.RemoveAll(filepath.Join(orig, indexName))
			}
			st, err := os.Stat(filepath.Join(orig, seg))
			if err != nil {
				t.Fatal(err)
			}
			offs := []int64{0, 8, 12, 20, 32, 41, 50, 60, 65, 100, segmentStart, segmentStart + 9, segmentStart + 50, segmentStart + 70}
			r := rand.New(rand.NewPCG(7, 7))
			for range 40 {
				offs = append(offs, r.Int64N(st.Size()), r.Int64N(st.Size())&^(pageSize-1)+r.Int64N(200))
			}
			suffered := 0
			for _, off := range offs {
				copyTree(t, orig, dir)
				flip(t, filepath.Join(dir, seg), off)
				suffered += checkSuffering(t, dir, opts, want, off, lose)
			}
			if suffered == 0 {
				t.Fatal("no flip was ever noticed")
			}
		})
	}
}

func checkSuffering(t *testing.T, dir string, opts Options, want map[string][]byte, off int64, lost bool) int {
	t.Helper()
	a, err := Open(t.Context(), dir, opts)
	if err != nil {
		t.Fatalf("offset %d: %v", off, err)
	}
	defer a.Close()
	n := 0
	for k, p := range want {
		got, err := a.Get(t.Context(), []byte(k), nil)
		var ce *CorruptError
		switch {
		case err == nil && bytes.Equal(got, p):
		case errors.As(err, &ce), lost && errors.Is(err, ErrNotFound):
			n++
		default:
			t.Fatalf("offset %d: get %s: %v", off, k, err)
		}
		h, err := a.Head(t.Context(), []byte(k))
		if err != nil && !errors.As(err, &ce) && !(lost && errors.Is(err, ErrNotFound)) || err == nil && string(h.Info) != "info of "+k {
			t.Fatalf("offset %d: head %s: %v", off, k, err)
		}
	}
	if n > 3 { // the most that share a frame
		t.Fatalf("offset %d: %d records suffer", off, n)
	}
	return n
}

// TestFlipIndex flips bytes in every file of the index. Nothing may be lost.
func TestFlipIndex(t *testing.T) {
	base := memoryDir(t)
	orig, dir := filepath.Join(base, "orig"), filepath.Join(base, "asd")
	if _, err := Format(orig, testCluster); err != nil {
		t.Fatal(err)
	}
	opts := Options{SegmentSize: 2 << 20, Compaction: Compaction{Mode: CompactManual}}
	a := mustOpen(t, orig, opts)
	want := fill(t, a, 200)
	a.Close()
	list, err := os.ReadDir(filepath.Join(orig, indexName))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 3))
	for _, de := range list {
		fi, _ := de.Info()
		for i := range 8 {
			if fi.Size() == 0 {
				continue
			}
			off := r.Int64N(fi.Size())
			copyTree(t, orig, dir)
			path := filepath.Join(dir, indexName, de.Name())
			var a *ASD
			if i%2 == 0 {
				flip(t, path, off)
				a = mustOpen(t, dir, opts)
			} else {
				a = mustOpen(t, dir, opts)
				if _, err := os.Stat(path); err == nil {
					flip(t, path, off)
				}
			}
			for k, p := range want {
				check(t, a, k, p)
			}
			list, _, err := a.Range(t.Context(), nil, nil, RangeOptions{Limit: 10000, Info: true})
			if err != nil || len(list) != len(want) {
				t.Fatalf("%s at %d: %d records, want %d: %v", de.Name(), off, len(list), len(want), err)
			}
			put(t, a, "more", []byte("x"))
			if err := a.Close(); err != nil {
				t.Fatalf("%s at %d: close: %v", de.Name(), off, err)
			}
		}
	}
}

// TestLoseFiles removes a whole segment file: its records are damaged, all others are served.
func TestLoseFiles(t *testing.T) {
	dir := newDir(t)
	opts := Options{SegmentSize: 2 << 20, Compaction: Compaction{Mode: CompactManual}}
	a := mustOpen(t, dir, opts)
	want := fill(t, a, 100)
	path := a.table.segments[2].path
	a.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a = mustOpen(t, dir, opts)
	lost := 0
	for k, p := range want {
		_, err := a.Get(t.Context(), []byte(k), nil)
		var ce *CorruptError
		if errors.As(err, &ce) {
			if !strings.Contains(err.Error(), "missing") {
				t.Fatal(err)
			}
			lost++
			put(t, a, k, p) // overwriting cures
		}
		check(t, a, k, p)
	}
	if lost == 0 || lost == len(want) {
		t.Fatalf("%d of %d records were lost", lost, len(want))
	}
	if err := a.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestDamageMoves: compaction neither loses a damaged record silently nor makes it whole.
func TestDamageMoves(t *testing.T) {
	dir := newDir(t)
	opts := Options{SegmentSize: 4 << 20, Compaction: Compaction{Mode: CompactManual}}
	a := mustOpen(t, dir, opts)
	for i := range 20 {
		put(t, a, fmt.Sprintf("k%02d", i), payload(100<<10, uint64(i)))
	}
	for i := range 20 {
		if i%5 != 0 {
			del(t, a, fmt.Sprintf("k%02d", i))
		}
	}
	e, err := a.lookup([]byte("k05"))
	if err != nil {
		t.Fatal(err)
	}
	flip(t, a.table.segments[e.segment].path, e.payloadOffset()+70<<10)
	e, err = a.lookup([]byte("k10"))
	if err != nil {
		t.Fatal(err)
	}
	flip(t, a.table.segments[e.segment].path, int64(e.page)*pageSize+3) // frame header
	if err := a.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := a.Get(t.Context(), []byte("k05"), nil)
		var ce *CorruptError
		if !errors.As(err, &ce) || ce.Block != 1 || string(ce.Key) != "k05" {
			t.Fatalf("get k05: %v", err)
		}
		if err := a.PartialGet(t.Context(), []byte("k05"), []Section{{Off: 0, Buf: make([]byte, 1000)}}); err != nil {
			t.Fatalf("the first block of k05 is whole: %v", err)
		}
		for _, i := range []int{0, 10, 15} {
			check(t, a, fmt.Sprintf("k%02d", i), payload(100<<10, uint64(i)))
		}
		a.crash(t, 0)
		a = mustOpen(t, dir, opts)
	}
	put(t, a, "k05", []byte("whole again"))
	check(t, a, "k05", []byte("whole again"))
}

// TestNoResurrection: a rebuilt index never brings deleted records back, whatever was compacted when.
func TestNoResurrection(t *testing.T) {
	dir := newDir(t)
	opts := Options{SegmentSize: 4 << 20, Compaction: Compaction{Mode: CompactManual}}
	a := mustOpen(t, dir, opts)
	seal := func() {
		if err := a.submit(&request{seal: true}); err != nil {
			t.Fatal(err)
		}
	}
	compactSegmentOf := func(key string) {
		t.Helper()
		e, err := a.lookup([]byte(key))
		if err != nil || e == nil {
			t.Fatal(e, err)
		}
		seal()
		a.compactMu.Lock()
		defer a.compactMu.Unlock()
		if err := a.compactSegment(t.Context(), a.table.segments[e.segment], -1); err != nil {
			t.Fatal(err)
		}
	}
	put(t, a, "k", []byte("first"))
	put(t, a, "witness", payload(100, 1)) // keeps the first segment from being all garbage
	seal()
	put(t, a, "k", []byte("second"))
	compactSegmentOf("k")
	put(t, a, "tombstones", nil)
	del(t, a, "k")
	seal()
	// The copy's segment dies, and then the delete is looked at again: the first one still is where it was.
	for _, id := range []uint64{3, 4} {
		a.compactMu.Lock()
		if s := a.table.segments[id]; s != nil {
			if err := a.compactSegment(t.Context(), s, -1); err != nil {
				t.Fatal(err)
			}
		}
		a.compactMu.Unlock()
		seal()
	}
	compactSegmentOf("tombstones")
	if a.table.segments[1] == nil {
		t.Fatal("the first segment is gone; the test shows nothing")
	}
	a.Close()
	if err := os.RemoveAll(filepath.Join(dir, indexName)); err != nil {
		t.Fatal(err)
	}
	a = mustOpen(t, dir, opts)
	check(t, a, "k", nil)
	check(t, a, "witness", payload(100, 1))
}
