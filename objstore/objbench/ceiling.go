package objbench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/manager"
)

// ceiling is what the disk under a folder gives to a program that does nothing but append and sync: a file for each
// fragment of a chunk, as an ASD would have one, written with direct I/O into space that is allocated and was never
// written, as that of an ASD that does not recycle. An append is over when it is durable; as in an ASD, appends to one file
// that wait for a sync at the same time share it. It encodes, checks and indexes nothing.
type ceiling struct {
	dir   string
	logs  []*rawLog
	noise []byte
	free  chan []byte // memory of chunks
}

func newCeiling(dir string, k, m int) (*ceiling, error) {
	base, err := os.MkdirTemp(dir, "ceiling-")
	if err != nil {
		return nil, err
	}
	c := &ceiling{dir: base, noise: noise(manager.DefaultFragmentSize), free: make(chan []byte, 64)}
	for i := range k + m {
		l, err := newRawLog(filepath.Join(base, fmt.Sprint(i)))
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.logs = append(c.logs, l)
	}
	return c, nil
}

func (c *ceiling) close() error {
	var errs []error
	for _, l := range c.logs {
		errs = append(errs, l.f.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// reset gives each file that many bytes, which are as good as never written, and begins at their beginning.
func (c *ceiling) reset(bytes int64) error {
	for _, l := range c.logs {
		if err := l.reset(pages(bytes)); err != nil {
			return err
		}
	}
	return nil
}

// pages rounds up to what direct I/O wants.
func pages[T int | int64](n T) T { return (n + bufpool.Align - 1) / bufpool.Align * bufpool.Align }

// chunkParallel is how many chunks of one object put writes at a time.
const chunkParallel = 4

// put appends the fragments of one object and returns when all are durable.
func (c *ceiling) put(s shape) error {
	n := pages(s.fragment)
	errs := make([]error, s.count)
	var wg sync.WaitGroup
	turn := make(chan struct{}, chunkParallel)
	for i := range s.count {
		turn <- struct{}{}
		wg.Go(func() {
			errs[i] = c.chunk(n)
			<-turn
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// chunk appends n bytes to every file, from different memory, as fragments are.
func (c *ceiling) chunk(n int) error {
	data := c.memory(n * len(c.logs))
	errs := make([]error, len(c.logs))
	var wg sync.WaitGroup
	for i, l := range c.logs {
		wg.Go(func() { errs[i] = l.append(data[i*n:][:n]) })
	}
	wg.Wait()
	select {
	case c.free <- data:
	default:
	}
	return errors.Join(errs...)
}

// memory returns n bytes of noise.
func (c *ceiling) memory(n int) []byte {
	select {
	case b := <-c.free:
		if cap(b) >= n {
			return b[:n]
		}
	default:
	}
	b := bufpool.Alloc(n)
	for rest := b; len(rest) > 0; {
		rest = rest[copy(rest, c.noise):]
	}
	return b
}

// rawLog is a file that is appended to.
type rawLog struct {
	f    *os.File
	size int64 // that is allocated
	next atomic.Int64

	mu      sync.Mutex
	synced  sync.Cond
	running bool
	begun   int64 // syncs
	ended   int64
	err     error
}

func newRawLog(path string) (*rawLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
	if errors.Is(err, unix.EINVAL) { // a filesystem without direct I/O
		f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	}
	if err != nil {
		return nil, err
	}
	l := &rawLog{f: f}
	l.synced.L = &l.mu
	return l, nil
}

// reset makes the file n bytes of allocated space that nothing was written to. Where the filesystem can it is told
// so of the space that is there: a file that is removed costs a discard, which whoever is measured next would pay.
func (l *rawLog) reset(n int64) error {
	l.next.Store(0)
	fd := int(l.f.Fd())
	if l.size > 0 {
		if err := unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, l.size); err != nil {
			if err := l.f.Truncate(0); err != nil {
				return err
			}
			l.size = 0
		}
	}
	if n > l.size {
		if err := unix.Fallocate(fd, 0, l.size, n-l.size); err != nil {
			return err
		}
		l.size = n
	}
	return unix.Fsync(fd)
}

// append writes p behind everything else and returns when it is durable.
func (l *rawLog) append(p []byte) error {
	if _, err := l.f.WriteAt(p, l.next.Add(int64(len(p)))-int64(len(p))); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for need := l.begun + 1; l.ended < need && l.err == nil; {
		if l.running {
			l.synced.Wait()
			continue
		}
		l.running = true
		l.begun++
		n := l.begun
		l.mu.Unlock()
		err := unix.Fdatasync(int(l.f.Fd()))
		l.mu.Lock()
		l.running, l.ended, l.err = false, n, errors.Join(l.err, err)
		l.synced.Broadcast()
	}
	return l.err
}
