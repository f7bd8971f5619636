// Package volume is the filesystem: fs.FS over the namespace of fs/meta and the content of fs/data.
//
// It adds what neither of the two knows alone. Attributes of a file show its uncommitted writes. A
// rename over an existing name first flushes what it moves, so that after a crash the name has one of
// the two contents. An inode without links lives for as long as somebody holds it and is then reaped.
// Sessions tell each other of their changes.
//
// It assumes one volume object per volume: content that is not committed is in its memory.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// Options of Open. Zero values are usable.
type Options struct {
	DirtyMax   int64                    // bytes of dirty buffers, as in data.Options
	FlushAfter time.Duration            // as in data.Options
	UID, GID   uint32                   // who owns the root directory of a volume that is made
	Capacity   func() objstore.Capacity // of the disks; nil means endless
	Clock      func() time.Time         // nil is time.Now
	Logger     *slog.Logger             // nil discards
}

// Volume is an open volume. Safe for concurrent use.
type Volume struct {
	kv       kv.Store
	tree     *meta.Tree
	data     *data.Store
	holds    *holds
	capacity func() objstore.Capacity

	mu       sync.RWMutex
	sessions []*Session
}

// Open opens the volume in store, whose objects are in ns. A store that holds no volume gets an empty
// one.
func Open(ctx context.Context, store kv.Store, ns objstore.Namespace, o Options) (*Volume, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if _, err := meta.Format(ctx, store, meta.FormatOptions{Clock: o.Clock, UID: o.UID, GID: o.GID}); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("format volume: %w", err)
	}
	tree, err := meta.Open(ctx, store, meta.Options{Clock: o.Clock, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	v := &Volume{kv: store, tree: tree, capacity: o.Capacity}
	v.holds = newHolds()
	v.data, err = data.Open(ctx, store, ns, data.Options{
		DirtyMax: o.DirtyMax, FlushAfter: o.FlushAfter, Capacity: o.Capacity, Clock: o.Clock, Logger: o.Logger,
		Reaped: v.holds.reaped,
	})
	if err != nil {
		return nil, err
	}
	// Nobody holds anything yet: what the last run left without links is free.
	err = tree.Orphans(ctx, func(ino fs.Ino) bool {
		v.orphaned(ino)
		return true
	})
	if err != nil {
		return nil, errors.Join(err, v.data.Close(ctx))
	}
	return v, nil
}

// Close makes everything durable and stops the volume's background work. Sessions must not be used any
// more. The key-value store and the namespace stay open.
func (v *Volume) Close(ctx context.Context) error { return v.data.Close(ctx) }

// Dirty returns how many bytes of uncommitted content are in memory.
func (v *Volume) Dirty() int64 { return v.data.Dirty() }

// orphaned is called when ino has lost its last link.
func (v *Volume) orphaned(ino fs.Ino) {
	if v.holds.orphan(ino) {
		v.data.Reap(ino)
	}
}

// Session opens a session. w, when not nil, is told of the changes that other sessions make.
func (v *Volume) Session(w fs.Watcher) fs.FS {
	s := &Session{v: v, w: w}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sessions = append(v.sessions[:len(v.sessions):len(v.sessions)], s)
	return s
}

// Session is one user of a volume: a mount, a WebDAV server. It implements fs.FS.
type Session struct {
	v *Volume
	w fs.Watcher
}

var _ fs.FS = (*Session)(nil)

// others calls fn with the watchers of all other sessions.
func (s *Session) others(fn func(fs.Watcher)) {
	s.v.mu.RLock()
	all := s.v.sessions
	s.v.mu.RUnlock()
	for _, o := range all {
		if o != s && o.w != nil {
			fn(o.w)
		}
	}
}

func (s *Session) entryChanged(dir fs.Ino, name string, ino fs.Ino) {
	s.others(func(w fs.Watcher) {
		w.EntryChanged(dir, name)
		if ino != 0 {
			w.InodeChanged(ino, false)
		}
	})
}

func (s *Session) inodeChanged(ino fs.Ino, content bool) {
	s.others(func(w fs.Watcher) { w.InodeChanged(ino, content) })
}

// begin returns the context of a change to existing inodes: once begun it is finished.
func (s *Session) begin(ctx context.Context, inos ...fs.Ino) (context.Context, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, ino := range inos {
		if err := s.exists(ino); err != nil {
			return nil, err
		}
	}
	return context.WithoutCancel(ctx), nil
}

// exists fails for an inode that is being reaped: its row may still be there.
func (s *Session) exists(ino fs.Ino) error {
	if s.v.holds.gone(ino) {
		return fs.ErrNotExist
	}
	return nil
}

// attr returns the attributes of in with its uncommitted writes.
func (s *Session) attr(in *meta.Inode, err error) (fs.Attr, error) {
	if err != nil {
		return fs.Attr{}, err
	}
	a := in.Attr
	if a.IsRegular() {
		s.v.data.Overlay(&a)
	}
	return a, nil
}
