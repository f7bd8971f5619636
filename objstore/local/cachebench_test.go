package local

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
)

// cacheRig is a namespace at (4,2) over six ASDs, here or behind the loopback network, and a cache.
func cacheRig(b *testing.B, remote bool, c CacheOptions) (*Backend, objstore.Namespace) {
	base, err := os.MkdirTemp(os.Getenv("GABION_BENCH_DIR"), "bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(base) })
	o := options(memkv.New(), nil)
	var folders []string
	for i := range 6 {
		folders = append(folders, filepath.Join(base, fmt.Sprint("asd", i)))
	}
	if remote {
		f := newFarm(b)
		o.Dirs = f.serve(b, "n", loopback(), folders...).places()
		o.Remote.Credentials = f.client
	} else {
		o.Dirs = folders
	}
	o.Policies = []objstore.Policy{{K: 4, M: 2, C: 5, X: 6}}
	if o.Cache = c; c.Dir != "" {
		o.Cache.Dir = filepath.Join(base, c.Dir)
	}
	be := open(b, o)
	return be, namespace(b, be)
}

// BenchmarkCache reads objects of 4 MiB, whole or 4 KiB of them, with and without a cache that is warm, from disks of this
// process and over the loopback network. With "cold" the page cache does not have the cache's folder.
func BenchmarkCache(b *testing.B) {
	ctx := context.Background()
	const objects, size = 32, 4 << 20
	kinds := []struct {
		name string
		c    CacheOptions
	}{
		{"none", CacheOptions{}},
		{"memory", CacheOptions{Memory: 2 * objects * size, Reads: true}},
		{"folder", CacheOptions{Dir: "cache", Size: 4 * objects * size, Reads: true}},
		{"cold", CacheOptions{Dir: "cache", Size: 4 * objects * size, Reads: true}},
	}
	for _, place := range []string{"local", "remote"} {
		for _, k := range kinds {
			if place == "local" && k.name == "memory" {
				continue // it keeps nothing of them
			}
			be, ns := cacheRig(b, place == "remote", k.c)
			for i := range objects {
				if _, err := ns.Put(ctx, fmt.Sprint(i), noise(size)); err != nil {
					b.Fatal(err)
				}
			}
			for range 2 {
				warm(b, be, ns, objects, size)
			}
			for _, n := range []int{4 << 10, 128 << 10, size} {
				for _, at := range []int{1, 16} {
					b.Run(fmt.Sprintf("%s/%s/%dKiB/%d", place, k.name, n>>10, at), func(b *testing.B) {
						if k.name == "cold" {
							dropPages(b, be.o.Cache.Dir)
						}
						readers(b, ns, objects, size, n, at)
					})
				}
			}
		}
	}
}

func warm(b *testing.B, be *Backend, ns objstore.Namespace, objects, size int) {
	p := make([]byte, size)
	for i := range objects {
		if err := ns.ReadAt(context.Background(), fmt.Sprint(i), 0, p); err != nil {
			b.Fatal(err)
		}
		if be.fragments != nil {
			if err := be.fragments.Sync(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// readers read n bytes at random places, at of them at once.
func readers(b *testing.B, ns objstore.Namespace, objects, size, n, at int) {
	b.SetBytes(int64(n))
	var left atomic.Int64
	left.Store(int64(b.N))
	begin := cpuTime()
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			p := make([]byte, n)
			for left.Add(-1) >= 0 {
				if err := ns.ReadAt(context.Background(), fmt.Sprint(rand.IntN(objects)), int64(rand.IntN(size/n)*n), p); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric((cpuTime()-begin).Seconds()/(float64(b.N)*float64(n)/(1<<30)), "cpu-s/GiB")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// dropPages takes the files of a folder out of the page cache.
func dropPages(b *testing.B, dir string) {
	list, err := filepath.Glob(filepath.Join(dir, "seg-*"))
	if err != nil || len(list) == 0 {
		b.Fatal(list, err)
	}
	for _, name := range list {
		f, err := os.Open(name)
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		if err != nil {
			b.Fatal(err)
		}
		_ = f.Close()
	}
}

// BenchmarkSlices reads 64 slices of 4 KiB from as many objects, in one call and one by one, eight at a time.
func BenchmarkSlices(b *testing.B) {
	ctx := context.Background()
	const objects, size = 256, 256 << 10
	for _, place := range []string{"local", "remote"} {
		_, ns := cacheRig(b, place == "remote", CacheOptions{})
		for i := range objects {
			if _, err := ns.Put(ctx, fmt.Sprint(i), noise(size)); err != nil {
				b.Fatal(err)
			}
		}
		list := make([]objstore.Slice, 64)
		for i := range list {
			list[i].P = make([]byte, 4<<10)
		}
		for name, read := range map[string]func() error{
			"together":   func() error { return ns.ReadSlices(ctx, list) },
			"one by one": func() error { return objstore.ReadEach(ctx, list, 8, ns.ReadAt) },
		} {
			b.Run(place+"/"+name, func(b *testing.B) {
				begin := cpuTime()
				for b.Loop() {
					for i := range list {
						list[i].Name, list[i].Off = fmt.Sprint(rand.IntN(objects)), int64(rand.IntN(size>>12))<<12
					}
					if err := read(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64((cpuTime()-begin).Microseconds())/float64(b.N), "cpu-us/op")
			})
		}
	}
}
