package kvsession_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvsession"
	"github.com/gabionfs/gabion/kv/kvsession/sessiontest"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// cpu reports the processor time of the whole process per operation: members, wire and session.
func cpu(b *testing.B) func() {
	now := func() int64 {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	began := now()
	return func() { b.ReportMetric(float64(now()-began)/float64(b.N), "cpu-ns/op") }
}

func benchRig(b *testing.B, members int) *kvsession.Session {
	r := sessiontest.New(b, members)
	return r.Session(kvsession.Options{})
}

var stores = []struct {
	name string
	open func(b *testing.B) kv.Store
}{
	{"embedded", func(b *testing.B) kv.Store {
		s, err := raftkv.Open(context.Background(), raftkv.Options{Dir: sessiontest.MemDir(b)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		return s
	}},
	{"session1", func(b *testing.B) kv.Store { return benchRig(b, 1) }},
	{"session3", func(b *testing.B) kv.Store { return benchRig(b, 3) }},
}

// each runs fn with one goroutine and with eight; i is different each time.
func each(b *testing.B, fn func(b *testing.B, s kv.Store, i uint64)) {
	for _, st := range stores {
		for _, n := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", st.name, n), func(b *testing.B) {
				s := st.open(b)
				b.ReportAllocs()
				b.ResetTimer()
				done := cpu(b)
				if n == 1 {
					for i := range b.N {
						fn(b, s, uint64(i))
					}
				} else {
					var next atomic.Uint64
					b.SetParallelism(max(1, n/2))
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							fn(b, s, next.Add(1))
						}
					})
				}
				if err := s.Sync(context.Background()); err != nil {
					b.Fatal(err)
				}
				done()
			})
		}
	}
}

// BenchmarkOrdered is the load of a filesystem that creates files: five new rows in each transaction,
// nothing waits, everything is durable at the end.
func BenchmarkOrdered(b *testing.B) {
	each(b, func(b *testing.B, s kv.Store, i uint64) {
		if err := s.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error {
			for n := range byte(5) {
				tx.Put("inode", binary.BigEndian.AppendUint64([]byte{n}, i*0x9E3779B97F4A7C15), make([]byte, 100))
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkCreate reads before it writes, as creating a file does.
func BenchmarkCreate(b *testing.B) {
	each(b, func(b *testing.B, s kv.Store, i uint64) {
		key := binary.BigEndian.AppendUint64(nil, i)
		if err := s.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error {
			if _, err := tx.Get("inode", []byte("parent")); err != nil && err != kv.ErrNotFound {
				return err
			}
			if err := tx.Range("dirent", kv.Prefix(key), func(_, _ []byte) bool { return true }); err != nil {
				return err
			}
			if _, err := tx.Get("volume", []byte("files")); err != nil && err != kv.ErrNotFound {
				return err
			}
			tx.Put("inode", key, make([]byte, 60))
			tx.Put("dirent", append(key, "a name of a file"...), make([]byte, 12))
			tx.Put("inode", []byte("parent"), make([]byte, 60))
			tx.Put("volume", []byte("files"), key)
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkDurable waits for each transaction.
func BenchmarkDurable(b *testing.B) {
	each(b, func(b *testing.B, s kv.Store, i uint64) {
		if err := s.Update(context.Background(), kv.Durable, func(tx kv.Txn) error {
			tx.Put("inode", binary.BigEndian.AppendUint64(nil, i*0x9E3779B97F4A7C15), make([]byte, 100))
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkGet reads rows that were written and are known here.
func BenchmarkGet(b *testing.B) {
	const rows = 100_000
	key := func(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i%rows*0x9E3779B97F4A7C15) }
	filled := map[kv.Store]bool{}
	each(b, func(b *testing.B, s kv.Store, i uint64) {
		if i == 0 && !filled[s] {
			b.StopTimer()
			for n := uint64(0); n < rows; n++ {
				if err := s.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error {
					tx.Put("inode", key(n), make([]byte, 100))
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			filled[s] = true
			b.StartTimer()
		}
		if err := s.View(context.Background(), kv.Pending, func(r kv.Reader) error {
			_, err := r.Get("inode", key(i*7))
			if err == kv.ErrNotFound && len(filled) == 0 {
				err = nil
			}
			return err
		}); err != nil && filled[s] {
			b.Fatal(err)
		}
	})
}

// BenchmarkGetUnknown reads rows that are not known here: each asks the leader for its neighbourhood.
func BenchmarkGetUnknown(b *testing.B) {
	r := sessiontest.New(b, 3)
	s := r.Session(kvsession.Options{CacheBytes: 1})
	key := func(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i*0x9E3779B97F4A7C15) }
	const rows = 100_000
	for i := uint64(0); i < rows; i += 1000 {
		if err := s.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error {
			for n := i; n < i+1000; n++ {
				tx.Put("inode", key(n), make([]byte, 100))
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for i := range b.N {
		if err := s.View(context.Background(), kv.Pending, func(r kv.Reader) error {
			_, err := r.Get("inode", key(uint64(i)*7919%rows))
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(s.Stats().Fetches)/float64(b.N), "questions/op")
}
