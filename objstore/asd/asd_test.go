package asd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		childMain(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

var testCluster = ID{1, 2, 3}

// newDir returns a folder that was claimed.
func newDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "asd")
	if _, err := Format(dir, testCluster); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustOpen(t testing.TB, dir string, opts Options) *ASD {
	t.Helper()
	a, err := Open(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func payload(n int, seed uint64) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func put(t testing.TB, a *ASD, key string, p []byte) uint64 {
	t.Helper()
	var b Batch
	b.Put([]byte(key), []byte("info of "+key), p)
	v, err := a.Apply(context.Background(), &b, Durable)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func del(t testing.TB, a *ASD, keys ...string) {
	t.Helper()
	var b Batch
	for _, k := range keys {
		b.Delete([]byte(k))
	}
	if _, err := a.Apply(context.Background(), &b, Durable); err != nil {
		t.Fatal(err)
	}
}

func check(t testing.TB, a *ASD, key string, want []byte) {
	t.Helper()
	got, err := a.Get(context.Background(), []byte(key), nil)
	if want == nil {
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("get %s: %v, want not found", key, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("get %s: wrong content, %d bytes, want %d", key, len(got), len(want))
	}
}

func TestPutGetReopen(t *testing.T) {
	dir := newDir(t)
	a := mustOpen(t, dir, Options{Cluster: testCluster})
	sizes := []int{0, 1, 100, 4095, 4096, 4097, 32 << 10, 65535, 65536, 65537, 1 << 20, 3<<20 + 17}
	want := make(map[string][]byte)
	for i, n := range sizes {
		key := fmt.Sprintf("key-%d", i)
		p := payload(n, uint64(i))
		if i%2 == 0 {
			q := NewBuffer(n)
			copy(q, p)
			p = q
		}
		want[key] = p
		put(t, a, key, p)
	}
	for round := range 3 {
		for k, p := range want {
			check(t, a, k, p)
			h, err := a.Head(t.Context(), []byte(k))
			if err != nil || string(h.Info) != "info of "+k || h.Size != int64(len(p)) {
				t.Fatalf("round %d: head %s: %+v, %v", round, k, h, err)
			}
		}
		if st := a.Stat(); st.Records != int64(len(want)) {
			t.Fatalf("round %d: %d records, want %d", round, st.Records, len(want))
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		a = mustOpen(t, dir, Options{Cluster: testCluster})
		k := fmt.Sprintf("key-%d", round)
		del(t, a, k)
		delete(want, k)
		check(t, a, k, nil)
	}
}

func TestPartialGet(t *testing.T) {
	a := mustOpen(t, newDir(t), Options{})
	p := payload(1<<20+100, 1)
	put(t, a, "k", p)
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		off := r.IntN(len(p))
		n := r.IntN(min(len(p)-off, 200<<10) + 1)
		s := []Section{{Off: int64(off), Buf: make([]byte, n)}, {Off: 0, Buf: make([]byte, 3)}}
		if err := a.PartialGet(t.Context(), []byte("k"), s); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s[0].Buf, p[off:off+n]) || !bytes.Equal(s[1].Buf, p[:3]) {
			t.Fatalf("wrong content of %d bytes at %d", n, off)
		}
	}
	err := a.PartialGet(t.Context(), []byte("k"), []Section{{Off: int64(len(p)) - 1, Buf: make([]byte, 2)}})
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("past the end: %v", err)
	}
}

func TestAsserts(t *testing.T) {
	a := mustOpen(t, newDir(t), Options{})
	v := put(t, a, "a", []byte("1"))
	try := func(ok bool, f func(b *Batch)) {
		t.Helper()
		var b Batch
		f(&b)
		b.Put([]byte("x"), nil, []byte("y"))
		_, err := a.Apply(t.Context(), &b, Written)
		var ae *AssertError
		if ok && err != nil || !ok && !errors.As(err, &ae) {
			t.Fatalf("got %v, want ok %v", err, ok)
		}
	}
	try(true, func(b *Batch) { b.AssertExists([]byte("a")) })
	try(false, func(b *Batch) { b.AssertAbsent([]byte("a")) })
	try(true, func(b *Batch) { b.AssertAbsent([]byte("b")) })
	try(false, func(b *Batch) { b.AssertExists([]byte("b")) })
	try(true, func(b *Batch) { b.AssertVersion([]byte("a"), v) })
	try(false, func(b *Batch) { b.AssertVersion([]byte("a"), v+1) })
	try(false, func(b *Batch) { b.AssertVersion([]byte("b"), 0) })
	try(true, func(b *Batch) { b.Put([]byte("twice"), nil, []byte("1")); b.Delete([]byte("twice")) })
	check(t, a, "twice", nil)
	try(true, func(b *Batch) { b.Delete([]byte("twice")); b.Put([]byte("twice"), nil, []byte("2")) })
	check(t, a, "twice", []byte("2"))
}

func TestRange(t *testing.T) {
	a := mustOpen(t, newDir(t), Options{})
	for i := range 50 {
		var b Batch
		b.Put(fmt.Appendf(nil, "k%02d", i), fmt.Appendf(nil, "i%d", i), []byte("v"))
		d := Durable
		if i%3 == 0 {
			d = Written
		}
		if _, err := a.Apply(t.Context(), &b, d); err != nil {
			t.Fatal(err)
		}
	}
	list, more, err := a.Range(t.Context(), []byte("k10"), []byte("k40"), RangeOptions{Limit: 20, Info: true})
	if err != nil || !more || len(list) != 20 {
		t.Fatalf("%d records, more %v, %v", len(list), more, err)
	}
	for i, h := range list {
		if string(h.Key) != fmt.Sprintf("k%02d", i+10) || string(h.Info) != fmt.Sprintf("i%d", i+10) {
			t.Fatalf("record %d: %q %q", i, h.Key, h.Info)
		}
	}
	list, more, err = a.Range(t.Context(), nil, nil, RangeOptions{})
	if err != nil || more || len(list) != 50 {
		t.Fatalf("%d records, more %v, %v", len(list), more, err)
	}
}

func TestCompact(t *testing.T) {
	dir := newDir(t)
	a := mustOpen(t, dir, Options{SegmentSize: 4 << 20, Compaction: Compaction{Mode: CompactManual}})
	want := make(map[string][]byte)
	for i := range 200 {
		k := fmt.Sprintf("k%03d", i)
		want[k] = payload(100<<10, uint64(i))
		put(t, a, k, want[k])
	}
	used := a.Stat().Used
	for i := range 200 {
		if i%4 != 0 {
			k := fmt.Sprintf("k%03d", i)
			del(t, a, k)
			delete(want, k)
		}
	}
	if err := a.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := a.Stat()
	if st.Used > used/2 {
		t.Fatalf("used %d before, %d after: %+v", used, st.Used, st)
	}
	for i := range 200 {
		k := fmt.Sprintf("k%03d", i)
		check(t, a, k, want[k])
	}
	a.Close()
	a = mustOpen(t, dir, Options{SegmentSize: 4 << 20})
	for i := range 200 {
		k := fmt.Sprintf("k%03d", i)
		check(t, a, k, want[k])
	}
}
