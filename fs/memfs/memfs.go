// Package memfs is the reference model of an fs.FS: the whole contract in memory, under one lock,
// written to be obviously right rather than fast or small. Layers above use it as their fake; the
// suite in fs/fstest compares every other implementation with it.
//
// It promises all of package fs except that anything survives the process: Fsync and Sync only check
// their arguments. Read does not change access times; nobody's does. Allocate reserves nothing, and
// statfs invents a capacity of 1 TiB.
package memfs

import (
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/gabionfs/gabion/fs"
)

// FS is one session with the tree. Safe for concurrent use.
type FS struct {
	st *state
	id int // of the session; its watcher is not told of its own changes
}

var _ fs.FS = (*FS)(nil)

// New returns a session, without a watcher, with a new tree. Its root directory has mode 0755 and
// belongs to user and group 0.
func New() *FS {
	st := &state{inodes: map[fs.Ino]*inode{}, next: fs.Root}
	c := change{state: st, now: st.tick()}
	root := c.newInode(fs.Cred{}, fs.TypeDir|0o755)
	root.attr.Nlink = 2
	root.parent = root
	return st.session(nil)
}

// Session returns another session with the same tree. w, when not nil, is told of the changes that all
// other sessions make.
func (f *FS) Session(w fs.Watcher) fs.FS { return f.st.session(w) }

// state is the tree. mu guards all of it, and everything reachable from it.
type state struct {
	mu       sync.RWMutex
	inodes   map[fs.Ino]*inode
	next     fs.Ino
	last     int64 // the latest time handed out
	watchers []fs.Watcher
}

type inode struct {
	attr     fs.Attr // Blocks of a regular file is computed by stat
	holds    uint64
	linkable bool // made by Tmpfile and not linked yet

	target string            // of a symlink
	xattrs map[string][]byte // nil when there are none
	data   content           // of a regular file

	// of a directory
	parent  *inode // nil once it was removed
	names   map[string]*entry
	cookies btree.Map[uint64, *entry]
	cookie  uint64 // the last one used
}

type entry struct {
	name   string
	cookie uint64
	ino    *inode
}

func (st *state) session(w fs.Watcher) *FS {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.watchers = append(st.watchers, w)
	return &FS{st: st, id: len(st.watchers) - 1}
}

// tick returns the time, and never less than it did before.
func (st *state) tick() int64 {
	st.last = max(st.last, time.Now().UnixNano())
	return st.last
}

// get returns a live inode.
func (st *state) get(ino fs.Ino) (*inode, error) {
	n := st.inodes[ino]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	return n, nil
}

// dir returns a directory, which may have been removed.
func (st *state) dir(ino fs.Ino) (*inode, error) {
	n, err := st.get(ino)
	if err != nil {
		return nil, err
	}
	if !n.attr.IsDir() {
		return nil, fs.ErrNotDir
	}
	return n, nil
}

// regular returns a regular file.
func (st *state) regular(ino fs.Ino) (*inode, error) {
	n, err := st.get(ino)
	switch {
	case err != nil:
		return nil, err
	case n.attr.IsDir():
		return nil, fs.ErrIsDir
	case !n.attr.IsRegular():
		return nil, fs.ErrInvalid
	}
	return n, nil
}

// reap forgets n when nothing refers to it any more.
func (st *state) reap(n *inode) {
	if n.attr.Nlink == 0 && n.holds == 0 {
		delete(st.inodes, n.attr.Ino)
	}
}

func (n *inode) stat() fs.Attr {
	a := n.attr
	if a.IsRegular() {
		a.Blocks = n.data.blocks()
	}
	return a
}

// change is one operation under way: its time, and what the watchers are to be told.
type change struct {
	*state
	now     int64
	entries []entryEvent
	inodes  []inodeEvent
}

type entryEvent struct {
	dir  fs.Ino
	name string
}

type inodeEvent struct {
	ino     fs.Ino
	content bool
}

// update runs fn as one operation. fn must leave the tree as it was when it fails.
func (f *FS) update(op string, ino fs.Ino, name string, fn func(c *change) error) error {
	st := f.st
	st.mu.Lock()
	c := change{state: st, now: st.tick()}
	err := fn(&c)
	watchers := st.watchers
	st.mu.Unlock()
	if err != nil {
		return &fs.OpError{Op: op, Ino: ino, Name: name, Err: err}
	}
	for id, w := range watchers {
		if w == nil || id == f.id {
			continue
		}
		for _, e := range c.entries {
			w.EntryChanged(e.dir, e.name)
		}
		for _, e := range c.inodes {
			w.InodeChanged(e.ino, e.content)
		}
	}
	return nil
}

// view runs fn as one operation that changes nothing.
func (f *FS) view(op string, ino fs.Ino, name string, fn func(st *state) error) error {
	f.st.mu.RLock()
	err := fn(f.st)
	f.st.mu.RUnlock()
	if err != nil {
		return &fs.OpError{Op: op, Ino: ino, Name: name, Err: err}
	}
	return nil
}

// touch records a change of n's attributes, and of its content as well when content is set.
func (c *change) touch(n *inode, content bool) {
	n.attr.Ctime = c.now
	if content {
		n.attr.Mtime = c.now
	}
	n.attr.Version++
	c.inodes = append(c.inodes, inodeEvent{n.attr.Ino, content})
}

// touchDir records a change of the entry name of dir.
func (c *change) touchDir(dir *inode, name string) {
	dir.attr.Mtime, dir.attr.Ctime = c.now, c.now
	dir.attr.Version++
	c.entries = append(c.entries, entryEvent{dir.attr.Ino, name})
}

func (c *change) newInode(cred fs.Cred, mode uint32) *inode {
	n := &inode{attr: fs.Attr{
		Ino: c.next, Mode: mode, UID: cred.UID, GID: cred.GID, Version: 1,
		Atime: c.now, Mtime: c.now, Ctime: c.now, Btime: c.now,
	}}
	switch mode & fs.TypeMask {
	case fs.TypeDir:
		n.names = map[string]*entry{}
		n.cookie = 2 // 0 to 2 belong to the exporter
	case fs.TypeRegular:
		n.data.pages = map[int64]*page{}
	}
	c.next++
	c.state.inodes[n.attr.Ino] = n
	return n
}
