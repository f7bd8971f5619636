// Package asdbench measures ASDs beside the raw disk that they are on: durable appends, gets from the disk
// and gets from the page cache, for one ASD and for several on one disk. Every payload that is read has been verified by
// the ASD; the bench checks that it is the right one. It assumes that nothing else uses the disk, and says so little
// about other moments: compare the rows of one run.
package asdbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore/asd"
)

// Config says what to measure. The zero value is a run of about a minute.
type Config struct {
	ASDs    int   // on the one disk, for the rows that use several; zero means 6
	Sizes   []int // of payloads; nil means 4 KiB, 64 KiB and 1 MiB
	Writers []int // at a time, in total; nil means 1 and 16
	Bytes   int64 // of payload per row, for 1 MiB payloads; smaller ones write less. Zero means 512 MiB
	Emit    func(Row)
}

// Row is one figure.
type Row struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

type bench struct {
	Config
	ctx  context.Context
	dir  string
	rows []Row
	asds []*asd.ASD
}

// Run measures in a new folder below dir and removes it afterwards. It returns what was measured until an error.
func Run(ctx context.Context, dir string, c Config) (rows []Row, err error) {
	if c.ASDs == 0 {
		c.ASDs = 6
	}
	if c.Sizes == nil {
		c.Sizes = []int{4 << 10, 64 << 10, 1 << 20}
	}
	if c.Writers == nil {
		c.Writers = []int{1, 16}
	}
	if c.Bytes == 0 {
		c.Bytes = 512 << 20
	}
	dir, err = os.MkdirTemp(dir, "asdbench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{Config: c, ctx: ctx, dir: dir}
	for _, n := range []int{1, c.ASDs} {
		if err := errors.Join(b.raw(n), b.engine(n)); err != nil {
			return b.rows, err
		}
		if c.ASDs == 1 {
			break
		}
	}
	return b.rows, nil
}

func (b *bench) emit(unit string, value float64, format string, args ...any) {
	r := Row{Name: fmt.Sprintf(format, args...), Value: value, Unit: unit}
	b.rows = append(b.rows, r)
	if b.Emit != nil {
		b.Emit(r)
	}
}

// count is how many payloads of a size a row moves: small ones cost more each.
func (b *bench) count(size, writers int) int64 {
	total := b.Bytes
	if size < 1<<20 {
		total /= 8
	}
	if size < 64<<10 {
		total /= 4
		if writers == 1 {
			total /= 4
		}
	}
	return max(total/int64(size), 16)
}

// each runs fn for 0..n-1 in that many goroutines and returns the seconds and CPU seconds it took.
func (b *bench) each(workers int, n int64, fn func(worker int, i int64) error) (secs, cpu float64, err error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, workers)
	began, used := time.Now(), cpuSeconds()
	for w := range workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < n && errs[w] == nil; i = next.Add(1) - 1 {
				if errs[w] = b.ctx.Err(); errs[w] == nil {
					errs[w] = fn(w, i)
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began).Seconds(), cpuSeconds() - used, errors.Join(errs...)
}

func cpuSeconds() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// raw appends to n files with direct I/O, each append followed by a sync, and reads them back: the ceiling.
func (b *bench) raw(n int) error {
	const size = 1 << 20
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	per := max(b.Bytes/size/int64(n), 4)
	for i := range n {
		f, err := os.OpenFile(filepath.Join(b.dir, fmt.Sprintf("raw%d", i)), os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
		if err != nil {
			return err
		}
		files = append(files, f)
		if err := unix.Fallocate(int(f.Fd()), 0, 0, per*size); err != nil {
			return err
		}
	}
	data := asd.NewBuffer(size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	for _, pass := range []string{"allocated", "recycled"} {
		secs, cpu, err := b.each(n, int64(n), func(_ int, i int64) error {
			for k := range per {
				if _, err := files[i].WriteAt(data, k*size); err != nil {
					return err
				}
				if err := unix.Fdatasync(int(files[i].Fd())); err != nil {
					return err
				}
			}
			return b.ctx.Err()
		})
		if err != nil {
			return err
		}
		mb := float64(per) * float64(n) * size / 1e6
		b.emit("MB/s", mb/secs, "raw %d files, 1 MiB direct + sync, %s", n, pass)
		b.emit("CPU s/GB", cpu/mb*1e3, "raw %d files, 1 MiB direct + sync, %s", n, pass)
	}
	bufs := make([][]byte, 16)
	for i := range bufs {
		bufs[i] = asd.NewBuffer(size)
	}
	secs, _, err := b.each(len(bufs), per*int64(n), func(w int, i int64) error {
		_, err := files[i%int64(n)].ReadAt(bufs[w], i/int64(n)*size)
		return err
	})
	if err == nil {
		b.emit("MB/s", float64(per)*float64(n)*size/1e6/secs, "raw %d files, 1 MiB direct reads by 16", n)
	}
	return err
}

// engine measures n ASDs that share the process and the disk.
func (b *bench) engine(n int) (err error) {
	cache := asd.NewIndexCache(32 << 20)
	defer cache.Close()
	pool := new(asd.BufferPool)
	b.asds = nil
	defer func() {
		for _, a := range b.asds {
			err = errors.Join(err, a.Close(), os.RemoveAll(a.Dir()))
		}
	}()
	for i := range n {
		dir := filepath.Join(b.dir, fmt.Sprintf("asd%d", i))
		if _, err := asd.Format(dir, asd.ID{1}); err != nil {
			return err
		}
		a, err := asd.Open(b.ctx, dir, asd.Options{Cache: cache, Buffers: pool})
		if err != nil {
			return err
		}
		b.asds = append(b.asds, a)
	}
	for _, size := range b.Sizes {
		for _, writers := range b.Writers {
			if err := b.payloads(n, size, writers); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) payloads(n, size, workers int) error {
	count := b.count(size, workers)
	what := fmt.Sprintf("%d ASD, %s by %d", n, sizeName(size), workers)
	bufs := make([][]byte, workers)
	for i := range bufs {
		bufs[i] = asd.NewBuffer(size)
		rand.NewChaCha8([32]byte{byte(i)}).Read(bufs[i])
	}
	key := func(i int64) []byte { return fmt.Appendf(nil, "%d/%d/%016x", size, workers, i) }
	secs, cpu, err := b.each(workers, count, func(w int, i int64) error {
		binary.LittleEndian.PutUint64(bufs[w], uint64(i))
		var batch asd.Batch
		batch.Put(key(i), nil, bufs[w])
		_, err := b.asds[i%int64(n)].Apply(b.ctx, &batch, asd.Durable)
		return err
	})
	if err != nil {
		return err
	}
	b.throughput("append durable", what, count, size, secs, cpu)
	order := rand.New(rand.NewPCG(1, 2)).Perm(int(count))
	get := func(w int, i int64) error {
		k := int64(order[i])
		p, err := b.asds[k%int64(n)].Get(b.ctx, key(k), bufs[w][:0])
		if err == nil && (len(p) != size || binary.LittleEndian.Uint64(p) != uint64(k)) {
			err = fmt.Errorf("payload %d: wrong content", k)
		}
		return err
	}
	if err := b.evict(); err != nil {
		return err
	}
	for _, how := range []string{"get cold, random order", "get warm, random order"} {
		secs, cpu, err := b.each(workers, count, get)
		if err != nil {
			return err
		}
		b.throughput(how, what, count, size, secs, cpu)
	}
	if err := b.evict(); err != nil {
		return err
	}
	for i := range order {
		order[i] = i
	}
	if secs, cpu, err = b.each(workers, count, get); err == nil {
		b.throughput("get cold, in order", what, count, size, secs, cpu)
	}
	return err
}

func (b *bench) throughput(op, what string, count int64, size int, secs, cpu float64) {
	mb := float64(count) * float64(size) / 1e6
	if size < 1<<20 {
		b.emit("/s", float64(count)/secs, "%s, %s", op, what)
	}
	b.emit("MB/s", mb/secs, "%s, %s", op, what)
	b.emit("CPU s/GB", cpu/mb*1e3, "%s, %s", op, what)
}

// evict drops the segments from the page cache, which needs no privilege.
func (b *bench) evict() error {
	for _, a := range b.asds {
		if err := a.Sync(b.ctx); err != nil {
			return err
		}
		list, err := filepath.Glob(filepath.Join(a.Dir(), "*", "*"))
		if err != nil {
			return err
		}
		for _, name := range list {
			f, err := os.Open(name)
			if err != nil {
				continue // the index replaces its files
			}
			unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			f.Close()
		}
	}
	return nil
}

func sizeName(n int) string {
	if n >= 1<<20 && n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
