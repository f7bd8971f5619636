package volume_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/objstore/memns"
)

// benchmark opens a volume over the replicated store and a namespace in memory: what is left is the
// cost of the layers in between.
func benchmark(b *testing.B) fs.FS {
	ctx := context.Background()
	store, err := raftkv.Open(ctx, raftkv.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	var _ kv.Store = store
	v, err := volume.Open(ctx, store, memns.New(), volume.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := v.Close(ctx); err != nil {
			b.Error(err)
		}
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	})
	return v.Session(nil)
}

func BenchmarkCreate(b *testing.B) {
	s := benchmark(b)
	ctx := context.Background()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Mknod(ctx, fs.Cred{}, fs.Root, fmt.Sprintf("f%08d", i), fs.TypeRegular|0o644, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSmallFile creates, writes and removes files of 4 KiB.
func BenchmarkSmallFile(b *testing.B) {
	s := benchmark(b)
	ctx := context.Background()
	p := make([]byte, 4096)
	b.ReportAllocs()
	b.SetBytes(4096)
	for i := 0; b.Loop(); i++ {
		a, err := s.Mknod(ctx, fs.Cred{}, fs.Root, fmt.Sprintf("f%08d", i), fs.TypeRegular|0o644, 0)
		if err != nil {
			b.Fatal(err)
		}
		copy(p, fmt.Sprint(i))
		if err := s.Write(ctx, a.Ino, 0, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetattr(b *testing.B) {
	s := benchmark(b)
	ctx := context.Background()
	a, err := s.Mknod(ctx, fs.Cred{}, fs.Root, "f", fs.TypeRegular|0o644, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Getattr(ctx, a.Ino); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			s := benchmark(b)
			ctx := context.Background()
			a, err := s.Mknod(ctx, fs.Cred{}, fs.Root, "f", fs.TypeRegular|0o644, 0)
			if err != nil {
				b.Fatal(err)
			}
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				copy(p, fmt.Sprint(i))
				if err := s.Write(ctx, a.Ino, int64(i)*int64(size)%(1<<30), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
