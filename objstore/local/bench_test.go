package local

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
)

// benchNamespace is a namespace over six ASDs, in GABION_BENCH_DIR or the system's temporary folder.
func benchNamespace(b *testing.B) objstore.Namespace {
	base, err := os.MkdirTemp(os.Getenv("GABION_BENCH_DIR"), "bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(base) })
	o := options(memkv.New(), nil)
	o.Capacity = 4 << 30
	for i := range 6 {
		o.Dirs = append(o.Dirs, filepath.Join(base, fmt.Sprint("asd", i)))
	}
	return namespace(b, open(b, o))
}

// BenchmarkPut4MiB puts blobs as the filesystem does, and deletes old ones so that segments are recycled.
func BenchmarkPut4MiB(b *testing.B) {
	ns := benchNamespace(b)
	ctx := context.Background()
	p := noise(4 << 20)
	var next atomic.Int64
	b.SetBytes(4 << 20)
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := next.Add(1)
			if _, err := ns.Put(ctx, fmt.Sprint(n), p); err != nil {
				b.Error(err)
			}
			if n > 200 {
				if err := ns.Delete(ctx, fmt.Sprint(n-200)); err != nil {
					b.Error(err)
				}
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	ns := benchNamespace(b)
	ctx := context.Background()
	const objects, size = 16, 4 << 20
	for i := range objects {
		for kind, p := range map[string][]byte{"noise": noise(size), "text": bytes.Repeat([]byte("gabion is a wire cage "), size/22+1)[:size]} {
			if _, err := ns.Put(ctx, fmt.Sprint(kind, i), p); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, kind := range []string{"noise", "text"} {
		for _, n := range []int{4 << 10, 128 << 10, 1 << 20, 4 << 20} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				p := make([]byte, n)
				for b.Loop() {
					off := rand.Int64N(int64(size/n)) * int64(n)
					if err := ns.ReadAt(ctx, fmt.Sprint(kind, rand.IntN(objects)), off, p); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
