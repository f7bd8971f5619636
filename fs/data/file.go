package data

import (
	"context"
	"sync"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
)

// file is what is in memory of one regular file: all of it that is not committed yet.
type file struct {
	s   *Store
	ino fs.Ino

	// op is held shared by writes and exclusively by what changes extents in a transaction of its own:
	// truncate, punch, copy, replace.
	op sync.RWMutex

	refs int // guarded by Store.mu

	ahead readahead

	mu      sync.RWMutex
	gone    bool // the inode is dropped
	content uint64
	size    int64
	cur     *generation
	queue   []*generation // frozen, oldest first
	since   time.Time     // when cur got its first write
	mtime   int64         // of uncommitted writes; 0 when there are none or times were set since
	ctime   int64
	row     fs.Attr // as the last commit left the inode; others may have changed it since
	commits uint64  // how often extents were changed while the state is in memory
}

// acquire returns the state of ino, loading it when it is not in memory. release must follow.
func (s *Store) acquire(ctx context.Context, ino fs.Ino) (*file, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if f := s.files[ino]; f != nil {
			if f.refs == 0 {
				s.idle--
			}
			f.refs++
			return f, nil
		}
		removals := s.removals
		s.mu.Unlock()
		n, err := s.inode(ctx, ino)
		s.mu.Lock()
		if err != nil {
			return nil, err
		}
		switch n.Mode & fs.TypeMask {
		case fs.TypeRegular:
		case fs.TypeDir:
			return nil, fs.ErrIsDir
		default:
			return nil, fs.ErrInvalid
		}
		// Content changes only under a file state. If none was removed meanwhile, and there is none now,
		// then what was read still holds.
		if s.files[ino] == nil && s.removals == removals {
			s.files[ino] = &file{s: s, ino: ino, content: n.Content, size: n.Size, row: n.Attr}
			s.idle++
		}
	}
}

func (s *Store) release(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.refs--; f.refs < 0 {
		panic("data: a file state was released twice")
	}
	if f.refs > 0 {
		return
	}
	if f.gone {
		s.removals++
		delete(s.files, f.ino)
		return
	}
	if s.idle++; s.idle > maxIdleFiles {
		s.evict()
	}
}

// maxIdleFiles bounds the states kept of files that nothing uses and that are clean.
const maxIdleFiles = 8 << 10

// evict drops half of the idle states. A file with uncommitted generations is referenced by them.
func (s *Store) evict() {
	for ino, f := range s.files {
		if f.refs == 0 {
			s.removals++
			delete(s.files, ino)
			if s.idle--; s.idle <= maxIdleFiles/2 {
				return
			}
		}
	}
}

func (s *Store) inode(ctx context.Context, ino fs.Ino) (n meta.Inode, err error) {
	err = s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		n, err = meta.GetInode(r, ino)
		return err
	})
	return n, err
}

// clean reports whether everything of f is committed. Called with f.mu.
func (f *file) clean() bool { return f.cur == nil && len(f.queue) == 0 }

// current returns the generation that takes writes. Called with f.mu held for writing.
func (f *file) current() *generation {
	if f.cur == nil {
		f.cur = newGeneration(f)
		f.since = f.s.clock()
		f.s.retain(f)
		f.s.markDirty(f)
	}
	return f.cur
}

// freeze ends the current generation and hands it to the flusher, unless inline is set: then the caller
// commits it. Called with f.mu held for writing; returns nil when there is nothing to freeze.
func (f *file) freeze(inline bool) *generation {
	g := f.cur
	if g == nil {
		return nil
	}
	f.cur = nil
	if n := len(f.queue); n > 0 {
		g.prev = f.queue[n-1]
	}
	f.queue = append(f.queue, g)
	f.s.budget.freeze(g.held)
	f.s.unmarkDirty(f)
	if !inline {
		f.s.flusher.enqueue(g)
	}
	return g
}

// last returns the newest frozen generation, after which everything so far is committed.
func (f *file) last() *generation {
	if n := len(f.queue); n > 0 {
		return f.queue[n-1]
	}
	return nil
}

// committed takes g, the oldest frozen generation, out of memory. c is what committed it; nil when there was
// nothing left to commit it to.
func (f *file) committed(g *generation, c *change) {
	f.mu.Lock()
	if len(f.queue) == 0 || f.queue[0] != g {
		panic("data: generations were committed out of order")
	}
	f.queue = append(f.queue[:0:0], f.queue[1:]...)
	f.commits++
	if c != nil {
		f.row = c.n.Attr
	}
	if len(f.queue) > 0 {
		f.queue[0].prev = nil
	}
	if f.clean() {
		f.mtime, f.ctime = 0, 0
	}
	for _, b := range g.blocks {
		b.release(&f.s.pool)
	}
	g.blocks = nil
	f.mu.Unlock()
	f.s.budget.release(g.held)
	g.finish()
	f.s.release(f)
}

// drain freezes what is dirty and waits until all of it is committed. The caller holds f.op
// exclusively, so that nothing new is written meanwhile.
func (f *file) drain(ctx context.Context) error {
	f.mu.Lock()
	if f.cur != nil && f.s.fitsInline(f) {
		g := f.freeze(true)
		f.mu.Unlock()
		return f.s.commitInline(ctx, g, kv.Ordered)
	}
	f.freeze(false)
	g := f.last()
	f.mu.Unlock()
	if g == nil {
		return nil
	}
	return g.wait(ctx)
}

// overlay puts what is not committed yet over the attributes of f's inode. Those may have been read before a commit
// that is done by now: then what the commit made of them stands in their place.
func (f *file) overlay(a *fs.Attr) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if a.Version < f.row.Version {
		*a = f.row
	}
	if f.clean() {
		return
	}
	a.Size = f.size
	if f.mtime != 0 {
		a.Mtime = f.mtime
	}
	a.Ctime = max(a.Ctime, f.ctime)
	held := int64(0)
	for _, g := range f.queue {
		a.Version += g.writes
		held += g.held
	}
	if f.cur != nil {
		a.Version += f.cur.writes
		held += f.cur.held
	}
	a.Blocks = min(a.Blocks+(held+511)/512, (f.size+BlockSize-1)/512)
}

func (f *file) contentID() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.content
}

// drop gives up everything of f that is not committed: the caller replaces the content, or removes the
// file. Called with f.mu held for writing. A generation whose commit was evaluated before this is
// committed; one after it changes nothing. drop returns how many writes users may have seen in the
// file's version that it now never gets.
func (f *file) drop() (writes uint64) {
	if f.cur != nil {
		f.freeze(false)
	}
	for _, g := range f.queue {
		g.dropped.Store(true)
		writes += g.writes
	}
	f.mtime, f.ctime = 0, 0
	return writes
}
