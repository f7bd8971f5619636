// Package kvbench measures a kv.Store by itself: durable and ordered transactions, linearizable reads and
// ranges, by one and by many clients. Figures of one run are comparable with each other; figures of
// different days are not.
package kvbench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Row is one figure, with percentiles of how long an operation took where that was measured.
type Row struct {
	Name     string
	Value    float64
	Unit     string
	P50, P99 time.Duration
}

// Config says how much to do. Zero values are usable.
type Config struct {
	Clients  []int             // nil means 1 and 16
	Time     time.Duration     // how long a row takes at most; 0 means 2 s
	Emit     func(Row)         // takes the figures
	Progress func(name string) // is told what is measured next; may be nil
}

func (c *Config) defaults() {
	if c.Clients == nil {
		c.Clients = []int{1, 16}
	}
	if c.Time == 0 {
		c.Time = 2 * time.Second
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
}

// result is what a row measured.
type result struct {
	count  int64
	took   time.Duration
	sorted []time.Duration // of single operations
}

func (r result) percentile(p float64) time.Duration {
	if len(r.sorted) == 0 {
		return 0
	}
	return r.sorted[min(int(p*float64(len(r.sorted))), len(r.sorted)-1)]
}

// perSecond is the row of a result as operations per second.
func (r result) perSecond(name string) Row {
	return Row{name, float64(r.count) / r.took.Seconds(), "/s", r.percentile(0.50), r.percentile(0.99)}
}

// maxSamples bounds the latencies that a client remembers.
const maxSamples = 1 << 16

// measure calls do with 0, 1, 2, ... from all clients until the time is over.
func (c *Config) measure(ctx context.Context, name string, clients int, do func(i int64) error) (result, error) {
	c.Progress(name)
	var next, done atomic.Int64
	var mu sync.Mutex // guards r.sorted
	var r result
	var failed error
	stop := make(chan struct{})
	var once sync.Once
	begin := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			var took []time.Duration
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				r.sorted = append(r.sorted, took...)
			}()
			for ctx.Err() == nil {
				select {
				case <-stop:
					return
				default:
				}
				start := time.Now()
				i := next.Add(1) - 1
				if start.Sub(begin) > c.Time {
					return
				}
				if err := do(i); err != nil {
					once.Do(func() { failed = fmt.Errorf("%s: %w", name, err); close(stop) })
					return
				}
				if len(took) < maxSamples {
					took = append(took, time.Since(start))
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	r.count, r.took = done.Load(), time.Since(begin)
	slices.Sort(r.sorted)
	if failed == nil {
		failed = ctx.Err()
	}
	return r, failed
}
