package fragcache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore/internal/bufpool"
)

// ErrInUse: another process uses the folder.
var ErrInUse = errors.New("the folder is in use by another process")

// folder is the part of a cache that is on a disk. One goroutine, see writer, changes files; others only read them.
type folder struct {
	o       Options
	log     *slog.Logger
	pool    *bufpool.Pool
	seed    maphash.Seed
	lock    *os.File
	segSize int64

	queued  atomic.Int64
	batches chan *batch
	stop    chan struct{}
	done    chan struct{}

	reads    chan struct{} // one for each read that somebody waits for, or has given up
	readsOff pause         // after reads that took too long
	putsOff  pause         // after writes that failed

	mu       sync.Mutex // guards what follows; never held during I/O
	index    map[uint64]place
	segments map[uint32]*segment
	queues   [2][]*segment // oldest first
	ghost    *ghost[uint64]
	loading  bool
	closed   bool
	s        Stat // its counters

	tested func() // tests make reads of the disk wait in it, and all reads be of the disk; nil otherwise
}

// place is where a page is.
type place struct {
	segment uint32
	at      uint32 // of its record
	last    uint16 // length of the page - 1
	freq    uint8
}

func (p place) n() int { return int(p.last) + 1 }

// segment is one file.
type segment struct {
	number uint32
	queue  queue
	f      *os.File
	size   int64    // bytes that it takes, or may take while it is written
	keys   []uint64 // of its records
	refs   int      // readers
	dead   bool     // closed when the last reader is done
}

func (f *folder) hash(k pageKey) uint64 { return maphash.Comparable(f.seed, k) }

func segmentName(n uint32) string { return fmt.Sprintf("seg-%08x", n) }

func openFolder(o Options, pool *bufpool.Pool) (*folder, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(o.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	f := &folder{
		o: o, log: o.Logger, pool: pool, seed: maphash.MakeSeed(), lock: lock, loading: true,
		segSize: min(max(o.Size/128, 1<<20), maxSegment),
		batches: make(chan *batch, 256), stop: make(chan struct{}), done: make(chan struct{}), reads: make(chan struct{}, 64),
		index: make(map[uint64]place), segments: make(map[uint32]*segment), ghost: newGhost[uint64](),
	}
	go func() {
		defer close(f.done)
		w := &writer{folder: f}
		w.run()
	}()
	return f, nil
}

func (f *folder) close() error {
	close(f.stop)
	<-f.done
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, s := range f.segments {
		s.dead = true
		if s.refs == 0 {
			_ = s.f.Close() // nothing of value is lost
		}
	}
	return f.lock.Close()
}

// sync waits for the writer to come to the end of its queue.
func (f *folder) sync(ctx context.Context) error {
	b := &batch{reached: make(chan struct{})}
	select {
	case f.batches <- b:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-b.reached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// put queues the pages that are not there yet.
func (f *folder) put(pages []page) {
	if f.putsOff.now() {
		f.skip(len(pages))
		return
	}
	var want []*page
	size := 0
	f.mu.Lock()
	for i := range pages {
		if _, ok := f.index[f.hash(pages[i].key)]; !ok {
			want = append(want, &pages[i])
			size += recHeader + len(pages[i].p)
		}
	}
	f.mu.Unlock()
	if size == 0 {
		return
	}
	if f.queued.Add(int64(size)) > f.o.Queue {
		f.queued.Add(int64(-size))
		f.skip(len(want))
		return
	}
	b := &batch{buf: f.pool.Get(size)}
	out := b.buf.B[:0]
	for _, x := range want {
		r := record{key: x.key, n: len(x.p), sum: x.checksum()}
		b.records = append(b.records, r)
		out = append(r.append(out), x.p...)
	}
	select {
	case f.batches <- b:
	default:
		f.finished(b)
		f.skip(len(want))
	}
}

func (f *folder) skip(pages int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.s.Skipped += int64(pages)
}

// finished gives a batch's memory back.
func (f *folder) finished(b *batch) {
	f.queued.Add(int64(-len(b.buf.B)))
	b.buf.Release()
}

func (f *folder) drop(k Key, pages int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range uint32(pages) {
		delete(f.index, f.hash(pageKey{k, i}))
	}
}

func (f *folder) stat(s *Stat) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Dir, s.Size, s.Pages, s.Loading = f.o.Dir, f.o.Size, int64(len(f.index)), f.loading
	s.Written, s.Evicted, s.Skipped, s.Damaged = f.s.Written, f.s.Evicted, f.s.Skipped, f.s.Damaged
	s.Late, s.WriteErrors, s.LastError = f.s.Late, f.s.WriteErrors, f.s.LastError
	for _, x := range f.segments {
		s.Used += x.size
	}
}

// trouble takes note of an error. It is called with f.mu.
func (f *folder) trouble(what string, err error) {
	f.s.LastError = what + ": " + err.Error()
	f.log.Warn("the cache of fragments has trouble", "dir", f.o.Dir, "what", what, "error", err)
}

// condemn removes a segment in which something is wrong.
func (f *folder) condemn(s *segment, err error) {
	f.mu.Lock()
	gone := s.dead
	if !gone {
		f.s.Damaged++
		f.trouble("segment "+segmentName(s.number), err)
		f.detach(s)
	}
	f.mu.Unlock()
	if !gone {
		f.unlink(s.number)
	}
}

// detach makes a segment unknown. It is called with f.mu.
func (f *folder) detach(s *segment) {
	for _, h := range s.keys {
		if f.index[h].segment == s.number {
			delete(f.index, h)
		}
	}
	for i, x := range f.queues[s.queue] {
		if x == s {
			f.queues[s.queue] = append(f.queues[s.queue][:i:i], f.queues[s.queue][i+1:]...)
			break
		}
	}
	delete(f.segments, s.number)
	s.dead = true
	if s.refs == 0 {
		_ = s.f.Close()
	}
}

func (f *folder) unlink(number uint32) {
	if err := os.Remove(filepath.Join(f.o.Dir, segmentName(number))); err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.trouble("remove "+segmentName(number), err)
	}
}

// pause is a time during which something is not tried, twice as long each time it fails again soon.
type pause struct {
	mu    sync.Mutex
	until time.Time
	wait  time.Duration
}

const (
	firstPause = time.Second
	lastPause  = time.Minute
)

func (p *pause) now() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.until.IsZero() && time.Now().Before(p.until)
}

func (p *pause) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Before(p.until) {
		return
	}
	if p.wait == 0 || now.Sub(p.until) > 2*lastPause {
		p.wait = firstPause
	} else {
		p.wait = min(2*p.wait, lastPause)
	}
	p.until = now.Add(p.wait)
}
