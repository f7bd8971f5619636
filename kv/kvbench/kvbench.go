// Package kvbench measures a kv.Store. `gabion bench kv` prints what it returns.
package kvbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// Config of Run. The zero value is a run of about ten seconds.
type Config struct {
	// Duration of each measurement; 1 s when 0.
	Duration time.Duration
	// Puts in each transaction; 5 when 0, about what creating a file takes.
	Puts int
	// ValueBytes of each value; 100 when 0.
	ValueBytes int
	// Clients of the durable measurements; 1, 16 and 64 when nil.
	Clients []int
	// Keys that the reads find; 100000 when 0.
	Keys int
}

// Row is one figure.
type Row struct {
	Name  string
	Value float64
	Unit  string
}

const keyspace kv.Keyspace = "bench"

func (c *Config) setDefaults() error {
	if c.Duration == 0 {
		c.Duration = time.Second
	}
	if c.Puts == 0 {
		c.Puts = 5
	}
	if c.ValueBytes == 0 {
		c.ValueBytes = 100
	}
	if c.Clients == nil {
		c.Clients = []int{1, 16, 64}
	}
	if c.Keys == 0 {
		c.Keys = 100000
	}
	if c.Duration < 0 || c.Puts < 0 || c.ValueBytes < 0 || c.ValueBytes > kv.MaxValue || c.Keys < 0 {
		return errors.New("kvbench: a negative or too large number in the configuration")
	}
	for _, n := range c.Clients {
		if n < 1 {
			return fmt.Errorf("kvbench: %d clients", n)
		}
	}
	return nil
}

// Run measures the store and returns the figures in the order they were taken. It writes to the
// keyspace "bench" and leaves it empty of what it wrote. When ctx ends it returns what there is, with
// the context's error.
func Run(ctx context.Context, s kv.Store, c Config) (rows []Row, err error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, clean(context.WithoutCancel(ctx), s)) }()
	b := &bench{Config: c, store: s}
	for _, n := range c.Clients {
		r, err := b.rate(ctx, fmt.Sprintf("durable transactions, %d clients", n), n, func(ctx context.Context, i uint64) error { return b.write(ctx, kv.Durable, i) })
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	r, err := b.ordered(ctx)
	if err != nil {
		return rows, err
	}
	rows = append(rows, r)
	if err := b.fill(ctx); err != nil {
		return rows, err
	}
	for _, l := range []struct {
		name  string
		level kv.Level
	}{{"pending gets", kv.Pending}, {"linearizable gets", kv.Linearizable}} {
		r, err := b.rate(ctx, l.name, 1, func(ctx context.Context, i uint64) error { return b.get(ctx, l.level, i) })
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	if r, err = b.scan(ctx); err != nil {
		return rows, err
	}
	return append(rows, r), nil
}

type bench struct {
	Config
	store kv.Store
	next  atomic.Uint64 // so that no measurement writes the keys of another
}

// spread turns consecutive numbers into keys all over the keyspace.
func spread(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i*0x9E3779B97F4A7C15) }

// rate runs op in n clients for the duration and returns the operations per second.
func (b *bench) rate(ctx context.Context, name string, n int, op func(ctx context.Context, i uint64) error) (Row, error) {
	var (
		w    sync.WaitGroup
		done atomic.Uint64
		errs = make([]error, n)
		over atomic.Bool
	)
	began := time.Now()
	stop := time.AfterFunc(b.Duration, func() { over.Store(true) })
	defer stop.Stop()
	for k := range n {
		w.Go(func() {
			for { // once at least, however late it gets a processor
				if errs[k] = op(ctx, b.next.Add(1)); errs[k] != nil {
					return
				}
				if done.Add(1); over.Load() {
					return
				}
			}
		})
	}
	w.Wait()
	if err := errors.Join(errs...); err != nil {
		return Row{}, fmt.Errorf("kvbench: %s: %w", name, err)
	}
	return Row{name, float64(done.Load()) / time.Since(began).Seconds(), "/s"}, nil
}

func (b *bench) write(ctx context.Context, c kv.Commit, i uint64) error {
	return b.store.Update(ctx, c, func(tx kv.Txn) error {
		for n := range b.Puts {
			tx.Put(keyspace, append([]byte{1, byte(n >> 8), byte(n)}, spread(i)...), make([]byte, b.ValueBytes))
		}
		return nil
	})
}

// ordered counts the time until everything is durable.
func (b *bench) ordered(ctx context.Context) (Row, error) {
	began := time.Now()
	r, err := b.rate(ctx, "ordered transactions, 1 client", 1, func(ctx context.Context, i uint64) error { return b.write(ctx, kv.Ordered, i) })
	if err != nil {
		return r, err
	}
	n := r.Value * time.Since(began).Seconds()
	if err := b.store.Sync(ctx); err != nil {
		return r, err
	}
	r.Value = n / time.Since(began).Seconds()
	return r, nil
}

func readKey(i uint64) []byte { return append([]byte{2}, spread(i)...) }

// fill writes the keys that the reads find.
func (b *bench) fill(ctx context.Context) error {
	const perTxn = 500
	for i := 0; i < b.Keys; i += perTxn {
		if err := b.store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
			for j := i; j < min(i+perTxn, b.Keys); j++ {
				tx.Put(keyspace, readKey(uint64(j)), make([]byte, b.ValueBytes))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return b.store.Sync(ctx)
}

func (b *bench) get(ctx context.Context, l kv.Level, i uint64) error {
	return b.store.View(ctx, l, func(r kv.Reader) error {
		v, err := r.Get(keyspace, readKey(i%uint64(b.Keys)))
		if err == nil && len(v) != b.ValueBytes {
			err = fmt.Errorf("a value of %d bytes, want %d", len(v), b.ValueBytes)
		}
		return err
	})
}

// scan ranges over everything again and again.
func (b *bench) scan(ctx context.Context) (Row, error) {
	var bytes float64
	began := time.Now()
	for again := true; again; again = time.Since(began) < b.Duration {
		n := 0
		if err := b.store.View(ctx, kv.Pending, func(r kv.Reader) error {
			return r.Range(keyspace, kv.Prefix([]byte{2}), func(k, v []byte) bool {
				n++
				bytes += float64(len(k) + len(v))
				return true
			})
		}); err != nil {
			return Row{}, err
		}
		if n != b.Keys {
			return Row{}, fmt.Errorf("kvbench: the range has %d keys, want %d", n, b.Keys)
		}
	}
	return Row{"range", bytes / time.Since(began).Seconds() / 1e6, "MB/s"}, nil
}

// clean deletes what was written, in transactions of a moderate size.
func clean(ctx context.Context, s kv.Store) error {
	const perTxn = 5000
	for {
		n := 0
		if err := s.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
			var keys [][]byte
			if err := tx.Range(keyspace, kv.Range{Limit: perTxn}, func(k, _ []byte) bool {
				keys = append(keys, append([]byte(nil), k...))
				return true
			}); err != nil {
				return err
			}
			n = len(keys)
			for _, k := range keys {
				tx.Delete(keyspace, k)
			}
			return nil
		}); err != nil {
			return err
		}
		if n < perTxn {
			return s.Sync(ctx)
		}
	}
}
