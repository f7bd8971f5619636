package asd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// ASD is one open folder. Its methods are safe for concurrent use.
//
// A mutation that has begun finishes whatever becomes of its context: the kernel may be reading the
// caller's memory.
//
// Locks, in the order in which they are taken: leadership of the queue (one goroutine writes frames),
// syncer.commitMu (one goroutine commits to the index), indexMu, syncer.mu, table, segment.mu.
// compactMu is held by one compaction from end to end, and taken before all of them; trimMu comes after it.
type ASD struct {
	dir      string
	identity Identity
	opts     Options
	log      *slog.Logger
	lock     *os.File // nil when there is no format file, in a salvage
	home     string   // where the index lies: dir, but for a salvage
	salvage  bool     // nothing in dir is changed
	rebuilt  bool     // the index was rebuilt; guarded by indexMu
	buffers  *BufferPool
	cache    *IndexCache
	ownCache bool
	start    time.Time

	segmentSize int64
	capacity    int64

	queue  queue
	syncer syncer
	writer writer // owned by the leader of the queue

	indexMu sync.RWMutex // held for writing while the index is replaced
	index   *index
	damage  atomic.Bool  // pebble found damage by itself; maintenance rebuilds
	ballast atomic.Bool  // there is one
	noSpace atomic.Int64 // how often the index found no space

	table table

	compactMu sync.Mutex
	trimMu    sync.Mutex // one trimPool at a time
	failure   atomic.Pointer[error]
	closed    atomic.Bool
	kick      chan struct{} // wakes maintenance

	// owned by maintenance: since when nothing was written after which frame; zero when that is dealt with
	quietLSN   uint64
	quietSince time.Time

	stop     chan struct{}
	done     sync.WaitGroup
	counters counters
	gate     gate
	step     atomic.Int64 // how long the last operation of the background took

	// test hooks, nil outside of tests
	hookBeforeFree func()
}

// table is what readers, the writer and the syncer share.
type table struct {
	sync.RWMutex
	segments map[uint64]*segment
	active   *activeSegment
	pool     []*poolFile
	// pending has what is written but not in the index yet; frames the same in order.
	pending      map[string]*pendingOp
	frames       []*pendingFrame
	pendingBytes int64
	written      uint64 // lsn of the last frame in frames or the index
	allocated    int64  // bytes of all segment files
	nextSlot     uint32
}

// Open opens a folder that was claimed by Format. After a crash it replays the tail of the segments; when
// the index is lost or damaged it rebuilds it from them. Errors are of type *OpenError.
func Open(ctx context.Context, dir string, opts Options) (*ASD, error) {
	lock, err := lockFormat(dir)
	if err != nil {
		return nil, err
	}
	a := &ASD{dir: dir, home: dir, opts: opts, lock: lock, log: opts.Logger, start: time.Now(),
		buffers: opts.Buffers, cache: opts.Cache, kick: make(chan struct{}, 1), stop: make(chan struct{})}
	if err := a.open(ctx); err != nil {
		a.abandon()
		var oe *OpenError
		if errors.As(err, &oe) {
			return nil, err
		}
		return nil, &OpenError{dir, err, "the disk may be failing, or full; the kernel's log knows more"}
	}
	a.done.Add(1)
	go a.maintain()
	return a, nil
}

func (a *ASD) open(ctx context.Context) error {
	id, err := readFormat(a.dir, a.lock)
	if err != nil {
		return err
	}
	if w := a.opts.Cluster; !w.IsZero() && w != id.Cluster {
		return &OpenError{a.dir, ErrForeign, fmt.Sprintf("it is of cluster %s, not %s; give the folder of this cluster", id.Cluster, w)}
	}
	if w := a.opts.ASD; !w.IsZero() && w != id.ASD {
		return &OpenError{a.dir, ErrForeign, fmt.Sprintf("it is ASD %s, not %s; are disks swapped?", id.ASD, w)}
	}
	a.identity = id
	a.defaults()
	for _, name := range []string{segmentsName, indexName} {
		if err := os.MkdirAll(filepath.Join(a.dir, name), 0o700); err != nil {
			return err
		}
	}
	if err := a.sizes(); err != nil {
		return err
	}
	return a.recover(ctx)
}

func (a *ASD) defaults() {
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.log = a.log.With("asd", a.identity.ASD.String()[:8], "dir", a.dir)
	if a.buffers == nil {
		a.buffers = new(BufferPool)
	}
	if a.cache == nil {
		a.cache, a.ownCache = NewIndexCache(ownIndexCache), true
	}
	c := &a.opts.Compaction
	if c.MinGarbage <= 0 {
		c.MinGarbage = 0.3
	}
	if c.Rate == 0 {
		c.Rate = 64 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.PoolDelay == 0 {
		c.PoolDelay = 5 * time.Second
	}
	a.gate.idle = make(chan struct{}, 1)
	a.table.segments = make(map[uint64]*segment)
	a.table.pending = make(map[string]*pendingOp)
}

// Identity returns which ASD of which cluster this is.
func (a *ASD) Identity() Identity { return a.identity }

// Dir returns the folder.
func (a *ASD) Dir() string { return a.dir }

// MaxBatchBytes is the limit of a batch: keys, infos and payloads, each payload rounded up to 4096,
// and 64 bytes more for each operation. No payload is longer than 64 MiB.
func (a *ASD) MaxBatchBytes() int64 { return a.segmentSize - segmentStart - pageSize - deleteMargin }

// Err returns why the ASD has failed: an error that is ErrFailed, or nil.
func (a *ASD) Err() error {
	if p := a.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail latches the first error of a write.
func (a *ASD) fail(err error) error {
	failed := fmt.Errorf("asd %s: %w: %w", a.dir, ErrFailed, err)
	if a.failure.CompareAndSwap(nil, &failed) {
		a.log.Error("the ASD has failed and takes no more updates", "error", err)
	}
	return a.Err()
}

// usable returns why updates are refused.
func (a *ASD) usable() error {
	if a.closed.Load() {
		return fmt.Errorf("asd %s: %w", a.dir, ErrClosed)
	}
	return a.Err()
}

// Close makes everything durable and gives the folder free. Operations that are running finish first;
// later ones get ErrClosed. It returns the error that has latched, if any.
func (a *ASD) Close() error {
	if a.closed.Swap(true) {
		return nil
	}
	close(a.stop)
	a.done.Wait()
	a.compactMu.Lock()
	defer a.compactMu.Unlock()
	a.queue.close()
	err := a.Err()
	if err == nil {
		err = a.syncUntil(a.lastWritten())
	}
	a.indexMu.Lock()
	defer a.indexMu.Unlock()
	if err == nil {
		if err = a.releaseActive(); err == nil {
			err = a.index.setClean(true)
		}
	}
	a.abandon()
	return errors.Join(err, a.tidy())
}

// abandon closes what is open without writing anything.
func (a *ASD) abandon() {
	a.table.Lock()
	segs, act := a.table.segments, a.table.active
	a.table.segments, a.table.active = map[uint64]*segment{}, nil
	a.table.Unlock()
	for _, s := range segs {
		s.release()
		<-s.drained
	}
	if act != nil {
		act.close()
	}
	if a.index != nil {
		if err := a.index.close(); err != nil {
			a.log.Warn("closing the index", "error", err)
		}
		a.index = nil
	}
	if a.ownCache {
		a.cache.Close()
		a.ownCache = false
	}
	if a.lock != nil {
		a.lock.Close()
	}
}

func randomUint64() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return le.Uint64(b[:])
}
