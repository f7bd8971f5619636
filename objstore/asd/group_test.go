package asd

import (
	"sync"
	"testing"
	"time"
)

// TestGroupStaysInItsSegment has two puts wait for the same frame, on an ASD that may allocate nothing more: the first
// fits into the active segment, and the second only into a file of the pool, which is another segment.
func TestGroupStaysInItsSegment(t *testing.T) {
	dir := newDir(t)
	opts := Options{SegmentSize: 4 << 20, Capacity: 8<<20 + 256<<10, Compaction: Compaction{Mode: CompactManual}}
	a := mustOpen(t, dir, opts)
	a.trimMu.Lock() // what is freed stays in the pool
	trim := sync.OnceFunc(a.trimMu.Unlock)
	t.Cleanup(trim)
	put(t, a, "freed", payload(3<<20, 1))
	if err := a.submit(&request{seal: true}); err != nil {
		t.Fatal(err)
	}
	del(t, a, "freed")
	if err := a.compactWhile(t.Context(), choice{fraction: 0.5}, -1, func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	before := a.newestSegment()
	// The test leads the queue until both wait.
	a.queue.mu.Lock()
	a.queue.leading = true
	a.queue.mu.Unlock()
	want := map[string][]byte{"first": payload(100<<10, 2), "second": payload(3<<19, 3)}
	ended := make(chan error, len(want))
	for i, key := range []string{"first", "second"} {
		go func() {
			var b Batch
			b.Put([]byte(key), nil, want[key])
			_, err := a.Apply(t.Context(), &b, Durable)
			ended <- err
		}()
		for end := time.Now().Add(time.Minute); a.queued() < i+1; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s does not wait", key)
			}
		}
	}
	a.lead()
	for range want {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if a.newestSegment() == before {
		t.Error("the second put has found room in the segment of the first")
	}
	trim()
	for key, p := range want {
		check(t, a, key, p)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = mustOpen(t, dir, opts)
	for key, p := range want {
		check(t, a, key, p)
	}
}

func (a *ASD) queued() int {
	a.queue.mu.Lock()
	defer a.queue.mu.Unlock()
	return len(a.queue.waiting)
}
