package data

import (
	"context"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Write puts p at off of the file. It is in memory when Write returns.
func (s *Store) Write(ctx context.Context, ino fs.Ino, off int64, p []byte) error {
	if off < 0 {
		return fs.ErrInvalid
	}
	if off > fs.MaxFile-int64(len(p)) {
		return fs.ErrFileTooBig
	}
	if len(p) == 0 {
		return nil
	}
	if err := s.admit(ctx, int64(len(p))); err != nil {
		return err
	}
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return err
	}
	defer s.release(f)
	f.op.RLock()
	defer f.op.RUnlock()
	return f.write(off, p)
}

// admit waits for room in the dirty buffers, and fails early when the disks could not take n more bytes.
func (s *Store) admit(ctx context.Context, n int64) error {
	if err := s.budget.wait(ctx); err != nil {
		return s.fsError(err)
	}
	if s.space.fits(n+s.budget.held()) || s.makeRoom(ctx) && s.space.fits(n+s.budget.held()) {
		return nil
	}
	return fs.ErrNoSpace
}

// write is Write under f.op.
func (f *file) write(off int64, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return fs.ErrNotExist
	}
	now := f.s.clock().UnixNano()
	for len(p) > 0 {
		g := f.current()
		in := uint32(off % BlockSize)
		n := min(len(p), BlockSize-int(in))
		grown := g.block(uint32(off/BlockSize)).write(in, p[:n], &f.s.pool)
		g.held += grown
		f.s.budget.add(grown)
		off, p = off+int64(n), p[n:]
		if off > f.size {
			f.size = off
			g.size = off
		}
		g.writes++
		g.ctime = now
		g.mtime.Store(now)
		f.mtime, f.ctime = now, now
		// A stream has filled a block: its upload overlaps the writing of the next one.
		if off%BlockSize == 0 && g.held >= BlockSize {
			f.freeze(false)
		}
	}
	return nil
}

// TimesSet is called when the modification time of ino is about to be set by the user: writes that are
// not committed yet must not set it to their own time afterwards.
func (s *Store) TimesSet(ino fs.Ino) {
	s.mu.Lock()
	f := s.files[ino]
	s.mu.Unlock()
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cur != nil {
		f.cur.mtime.Store(0)
	}
	for _, g := range f.queue {
		g.mtime.Store(0)
	}
	f.mtime = 0
}

// Fsync makes the content of ino durable, and everything that was sequenced before it.
func (s *Store) Fsync(ctx context.Context, ino fs.Ino) error {
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return err
	}
	defer s.release(f)
	f.mu.Lock()
	if f.cur != nil && s.fitsInline(f) {
		g := f.freeze(true)
		f.mu.Unlock()
		return s.fsError(s.commitInline(ctx, g, kv.Durable))
	}
	f.freeze(false)
	g := f.last()
	f.mu.Unlock()
	if g != nil {
		if err := g.wait(ctx); err != nil {
			return s.fsError(err)
		}
	}
	return s.fsError(s.kv.Sync(ctx))
}

// Flush is Fsync without waiting for the key-value store: when Flush returns, an update that is
// sequenced afterwards is never durable without the content.
func (s *Store) Flush(ctx context.Context, ino fs.Ino) error {
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return err
	}
	defer s.release(f)
	f.op.Lock()
	defer f.op.Unlock()
	return s.fsError(f.drain(ctx))
}

// Sync makes everything durable.
func (s *Store) Sync(ctx context.Context) error {
	for _, g := range s.freezeAll() {
		if err := g.wait(ctx); err != nil {
			return s.fsError(err)
		}
	}
	return s.fsError(s.kv.Sync(ctx))
}

// freezeAll freezes every dirty file and returns the newest generation of each that has one.
func (s *Store) freezeAll() []*generation {
	s.mu.Lock()
	files := make([]*file, 0, len(s.files))
	for _, f := range s.files {
		if f.refs > 0 { // an idle file is clean
			f.refs++
			files = append(files, f)
		}
	}
	s.mu.Unlock()
	var out []*generation
	for _, f := range files {
		f.mu.Lock()
		f.freeze(false)
		if g := f.last(); g != nil {
			out = append(out, g)
		}
		f.mu.Unlock()
		s.release(f)
	}
	s.flusher.hurry()
	return out
}
