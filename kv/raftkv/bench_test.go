package raftkv_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// cpu reports the processor time of the whole process per operation.
func cpu(b *testing.B) func() {
	now := func() int64 {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	began := now()
	return func() { b.ReportMetric(float64(now()-began)/float64(b.N), "cpu-ns/op") }
}

func benchUpdate(b *testing.B, c kv.Commit, clients int) {
	s := open(b, raftkv.Options{})
	defer s.Close()
	ctx := context.Background()
	b.SetParallelism(max(1, clients/2))
	b.ReportAllocs()
	b.ResetTimer()
	report := cpu(b)
	fn := func(i uint64) error {
		return s.Update(ctx, c, func(tx kv.Txn) error {
			for n := range byte(5) {
				k := binary.BigEndian.AppendUint64([]byte{n}, i*0x9E3779B97F4A7C15)
				tx.Put("inode", k, make([]byte, 100))
			}
			return nil
		})
	}
	if clients == 1 {
		for i := range b.N {
			if err := fn(uint64(i)); err != nil {
				b.Fatal(err)
			}
		}
	} else {
		b.RunParallel(func(pb *testing.PB) {
			for i := uint64(0); pb.Next(); i++ {
				if err := fn(i); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	if err := s.Sync(ctx); err != nil {
		b.Fatal(err)
	}
	report()
}

func BenchmarkDurable1(b *testing.B)  { benchUpdate(b, kv.Durable, 1) }
func BenchmarkDurable16(b *testing.B) { benchUpdate(b, kv.Durable, 16) }
func BenchmarkDurable64(b *testing.B) { benchUpdate(b, kv.Durable, 64) }
func BenchmarkOrdered(b *testing.B)   { benchUpdate(b, kv.Ordered, 1) }

func BenchmarkOpen(b *testing.B) {
	for range b.N {
		open(b, raftkv.Options{}).Close()
	}
}

func benchGet(b *testing.B, flushed bool, l kv.Level) {
	o := raftkv.Options{}
	if flushed {
		o.FlushBytes = 1 << 20
	}
	s := open(b, o)
	defer s.Close()
	ctx := context.Background()
	const n = 100000
	key := func(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i%n)*0x9E3779B97F4A7C15) }
	for i := 0; i < n; i += 1000 {
		if err := s.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
			for j := range 1000 {
				tx.Put("inode", key(i+j), make([]byte, 100))
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Sync(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	defer cpu(b)()
	for i := range b.N {
		if err := s.View(ctx, l, func(r kv.Reader) error { _, err := r.Get("inode", key(i*7)); return err }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetPendingRecent(b *testing.B)      { benchGet(b, false, kv.Pending) }
func BenchmarkGetPendingBase(b *testing.B)        { benchGet(b, true, kv.Pending) }
func BenchmarkGetLinearizableRecent(b *testing.B) { benchGet(b, false, kv.Linearizable) }

// BenchmarkRangeBase walks the state file: all of it, and ten keys at a time.
func BenchmarkRangeBase(b *testing.B) {
	s := open(b, raftkv.Options{FlushBytes: 1 << 20})
	defer s.Close()
	ctx := context.Background()
	const n = 50000
	key := func(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }
	if err := s.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		for i := range n {
			tx.Put("inode", key(i), make([]byte, 100))
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	wait(b, "for the flush", func() bool { return s.Stats().RecentBytes == 0 })
	for _, limit := range []int{10, n} {
		b.Run(fmt.Sprint(limit), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				if err := s.View(ctx, kv.Pending, func(r kv.Reader) error {
					from := kv.Range{From: key(i * 7 % (n - limit + 1)), Limit: limit}
					return r.Range("inode", from, func(_, _ []byte) bool { return true })
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
