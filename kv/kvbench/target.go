package kvbench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Target is a store that is measured through its client. Safe for concurrent use.
type Target interface {
	// Put sets a key and returns when that is durable.
	Put(ctx context.Context, key, value []byte) error
	// Get returns the value of a key, which is the latest.
	Get(ctx context.Context, key []byte) ([]byte, error)
	// Range reads the keys from <= k < to with their values and returns their bytes.
	Range(ctx context.Context, from, to []byte) (int64, error)
	Close() error
}

// Orderer is a Target that can acknowledge a write before it is durable, in an order that is kept.
type Orderer interface {
	PutOrdered(ctx context.Context, key, value []byte) error
}

// System is something that gives Targets.
type System struct {
	Name string
	// Dial returns a Target with that many connections for that many clients.
	Dial func(ctx context.Context, conns, clients int) (Target, error)
	// NoRange says that it cannot read a range.
	NoRange bool
}

// Kind of a measurement.
type Kind string

// The kinds of measurements.
const (
	DurableWrites Kind = "durable writes"
	OrderedWrites Kind = "ordered writes"
	LatestReads   Kind = "linearizable reads"
	Ranges        Kind = "ranges"
)

// Kinds are all of them, in the order in which they are measured.
var Kinds = []Kind{DurableWrites, OrderedWrites, LatestReads, Ranges}

// CompareConfig of Compare.
type CompareConfig struct {
	Duration   time.Duration // of each measurement; 2 s when 0
	Clients    []int         // 1, 16 and 256 when nil
	Kinds      []Kind        // all when nil
	ValueBytes int           // 100 when 0
	Keys       int           // that the reads find; 20000 when 0
	// Conns is how many connections a number of clients shares; one for each 16 of them when nil.
	Conns func(clients int) int
}

func (c *CompareConfig) setDefaults() {
	if c.Duration == 0 {
		c.Duration = 2 * time.Second
	}
	if c.Clients == nil {
		c.Clients = []int{1, 16, 256}
	}
	if c.Kinds == nil {
		c.Kinds = Kinds
	}
	if c.ValueBytes == 0 {
		c.ValueBytes = 100
	}
	if c.Keys == 0 {
		c.Keys = 20000
	}
	if c.Conns == nil {
		c.Conns = func(clients int) int { return max(1, clients/16) }
	}
}

// Result is one figure of one system.
type Result struct {
	System  string  `json:"system"`
	Kind    Kind    `json:"kind"`
	Clients int     `json:"clients"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	// Latency of an operation in milliseconds.
	P50 float64 `json:"p50_ms"`
	P90 float64 `json:"p90_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// Compare measures the systems, each row on one after the other, so that what else the machine does meets
// all of them. report gets the results as they come.
func Compare(ctx context.Context, systems []System, c CompareConfig, report func(Result) error) error {
	c.setDefaults()
	for _, s := range systems {
		if err := c.on(ctx, s, 16, func(r *runner) error { return r.fill(ctx) }); err != nil {
			return err
		}
	}
	for _, kind := range c.Kinds {
		for _, clients := range c.Clients {
			if kind == Ranges && clients > 16 {
				continue
			}
			for _, s := range systems {
				if kind == Ranges && s.NoRange {
					continue
				}
				if err := c.on(ctx, s, clients, func(r *runner) error { return r.measure(ctx, kind, report) }); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// runner measures one system with a number of clients.
type runner struct {
	CompareConfig
	system  string
	target  Target
	clients int
}

func (c CompareConfig) on(ctx context.Context, s System, clients int, fn func(*runner) error) error {
	t, err := s.Dial(ctx, c.Conns(clients), clients)
	if err == nil {
		err = errors.Join(fn(&runner{c, s.Name, t, clients}), t.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

func (r *runner) fill(ctx context.Context) error {
	var next atomic.Int64
	return r.each(func() error {
		for {
			i := next.Add(1) - 1
			if i >= int64(r.Keys) {
				return nil
			}
			if err := r.target.Put(ctx, readKey(uint64(i)), make([]byte, r.ValueBytes)); err != nil {
				return err
			}
		}
	})
}

// each runs fn in every client.
func (r *runner) each(fn func() error) error {
	errs := make([]error, r.clients)
	var w sync.WaitGroup
	for i := range errs {
		w.Go(func() { errs[i] = fn() })
	}
	w.Wait()
	return errors.Join(errs...)
}

var writes atomic.Uint64 // so that no measurement writes the keys of another

func writeKey() []byte { return append([]byte{1}, spread(writes.Add(1))...) }

// operation returns what a client does again and again; done runs at its end.
func (r *runner) operation(kind Kind) (op func(ctx context.Context) (int64, error), done func(context.Context) error) {
	value := make([]byte, r.ValueBytes)
	done = func(context.Context) error { return nil }
	switch kind {
	case DurableWrites:
		op = func(ctx context.Context) (int64, error) { return 1, r.target.Put(ctx, writeKey(), value) }
	case OrderedWrites:
		o, ok := r.target.(Orderer)
		if !ok {
			return nil, nil
		}
		op = func(ctx context.Context) (int64, error) { return 1, o.PutOrdered(ctx, writeKey(), value) }
		// The figure counts until everything is durable.
		done = func(ctx context.Context) error { return r.target.Put(ctx, writeKey(), value) }
	case LatestReads:
		var i atomic.Uint64
		op = func(ctx context.Context) (int64, error) {
			v, err := r.target.Get(ctx, readKey(i.Add(1)*7%uint64(r.Keys)))
			if err == nil && len(v) != r.ValueBytes {
				err = fmt.Errorf("a value of %d bytes, want %d", len(v), r.ValueBytes)
			}
			return 1, err
		}
	case Ranges:
		op = func(ctx context.Context) (int64, error) {
			n, err := r.target.Range(ctx, []byte{2}, []byte{3})
			if want := int64(r.Keys * (9 + r.ValueBytes)); err == nil && n != want {
				err = fmt.Errorf("a range of %d bytes, want %d", n, want)
			}
			return n, err
		}
	}
	return op, done
}

func (r *runner) measure(ctx context.Context, kind Kind, report func(Result) error) error {
	op, done := r.operation(kind)
	if op == nil {
		return nil
	}
	// Connections, and whatever else comes with the first request.
	if err := r.each(func() error { _, err := op(ctx); return err }); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	var total atomic.Int64
	var over atomic.Bool
	latencies := new(Latencies)
	began := time.Now()
	stop := time.AfterFunc(r.Duration, func() { over.Store(true) })
	defer stop.Stop()
	err := r.each(func() error {
		for again := true; again; again = !over.Load() {
			start := time.Now()
			n, err := op(ctx)
			if err != nil {
				return err
			}
			latencies.Add(time.Since(start))
			total.Add(n)
		}
		return nil
	})
	if err == nil {
		err = done(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	ms := func(q float64) float64 { return latencies.Quantile(q).Seconds() * 1e3 }
	res := Result{
		System: r.system, Kind: kind, Clients: r.clients, Unit: "/s",
		Value: float64(total.Load()) / time.Since(began).Seconds(),
		P50:   ms(.5), P90: ms(.9), P99: ms(.99), Max: ms(1),
	}
	if kind == Ranges {
		res.Value, res.Unit = res.Value/1e6, "MB/s"
	}
	return report(res)
}
