package asd

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// BenchmarkIndexChoice compares pebble, as the index uses it, with bbolt, run without its own sync because the
// segments are the truth: inserts in batches of 16 random keys with values of 90 bytes, then lookups. See ADR 0020.
func BenchmarkIndexChoice(b *testing.B) {
	const n = 200_000
	key := func(i int) []byte { return fmt.Appendf(nil, "k%016x-fragment-%08d", uint64(i)*0x9E3779B97F4A7C15, i) }
	e := entry{location: location{segment: 3, page: 70000, off: 4096}, size: 1 << 20, infoLen: 100, seq: 123456, crcs: make([]byte, 64)}
	value := e.encode(nil)
	report := func(b *testing.B, dir string) {
		var size int64
		filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
			if err == nil && fi.Mode().IsRegular() {
				size += fi.Size()
			}
			return nil
		})
		b.ReportMetric(float64(size)/n, "disk-B/key")
		runtime.GC()
		status, _ := os.ReadFile("/proc/self/status")
		for l := range strings.Lines(string(status)) {
			var kb float64
			if _, err := fmt.Sscanf(l, "VmRSS: %f", &kb); err == nil {
				b.ReportMetric(kb/1e3, "rss-MB")
			}
		}
	}
	b.Run("pebble", func(b *testing.B) {
		dir := b.TempDir()
		cache := NewIndexCache(8 << 20)
		defer cache.Close()
		x, err := openIndex(dir, cache, 2<<20, slog.New(slog.DiscardHandler), indexEvents{corrupt: func(error) {}, failed: func(error) {}, noSpace: func() {}})
		if err != nil {
			b.Fatal(err)
		}
		defer x.close()
		b.Run("insert", func(b *testing.B) {
			for b.Loop() {
				for i := 0; i < n; {
					batch := x.db.NewBatch()
					for range 16 {
						batch.Set(recordKey(key(i)), value, nil)
						i++
					}
					if err := batch.Commit(noSync); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := x.db.Flush(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N)/n, "us/insert")
			report(b, dir)
		})
		b.Run("lookup", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if e, err := x.get(key(i * 7919 % n)); err != nil || e == nil {
					b.Fatal(err)
				}
			}
			report(b, dir)
		})
		b.Run("absent", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if e, err := x.get(key(i + n)); err != nil || e != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("bbolt", func(b *testing.B) {
		dir := b.TempDir()
		db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		bucket := []byte("k")
		if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }); err != nil {
			b.Fatal(err)
		}
		b.Run("insert", func(b *testing.B) {
			for b.Loop() {
				for i := 0; i < n; {
					if err := db.Update(func(tx *bbolt.Tx) error {
						for range 16 {
							if err := tx.Bucket(bucket).Put(key(i), value); err != nil {
								return err
							}
							i++
						}
						return nil
					}); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(b.N)/n, "us/insert")
			report(b, dir)
		})
		lookup := func(b *testing.B, from int, want bool) {
			for i := 0; b.Loop(); i++ {
				db.View(func(tx *bbolt.Tx) error {
					if v := tx.Bucket(bucket).Get(key(from + i*7919%n)); (v != nil) != want {
						b.Fatal(i)
					}
					return nil
				})
			}
			report(b, dir)
		}
		b.Run("lookup", func(b *testing.B) { lookup(b, 0, true) })
		b.Run("absent", func(b *testing.B) { lookup(b, n, false) })
	})
}
