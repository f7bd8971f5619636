package data

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/zeebo/blake3"
)

// Options of Open. Zero values are usable.
type Options struct {
	DirtyMax   int64                    // bytes of dirty buffers; 0 means 128 MiB
	FlushAfter time.Duration            // how long a write stays in memory at most; 0 means 1 s
	Puts       int                      // objects that are put at the same time; 0 means 6
	Capacity   func() objstore.Capacity // of the disks; nil means endless
	Clock      func() time.Time         // nil is time.Now
	Logger     *slog.Logger             // nil discards
	Reaped     func([]fs.Ino)           // called when the rows of reaped inodes are gone; may be nil
}

// Store keeps the content of the files of one volume. Safe for concurrent use.
type Store struct {
	kv         kv.Store
	ns         objstore.Namespace
	near       objstore.Prefetcher // ns, when it can prefetch
	log        *slog.Logger
	clock      func() time.Time
	flushAfter time.Duration
	key        [32]byte
	hashers    sync.Pool
	pool       bufPool
	budget     *budget
	space      space
	ids        ids
	pins       *pins

	prefetches chan struct{} // one token for each that is underway
	neighbours neighbours

	flusher  *flusher
	folder   *folder
	reaper   *reaper
	rewriter *rewriter
	defrag   *defragmenter

	reaped  func([]fs.Ino)
	firstID uint64 // ids from here on were handed out by this run
	settled uint64 // the reaper's

	mu       sync.Mutex // the file table
	files    map[fs.Ino]*file
	idle     int    // files with refs 0
	removals uint64 // how often a state was removed from files

	dirtyMu sync.Mutex
	dirty   map[*file]time.Time

	stop    context.CancelFunc
	workers sync.WaitGroup
}

// Open opens the content of the volume in store, making its rows when there are none, and starts the
// background work. ns holds the objects; its manifests are in the same kv store or are durable when
// Put returns.
func Open(ctx context.Context, store kv.Store, ns objstore.Namespace, o Options) (*Store, error) {
	store, err := sealRows(ctx, store, ns)
	if err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	s := &Store{
		kv: store, ns: ns, log: o.Logger, clock: o.Clock, flushAfter: o.FlushAfter,
		files: make(map[fs.Ino]*file), dirty: make(map[*file]time.Time), pins: newPins(),
		near: prefetcher(ns), prefetches: make(chan struct{}, 4),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.flushAfter <= 0 {
		s.flushAfter = time.Second
	}
	if o.DirtyMax <= 0 {
		o.DirtyMax = 128 << 20
	}
	if o.Puts <= 0 {
		o.Puts = 6
	}
	if s.reaped = o.Reaped; s.reaped == nil {
		s.reaped = func([]fs.Ino) {}
	}
	s.ids.s = s
	s.space = space{read: o.Capacity, clock: s.clock}
	s.flusher = newFlusher(s, o.Puts)
	s.folder = newFolder(s)
	s.reaper = newReaper(s)
	s.rewriter = newRewriter(s)
	s.defrag = newDefragmenter(s)
	s.budget = newBudget(o.DirtyMax, s.freezeMost, s.flusher.hurry)
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("open content: %w", s.fsError(err))
	}
	// What a crash left: objects of its last second or so, since the reaper settles every second.
	if err := s.collect(ctx, s.settled); err != nil {
		return nil, fmt.Errorf("open content: collect what the last run left: %w", s.fsError(err))
	}
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	for _, work := range []func(context.Context){s.flusher.run, s.folder.run, s.reaper.run, s.rewriter.run, s.defrag.run} {
		s.workers.Add(1)
		go func() {
			defer s.workers.Done()
			work(run)
		}()
	}
	return s, nil
}

// load reads the volume's hash key and counters, and which files have inline rows.
func (s *Store) load(ctx context.Context) error {
	return s.kv.Update(ctx, kv.Durable, func(t kv.Txn) error {
		key, err := loadKey(t, s.ns)
		if errors.Is(err, kv.ErrNotFound) {
			if key, err = makeKey(t, s.ns); err == nil {
				t.Put(ksData, keyNext, u64key(1))
			}
		}
		if err != nil {
			return err
		}
		s.key = key.key
		s.hashers.New = func() any {
			h, err := blake3.NewKeyed(s.key[:])
			if err != nil {
				panic(err) // the key has the right length
			}
			return h
		}
		if s.firstID, err = getU64(t, keyNext); err != nil {
			return err
		}
		s.ids.next, s.ids.limit = s.firstID, s.firstID
		if s.settled, err = getU64(t, keySettled); err != nil {
			return err
		}
		return t.Range(ksFold, kv.Range{}, func(k, _ []byte) bool {
			if ino, ok := parseIno(k); ok {
				s.folder.add(ino, 0)
			}
			return true
		})
	})
}

// Close commits what is dirty, stops the background work, and makes everything durable.
func (s *Store) Close(ctx context.Context) error {
	err := s.Sync(ctx)
	s.stop()
	s.workers.Wait()
	for range cap(s.prefetches) {
		s.prefetches <- struct{}{}
	}
	if held := s.budget.held(); err == nil && held != 0 {
		err = fmt.Errorf("close content: %d bytes are still dirty", held)
	}
	if err == nil {
		s.settle(ctx)
		err = s.fsError(s.kv.Sync(ctx))
	}
	return err
}

// hash is the content hash of the volume.
func (s *Store) hash(p []byte) (h Hash) {
	d := s.hashers.Get().(*blake3.Hasher)
	defer s.hashers.Put(d)
	d.Reset()
	d.Write(p)
	d.Sum(h[:0])
	return h
}

// Overlay puts what is not committed yet over attributes that were read from the inode.
func (s *Store) Overlay(a *fs.Attr) {
	s.mu.Lock()
	f := s.files[a.Ino]
	s.mu.Unlock()
	if f != nil {
		f.overlay(a)
	}
}

// Dirty returns how many bytes of dirty buffers are held.
func (s *Store) Dirty() int64 { return s.budget.held() }

func (s *Store) markDirty(f *file) {
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	s.dirty[f] = s.clock()
}

func (s *Store) unmarkDirty(f *file) {
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	delete(s.dirty, f)
}

// retain keeps the state of f, which the caller has acquired, for a generation.
func (s *Store) retain(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.refs++
}

// parseObjectName is the inverse of objectName.
func parseObjectName(name string) (uint64, error) {
	id, err := strconv.ParseUint(name, 16, 64)
	if err != nil || len(name) != 16 {
		return 0, fmt.Errorf("object %q in the volume's namespace is not the volume's", name)
	}
	return id, nil
}
