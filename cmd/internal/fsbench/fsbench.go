// Package fsbench measures an fs.FS from inside the process, without a kernel in between: what it reaches
// here is what a mount can reach at most.
package fsbench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/fs"
)

// Options says how much to do. Zero values are usable.
type Options struct {
	Files   int   // in each test of small files; 0 means 10000
	Bytes   int64 // of the sequential file; 0 means 1 GiB
	Threads []int // 0 entries means 1 and 8
}

// Row is one figure.
type Row struct {
	Name  string // with the number of threads: "create by 8"
	Value float64
	Unit  string // "/s" or "MB/s"
}

type bench struct {
	ctx  context.Context
	f    fs.FS
	emit func(Row)
}

const (
	block    = 1 << 20
	fileSize = 4096
)

// Run works in a new directory of f's root, which it removes again, and calls emit with each figure.
// Content that is read back is compared.
func Run(ctx context.Context, f fs.FS, o Options, emit func(Row)) error {
	if o.Files == 0 {
		o.Files = 10000
	}
	if o.Bytes == 0 {
		o.Bytes = 1 << 30
	}
	if len(o.Threads) == 0 {
		o.Threads = []int{1, 8}
	}
	b := &bench{ctx, f, emit}
	name := fmt.Sprintf(".gabion-bench-%016x", rand.Uint64())
	dir, err := f.Mkdir(ctx, fs.Cred{}, fs.Root, name, 0o700)
	if err != nil {
		return err
	}
	for _, n := range o.Threads {
		if err == nil {
			err = b.small(dir.Ino, n, o.Files)
		}
	}
	if err == nil {
		err = b.sequential(dir.Ino, o.Bytes)
	}
	cleanErr := removeAll(context.WithoutCancel(ctx), f, fs.Root, name)
	if err == nil {
		err = cleanErr
	}
	return err
}

// parallel runs do(i) for 0 <= i < n on threads goroutines and emits operations per second.
func (b *bench) parallel(name string, threads, n int, do func(i int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, threads)
	start := time.Now()
	for range threads {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := b.ctx.Err(); err != nil {
					errs <- err
					return
				}
				if err := do(i); err != nil {
					errs <- fmt.Errorf("%s: %w", name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	close(errs)
	for err := range errs {
		return err
	}
	b.emit(Row{fmt.Sprintf("%s by %d", name, threads), float64(n) / took.Seconds(), "/s"})
	return nil
}

// content returns the bytes of file i.
func content(i int) []byte {
	p := make([]byte, fileSize)
	r := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1})
	r.Read(p) // never fails
	return p
}

// small measures names, and files of 4 KiB, in one directory for each thread.
func (b *bench) small(parent fs.Ino, threads, n int) error {
	dirs := make([]fs.Ino, threads)
	for i := range dirs {
		a, err := b.f.Mkdir(b.ctx, fs.Cred{}, parent, fmt.Sprintf("t%d-%d", threads, i), 0o700)
		if err != nil {
			return err
		}
		dirs[i] = a.Ino
	}
	dir := func(i int) fs.Ino { return dirs[i%threads] }
	name := func(i int) string { return fmt.Sprintf("file-%07d", i) }
	inos := make([]fs.Ino, n)
	for _, step := range []struct {
		name string
		do   func(i int) error
	}{
		{"create", func(i int) error {
			a, err := b.f.Mknod(b.ctx, fs.Cred{}, dir(i), name(i), fs.TypeRegular|0o600, 0)
			inos[i] = a.Ino
			return err
		}},
		{"lookup", func(i int) error { _, err := b.f.Lookup(b.ctx, dir(i), name(i)); return err }},
		{"getattr", func(i int) error { _, err := b.f.Getattr(b.ctx, inos[i]); return err }},
		{"write 4 KiB", func(i int) error { return b.f.Write(b.ctx, inos[i], 0, content(i)) }},
		{"read 4 KiB", func(i int) error {
			p := make([]byte, fileSize)
			if _, err := b.f.Read(b.ctx, inos[i], 0, p); err != nil {
				return err
			}
			if !bytes.Equal(p, content(i)) {
				return fmt.Errorf("file %d: read something else than was written", i)
			}
			return nil
		}},
		{"rename", func(i int) error { return b.f.Rename(b.ctx, dir(i), name(i), dir(i), name(i)+"r", 0) }},
	} {
		if err := b.parallel(step.name, threads, n, step.do); err != nil {
			return err
		}
	}
	// Few of these: each waits for the disk.
	if err := b.parallel("write 4 KiB, fsync", threads, max(n/10, 1), func(i int) error {
		if err := b.f.Write(b.ctx, inos[i], 0, content(i+1)); err != nil {
			return err
		}
		return b.f.Fsync(b.ctx, inos[i])
	}); err != nil {
		return err
	}
	return b.parallel("unlink", threads, n, func(i int) error { return b.f.Unlink(b.ctx, dir(i), name(i)+"r") })
}

// sequential measures one large file of bytes that do not compress and do not repeat.
func (b *bench) sequential(dir fs.Ino, size int64) error {
	a, err := b.f.Mknod(b.ctx, fs.Cred{}, dir, "large", fs.TypeRegular|0o600, 0)
	if err != nil {
		return err
	}
	size -= size % block
	p, q := make([]byte, block), make([]byte, block)
	fill := func(p []byte, seed int64) {
		r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), 2})
		r.Read(p)
	}
	// Making the content is not what is measured.
	var took time.Duration
	for off := int64(0); off < size; off += block {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		fill(p, off/block)
		start := time.Now()
		if err := b.f.Write(b.ctx, a.Ino, off, p); err != nil {
			return err
		}
		took += time.Since(start)
	}
	start := time.Now()
	if err := b.f.Fsync(b.ctx, a.Ino); err != nil {
		return err
	}
	took += time.Since(start)
	b.emit(Row{"sequential write, fsync", float64(size) / 1e6 / took.Seconds(), "MB/s"})

	took = 0
	for off := int64(0); off < size; off += block {
		start := time.Now()
		n, err := b.f.Read(b.ctx, a.Ino, off, p)
		took += time.Since(start)
		if err != nil || n != block {
			return fmt.Errorf("sequential read at %d: %d bytes, %w", off, n, err)
		}
		if fill(q, off/block); !bytes.Equal(p, q) {
			return fmt.Errorf("sequential read at %d: something else than was written", off)
		}
	}
	b.emit(Row{"sequential read", float64(size) / 1e6 / took.Seconds(), "MB/s"})
	return nil
}

// removeAll removes name in parent with everything below it.
func removeAll(ctx context.Context, f fs.FS, parent fs.Ino, name string) error {
	a, err := f.Lookup(ctx, parent, name)
	if err != nil {
		return err
	}
	if !a.IsDir() {
		return f.Unlink(ctx, parent, name)
	}
	var names []string
	err = f.ReadDir(ctx, a.Ino, 0, false, func(d fs.Dirent, _ *fs.Attr) bool {
		names = append(names, d.Name)
		return true
	})
	for _, n := range names {
		if err == nil {
			err = removeAll(ctx, f, a.Ino, n)
		}
	}
	if err == nil {
		err = f.Rmdir(ctx, parent, name)
	}
	return err
}
