package asd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestIterate: every record once and in order, whether it is pending, compacted or replaced while the iteration runs.
func TestIterate(t *testing.T) {
	a := mustOpen(t, newDir(t), Options{SegmentSize: 2 << 20, Compaction: Compaction{Mode: CompactManual}})
	r := rand.New(rand.NewPCG(1, 2))
	want := make(map[string][]byte)
	for _, i := range r.Perm(600) {
		k := fmt.Sprintf("k%04d", i)
		want[k] = payload(r.IntN(40<<10), uint64(i))
		put(t, a, k, want[k])
	}
	iterate := func(from, to []byte) (keys []string) {
		t.Helper()
		if err := a.Iterate(t.Context(), from, to, func(rec Record) error {
			if rec.Err != nil {
				return rec.Err
			}
			if !bytes.Equal(rec.Payload, want[string(rec.Key)]) {
				return fmt.Errorf("%s: wrong content", rec.Key)
			}
			keys = append(keys, string(rec.Key))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSorted(keys) {
			t.Fatal("not in order")
		}
		return keys
	}
	if got := iterate(nil, nil); len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range 600 {
		if k := fmt.Sprintf("k%04d", i); i%3 == 0 {
			del(t, a, k)
			delete(want, k)
		}
	}
	done := make(chan error)
	go func() { done <- a.Compact(context.Background()) }()
	for range 5 {
		if got := iterate(nil, nil); len(got) != len(want) {
			t.Fatalf("%d records, want %d", len(got), len(want))
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := iterate([]byte("k0100"), []byte("k0110")); len(got) != 7 {
		t.Fatalf("a part: %v", got)
	}
	if got := iterate([]byte("k0110"), []byte("k0100")); got != nil {
		t.Fatalf("nothing: %v", got)
	}
	stop := errors.New("stop")
	if err := a.Iterate(t.Context(), nil, nil, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}
