// Package layerbench measures the lower layers by themselves: transactions of a key-value store, and
// records of one disk. Figures of one run are comparable with each other; figures of different days are
// not.
package layerbench

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
	Bytes    int64             // how much a row writes at most; 0 means 256 MiB
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
	if c.Bytes == 0 {
		c.Bytes = 256 << 20
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

// throughput is the row of a result as bytes per second.
func (r result) throughput(name string, size int) Row {
	return Row{name, float64(r.count) * float64(size) / 1e6 / r.took.Seconds(), "MB/s", r.percentile(0.50), r.percentile(0.99)}
}

// maxSamples bounds the latencies that a client remembers.
const maxSamples = 1 << 16

// measure calls do with 0, 1, 2, ... from all clients, at most n times and for no longer than the time.
func (c *Config) measure(ctx context.Context, name string, clients int, n int64, do func(client int, i int64) error) (result, error) {
	c.Progress(name)
	var next, done atomic.Int64
	var mu sync.Mutex // guards r.sorted
	var r result
	var failed error
	stop := make(chan struct{})
	var once sync.Once
	begin := time.Now()
	var wg sync.WaitGroup
	for client := range clients {
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
				if i >= n || start.Sub(begin) > c.Time {
					return
				}
				if err := do(client, i); err != nil {
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
