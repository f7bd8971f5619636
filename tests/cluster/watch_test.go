package cluster

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// watch follows the counters through all faults, and goes on with a read where the log was compacted away.
type watch struct {
	mu    sync.Mutex
	index uint64                 // everything up to it was delivered
	seen  map[int]map[int64]bool // by counter
	last  map[int]int64
	base  map[int]int64 // values that a read has told; those below may be left out
	gaps  int
	wrong []string
}

func newWatch() *watch {
	return &watch{seen: map[int]map[int64]bool{}, last: map[int]int64{}, base: map[int]int64{}}
}

// run watches until ctx is over.
func (w *watch) run(ctx context.Context, d *remote) error {
	from := uint64(1)
	for {
		err := d.store.Watch(ctx, kvrpc.WatchOptions{Keyspace: counterSpace, From: from}, w.deliver)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, kv.ErrCompacted):
			err = d.insist(ctx, "read after a gap", func(ctx context.Context) (err error) {
				from, err = w.reread(ctx, d)
				return err
			})
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
}

func (w *watch) deliver(index uint64, events []kvrpc.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if index <= w.index {
		w.wrong = append(w.wrong, fmt.Sprintf("watch: index %d after %d", index, w.index))
	}
	w.index = index
	for _, e := range events {
		n, err := strconv.Atoi(string(e.Key))
		v := decode(e.Value)
		if err != nil || e.Deleted || v <= w.last[n] {
			w.wrong = append(w.wrong, fmt.Sprintf("watch: at index %d: %q = %q after %d", index, e.Key, e.Value, w.last[n]))
			continue
		}
		w.last[n] = v
		if w.seen[n] == nil {
			w.seen[n] = map[int64]bool{}
		}
		w.seen[n][v] = true
	}
	return nil
}

// reread reads everything once, and returns where to go on.
func (w *watch) reread(ctx context.Context, d *remote) (from uint64, err error) {
	page, err := d.store.Range(ctx, counterSpace, kv.Range{}, kvrpc.RangeOptions{})
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gaps++
	for _, e := range page.Entries {
		n, err := strconv.Atoi(string(e.Key))
		if err != nil {
			return 0, err
		}
		v := decode(e.Value)
		w.base[n] = v
		w.last[n] = max(w.last[n], v)
	}
	// The read may have shown what came after its index, which is then delivered again.
	for n := range w.last {
		w.last[n] = min(w.last[n], w.floor(n))
	}
	w.index = page.Index
	return page.Index + 1, nil
}

// floor is the highest value of a counter that was delivered.
func (w *watch) floor(n int) int64 {
	var top int64
	for v := range w.seen[n] {
		top = max(top, v)
	}
	return top
}

// reached reports whether everything up to an index was delivered.
func (w *watch) reached(index uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.index >= index
}

// check compares what was delivered with what was written.
func (w *watch) check(counts []count) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	wrong := w.wrong
	attempted := map[[2]int64]bool{}
	for _, c := range counts {
		attempted[[2]int64{int64(c.counter), c.value}] = true
		if c.ret != never && c.value > w.base[c.counter] && !w.seen[c.counter][c.value] {
			wrong = append(wrong, fmt.Sprintf("watch: %d of counter %d, acknowledged at index %d, was not delivered up to %d", c.value, c.counter, c.index, w.index))
		}
	}
	for n, values := range w.seen {
		for v := range values {
			if !attempted[[2]int64{int64(n), v}] {
				wrong = append(wrong, fmt.Sprintf("watch: %d of counter %d was delivered and nobody wrote it", v, n))
			}
		}
	}
	return wrong
}

// TestWatchCheck: what a watch may get wrong is found.
func TestWatchCheck(t *testing.T) {
	event := func(n int, v int64) []kvrpc.Event {
		return []kvrpc.Event{{Keyspace: counterSpace, Key: counterKey(n), Value: encode(v)}}
	}
	counts := []count{{counter: 0, value: 1, index: 3, ret: 1}, {counter: 0, value: 2, ret: never}, {counter: 0, value: 3, index: 9, ret: 2}}
	type delivery struct {
		index  uint64
		events []kvrpc.Event
	}
	for name, c := range map[string]struct {
		deliveries []delivery
		want       string
	}{
		"all":      {[]delivery{{3, event(0, 1)}, {5, event(0, 2)}, {9, event(0, 3)}}, ""},
		"certain":  {[]delivery{{3, event(0, 1)}, {4, nil}, {9, event(0, 3)}}, ""},
		"missing":  {[]delivery{{9, event(0, 3)}}, "was not delivered"},
		"twice":    {[]delivery{{3, event(0, 1)}, {9, event(0, 3)}, {10, event(0, 3)}}, "after 3"},
		"order":    {[]delivery{{3, event(0, 1)}, {9, event(0, 3)}, {10, event(0, 2)}}, "after 3"},
		"backward": {[]delivery{{3, event(0, 1)}, {9, event(0, 3)}, {9, nil}}, "index 9 after 9"},
		"invented": {[]delivery{{3, event(0, 1)}, {9, event(0, 3)}, {10, event(0, 4)}}, "nobody wrote it"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatch()
			for _, d := range c.deliveries {
				if err := w.deliver(d.index, d.events); err != nil {
					t.Fatal(err)
				}
			}
			got := strings.Join(w.check(counts), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}
