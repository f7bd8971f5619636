package asd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", size>>10), func(b *testing.B) {
			a := mustOpen(b, newDir(b), Options{})
			p := NewBuffer(size)
			copy(p, payload(size, 1))
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				var batch Batch
				batch.Put(fmt.Appendf(nil, "%d", i), nil, p)
				if _, err := a.Apply(context.Background(), &batch, Durable); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGetWarm(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", size>>10), func(b *testing.B) {
			a := mustOpen(b, newDir(b), Options{})
			for i := range 100 {
				put(b, a, fmt.Sprint(i), payload(size, uint64(i)))
			}
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := a.Get(context.Background(), fmt.Appendf(nil, "%d", i%100), buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadPath compares reads through the page cache with reads past it, from the disk and again.
func BenchmarkReadPath(b *testing.B) {
	a := mustOpen(b, newDir(b), Options{})
	const records = 512
	for i := range records {
		p := NewBuffer(1 << 20)
		copy(p, payload(1<<20, uint64(i)))
		put(b, a, fmt.Sprint(i), p)
	}
	evict := func() {
		for _, s := range a.table.segments {
			f, err := s.reader()
			if err != nil {
				b.Fatal(err)
			}
			unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
	}
	for _, direct := range []bool{false, true} {
		for _, size := range []int{64 << 10, 1 << 20} {
			for _, workers := range []int{1, 16} {
				for _, warm := range []bool{false, true} {
					b.Run(fmt.Sprintf("direct=%v/%dK/by%d/again=%v", direct, size>>10, workers, warm), func(b *testing.B) {
						b.SetBytes(int64(size))
						if !warm {
							evict()
						}
						var wg sync.WaitGroup
						var next atomic.Int64
						n := int64(b.N)
						b.ResetTimer()
						for w := range workers {
							wg.Go(func() {
								r := rand.New(rand.NewPCG(uint64(w), uint64(b.N)))
								buf := NewBuffer(size)
								for next.Add(1) <= n {
									e, s, err := a.acquire(context.Background(), fmt.Append(nil, r.IntN(records)))
									if err != nil {
										b.Error(err)
										return
									}
									at := e.payloadOffset() + int64(r.IntN(1<<20/size)*size)
									if direct {
										f, _ := s.directReader()
										_, err = f.ReadAt(buf, at)
									} else {
										err = readBuffered(s, [][]byte{buf}, at)
									}
									s.release()
									if err != nil {
										b.Error(err)
										return
									}
								}
							})
						}
						wg.Wait()
					})
				}
			}
		}
	}
}

// BenchmarkOpen opens an ASD with many small records after a clean close, after a crash and without its index.
func BenchmarkOpen(b *testing.B) {
	records := 300_000
	dir := newDir(b)
	open := func() *ASD { // not mustOpen, whose cleanup would come between the parts
		a, err := Open(context.Background(), dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		return a
	}
	a := open()
	defer func() { a.Close() }()
	began := time.Now()
	for i := 0; i < records; {
		var batch Batch
		for ; batch.Len() < 1000; i++ {
			batch.Put(fmt.Appendf(nil, "%016x-%08d", uint64(i)*0x9E3779B97F4A7C15, i), []byte("some recovery information, as a manifest needs it"), []byte("payload"))
		}
		if _, err := a.Apply(b.Context(), &batch, Durable); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%.0f durable inserts/s in batches of 1000", float64(records)/time.Since(began).Seconds())
	report := func(b *testing.B) {
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		b.ReportMetric(float64(ms.HeapInuse)/1e6, "heap-MB")
		if st := a.Stat(); st.Records != int64(records) {
			b.Fatalf("%d records", st.Records)
		}
	}
	b.Run("clean", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			a.Close()
			b.StartTimer()
			a = open()
		}
		report(b)
	})
	b.Run("crash", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			put(b, a, "one", nil)
			del(b, a, "one")
			a.crash(b, 0)
			b.StartTimer()
			a = open()
		}
		report(b)
	})
	b.Run("rebuild", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			a.Close()
			os.RemoveAll(filepath.Join(dir, indexName))
			b.StartTimer()
			a = open()
		}
		report(b)
	})
	b.Run("lookup", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			k := i * 7919 % records
			if ok, err := a.Exists(b.Context(), fmt.Appendf(nil, "%016x-%08d", uint64(k)*0x9E3779B97F4A7C15, k)); err != nil || !ok[0] {
				b.Fatal(k, err)
			}
		}
	})
	b.Run("lookup-absent", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if ok, err := a.Exists(b.Context(), fmt.Appendf(nil, "%016x-absent", uint64(i)*0x9E3779B97F4A7C15)); err != nil || ok[0] {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkOpenMany opens 16 empty ASDs in one process.
func BenchmarkOpenMany(b *testing.B) {
	for b.Loop() {
		cache := NewIndexCache(32 << 20)
		began := time.Now()
		var list []*ASD
		for range 16 {
			list = append(list, mustOpen(b, newDir(b), Options{Cache: cache}))
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/16")
		for i, a := range list {
			put(b, a, fmt.Sprint(i), payload(1000, 1))
		}
		status, _ := os.ReadFile("/proc/self/status")
		for _, l := range strings.Split(string(status), "\n") {
			if strings.HasPrefix(l, "VmRSS") {
				b.Log(l)
			}
		}
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		for _, a := range list {
			a.Close()
		}
		cache.Close()
	}
}
