package dav

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/gabionfs/gabion/fs"
)

// readers knows which files are being downloaded, so that a replacement of their content can leave the
// old one to those who are in the middle of it.
//
// A reading's mu may be held when readers.mu is taken, never the other way round.
type readers struct {
	fs   fs.FS
	mu   sync.Mutex
	open map[fs.Ino]*reading
}

// reading is one content of one file that is being read, or about to be replaced.
type reading struct {
	ino    fs.Ino
	refs   int          // guarded by readers.mu
	mu     sync.RWMutex // held for reading around each read, for writing around a replacement
	active atomic.Int64 // snapshots; rises only with mu held for reading
	from   fs.Ino       // where the content is now: the file, or a copy of what it was
	moved  bool         // from is a copy, held without a name; later readers join another reading
}

// snapshot is the content of a file as it was when it was opened.
type snapshot struct {
	readers *readers
	on      *reading
	attr    fs.Attr
}

// join returns the current reading of ino, with one more reference.
func (t *readers) join(ino fs.Ino) *reading {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.open[ino]
	if r == nil {
		r = &reading{ino: ino, from: ino}
		if t.open == nil {
			t.open = map[fs.Ino]*reading{}
		}
		t.open[ino] = r
	}
	r.refs++
	return r
}

// leave gives the reference back, and the copy with the last one.
func (t *readers) leave(r *reading) {
	t.mu.Lock()
	r.refs--
	last := r.refs == 0
	if last && t.open[r.ino] == r {
		delete(t.open, r.ino)
	}
	t.mu.Unlock()
	if last && r.moved { // nobody else can see r any more
		t.fs.Drop(r.from, 1)
	}
}

// begin opens ino. The attributes of the snapshot are those of its content.
func (t *readers) begin(ctx context.Context, ino fs.Ino) (*snapshot, error) {
	for {
		r := t.join(ino)
		r.mu.RLock()
		if r.moved {
			r.mu.RUnlock()
			t.leave(r)
			continue
		}
		s := &snapshot{readers: t, on: r}
		err := t.fs.Hold(ino)
		if err == nil {
			if s.attr, err = t.fs.Getattr(ctx, ino); err != nil {
				t.fs.Drop(ino, 1)
			}
		}
		if err == nil {
			r.active.Add(1)
		}
		r.mu.RUnlock()
		if err != nil {
			t.leave(r)
			return nil, err
		}
		return s, nil
	}
}

// read fills p from off, as far as the content goes.
func (s *snapshot) read(ctx context.Context, off int64, p []byte) (int, error) {
	s.on.mu.RLock()
	defer s.on.mu.RUnlock()
	return s.readers.fs.Read(ctx, s.on.from, off, p)
}

// close ends the reading. It may be called only once.
func (s *snapshot) close() {
	s.on.active.Add(-1)
	s.readers.fs.Drop(s.attr.Ino, 1)
	s.readers.leave(s.on)
}

// preserve runs change, which replaces the content of ino, with the readers of ino moved to a copy of
// what it was, which shares its blobs. Who opens ino meanwhile waits for the change.
func (t *readers) preserve(ctx context.Context, owner fs.Cred, ino fs.Ino, change func() error) error {
	for {
		r := t.join(ino)
		r.mu.Lock()
		var err error
		again := r.moved // by a replacement just before this one
		if !again {
			if r.active.Load() > 0 {
				err = t.moveReaders(ctx, owner, r)
			}
			if err == nil {
				err = change()
			}
			if r.moved { // only now: until the change is made, who comes must wait for r
				t.retire(r)
			}
		}
		r.mu.Unlock()
		t.leave(r)
		if !again {
			return err
		}
	}
}

// moveReaders makes the copy, with r.mu held.
func (t *readers) moveReaders(ctx context.Context, owner fs.Cred, r *reading) error {
	a, err := t.fs.Getattr(ctx, r.ino)
	if err != nil {
		return err
	}
	kept, err := t.fs.Tmpfile(ctx, owner, fs.Root, fileMode)
	if err != nil {
		return err
	}
	if err := copyContent(ctx, t.fs, r.ino, kept.Ino, a.Size); err != nil {
		t.fs.Drop(kept.Ino, 1)
		return err
	}
	r.from, r.moved = kept.Ino, true
	return nil
}

// retire lets those who come from now on begin a reading of their own.
func (t *readers) retire(r *reading) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[r.ino] == r {
		delete(t.open, r.ino)
	}
}
