package kvbench

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/kv"
)

const (
	benchKeyspace kv.Keyspace = "bench"

	valueSize = 100
	// preload is how many keys reads choose from.
	preload = 50000
)

// Run measures durable and ordered transactions of one put each, linearizable reads, and ranges, in a
// store that is the benchmark's own.
func Run(ctx context.Context, s kv.Store, c Config) error {
	c.defaults()
	value := make([]byte, valueSize)
	update := func(k kv.Commit) func(int64) error {
		return func(i int64) error {
			return s.Update(ctx, k, func(tx kv.Txn) error {
				tx.Put(benchKeyspace, spread(i), value)
				return nil
			})
		}
	}
	for _, clients := range c.Clients {
		name := fmt.Sprintf("durable transactions by %d", clients)
		r, err := c.measure(ctx, name, clients, update(kv.Durable))
		if err != nil {
			return err
		}
		c.Emit(r.perSecond(name))
	}
	for _, clients := range c.Clients {
		name := fmt.Sprintf("ordered transactions by %d", clients)
		r, err := c.measure(ctx, name, clients, update(kv.Ordered))
		if err != nil {
			return err
		}
		// They count once they are durable.
		start := time.Now()
		if err := s.Sync(ctx); err != nil {
			return err
		}
		r.took += time.Since(start)
		c.Emit(r.perSecond(name))
	}
	if err := fill(ctx, s, value); err != nil {
		return err
	}
	for _, clients := range c.Clients {
		name := fmt.Sprintf("linearizable gets by %d", clients)
		r, err := c.measure(ctx, name, clients, func(i int64) error {
			return s.View(ctx, kv.Linearizable, func(r kv.Reader) error {
				_, err := r.Get(benchKeyspace, spread(i%preload))
				return err
			})
		})
		if err != nil {
			return err
		}
		c.Emit(r.perSecond(name))
	}
	return ranges(ctx, s, &c)
}

// spread returns the i-th key: 8 bytes, in an order that is not that of the numbers.
func spread(i int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)*0x9E3779B97F4A7C15) }

// fill sees to it that the keys that are read are there.
func fill(ctx context.Context, s kv.Store, value []byte) error {
	const step = 1000
	for at := int64(0); at < preload; at += step {
		err := s.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
			for i := at; i < at+step; i++ {
				tx.Put(benchKeyspace, spread(i), value)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.Sync(ctx)
}

// ranges measures the reading of everything in order.
func ranges(ctx context.Context, s kv.Store, c *Config) error {
	var bytes int64
	r, err := c.measure(ctx, "range", 1, func(int64) error {
		return s.View(ctx, kv.Linearizable, func(r kv.Reader) error {
			n := int64(0)
			err := r.Range(benchKeyspace, kv.Range{}, func(k, v []byte) bool {
				n += int64(len(k) + len(v))
				return true
			})
			bytes += n
			return err
		})
	})
	if err != nil {
		return err
	}
	c.Emit(Row{Name: "range", Value: float64(bytes) / 1e6 / r.took.Seconds(), Unit: "MB/s"})
	return nil
}
