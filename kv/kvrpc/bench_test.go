package kvrpc

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// The benchmarks run three members in this process, each with its own log on the disk, and clients over
// loopback TCP. An operation is one request of one client.

func benchGroup(b *testing.B, members int) *group {
	return startGroup(b, groupOptions{members: members, heartbeat: time.Second, raft: func(o *raftkv.Options) {
		if dir := os.Getenv("GABION_BENCH_DIR"); dir != "" {
			o.Dir = dir + "/" + b.Name() + "/" + o.ID
		}
	}})
}

func benchKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i*0x9E3779B97F4A7C15) }

// each runs op b.N times on n goroutines; store says which client a goroutine uses.
func each(b *testing.B, n int, store func(i int) *Store, op func(ctx context.Context, s *Store, i uint64) error) {
	b.Helper()
	var w sync.WaitGroup
	var turn atomic.Uint64
	b.ResetTimer()
	b.ReportAllocs()
	began, cpu := time.Now(), cpuTime()
	for k := range n {
		s := store(k)
		w.Go(func() {
			for {
				i := turn.Add(1)
				if i > uint64(b.N) {
					return
				}
				if err := op(context.Background(), s, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	w.Wait()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "op/s")
	// Of clients and members together; it tells more than the rate while others use the machine.
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// clients returns how goroutines find their store: one client for all, or one each.
func (g *group) clients(b *testing.B, n int, separate bool) func(i int) *Store {
	var stores []*Store
	if !separate {
		n = 1
	}
	for range n {
		stores = append(stores, g.client(ClientOptions{}).Store(testStore))
	}
	for _, s := range stores { // connected and registered
		if err := s.Set(context.Background(), kv.Durable, "warm", []byte("k"), nil); err != nil {
			b.Fatal(err)
		}
	}
	return func(i int) *Store { return stores[i%len(stores)] }
}

func BenchmarkSet(b *testing.B) {
	value := make([]byte, 100)
	for _, members := range []int{1, 3} {
		for _, c := range []struct {
			name     string
			commit   kv.Commit
			n        int
			separate bool
		}{
			{"durable/1", kv.Durable, 1, false},
			{"durable/16", kv.Durable, 16, false},
			{"durable/256", kv.Durable, 256, false},
			{"durable/256clients", kv.Durable, 256, true},
			{"ordered/1", kv.Ordered, 1, false},
			{"ordered/256", kv.Ordered, 256, false},
		} {
			b.Run(fmt.Sprintf("members=%d/%s", members, c.name), func(b *testing.B) {
				g := benchGroup(b, members)
				each(b, c.n, g.clients(b, c.n, c.separate), func(ctx context.Context, s *Store, i uint64) error {
					return s.Set(ctx, c.commit, "b", benchKey(i), value)
				})
			})
		}
	}
}

func BenchmarkGet(b *testing.B) {
	g := benchGroup(b, 3)
	const keys = 10000
	fill(b, g.client(ClientOptions{}).Store(testStore), keys, 100)
	for _, c := range []struct {
		name     string
		o        ReadOptions
		n        int
		separate bool
	}{
		{"linearizable/1", ReadOptions{}, 1, false},
		{"linearizable/16", ReadOptions{}, 16, false},
		{"linearizable/256", ReadOptions{}, 256, false},
		{"linearizable/256clients", ReadOptions{}, 256, true},
		{"session/256", ReadOptions{Level: Session}, 256, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			each(b, c.n, g.clients(b, c.n, c.separate), func(ctx context.Context, s *Store, i uint64) error {
				_, err := s.Get(ctx, "b", benchKey(i%keys), c.o)
				return err
			})
		})
	}
}

func fill(b *testing.B, s *Store, keys, size int) {
	b.Helper()
	var steps []kv.Step
	for i := range keys {
		steps = append(steps, kv.Step{Op: kv.OpSet, Keyspace: "b", Key: benchKey(uint64(i)), Value: make([]byte, size)})
		if len(steps) == 1000 || i == keys-1 {
			if _, err := s.Apply(context.Background(), kv.Ordered, steps); err != nil {
				b.Fatal(err)
			}
			steps = nil
		}
	}
	if err := s.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkScan(b *testing.B) {
	for _, size := range []int{100, 4096} {
		b.Run(fmt.Sprintf("value=%d", size), func(b *testing.B) {
			g := benchGroup(b, 3)
			s := g.client(ClientOptions{}).Store(testStore)
			keys := 32 << 20 / (size + 8)
			fill(b, s, keys, size)
			b.SetBytes(int64(keys * (size + 8)))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				n := 0
				if err := s.Scan(context.Background(), "b", kv.Range{}, RangeOptions{MaxBytes: 4 << 20}, func(_, _ []byte) bool { n++; return true }); err != nil {
					b.Fatal(err)
				}
				if n != keys {
					b.Fatalf("%d keys, want %d", n, keys)
				}
			}
		})
	}
}
