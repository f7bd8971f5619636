package mount

import (
	"sync"

	"github.com/gabionfs/gabion/fs"
)

// table counts how often the kernel was told of each inode. An inode is held in the FS from the first
// time until the kernel has forgotten all of them.
//
// Nothing is called with a shard's lock held.
type table struct {
	shards [64]shard
}

type shard struct {
	mu    sync.Mutex
	nodes map[fs.Ino]node
	_     [48]byte // a cache line each
}

type node struct {
	lookups uint64
	flags   nodeFlags
}

type nodeFlags uint8

const (
	// maybeCaps: the file may have security.capability, which a write must remove. Of a file that was
	// created since it was mounted this is known from the start.
	maybeCaps nodeFlags = 1 << iota
	// resized: another session changed the content since the last append, so that the kernel may not
	// know the end of the file.
	resized
	// cached: content was read since the last write that bypassed the kernel's cache, so that the kernel
	// may have pages of it.
	cached
)

func newTable() *table {
	t := &table{}
	for i := range t.shards {
		t.shards[i].nodes = map[fs.Ino]node{}
	}
	return t
}

func (t *table) shard(ino fs.Ino) *shard { return &t.shards[ino%fs.Ino(len(t.shards))] }

// again counts one more lookup of an inode that is known, and reports whether it is.
func (t *table) again(ino fs.Ino) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, known := s.nodes[ino]
	if known {
		n.lookups++
		s.nodes[ino] = n
	}
	return known
}

// add counts one more lookup of an inode that the caller holds, and reports whether it was unknown: the
// table has taken over the caller's hold then.
func (t *table) add(ino fs.Ino) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, known := s.nodes[ino]
	n.lookups++
	s.nodes[ino] = n
	return !known
}

// forget takes back lookups, and reports whether they were the last: the caller has the hold then.
func (t *table) forget(ino fs.Ino, lookups uint64) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, known := s.nodes[ino]
	if !known {
		return false
	}
	if n.lookups <= lookups {
		delete(s.nodes, ino)
		return true
	}
	n.lookups -= lookups
	s.nodes[ino] = n
	return false
}

// mark sets flags of an inode, and reports whether it is known.
func (t *table) mark(ino fs.Ino, flags nodeFlags) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, known := s.nodes[ino]
	if known && n.flags|flags != n.flags {
		n.flags |= flags
		s.nodes[ino] = n
	}
	return known
}

// take takes flags off an inode, and reports whether any of them was set.
func (t *table) take(ino fs.Ino, flags nodeFlags) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[ino]
	if n.flags&flags == 0 {
		return false
	}
	n.flags &^= flags
	s.nodes[ino] = n
	return true
}

// empty forgets everything and returns the inodes that were held.
func (t *table) empty() []fs.Ino {
	var held []fs.Ino
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for ino := range s.nodes {
			held = append(held, ino)
		}
		clear(s.nodes)
		s.mu.Unlock()
	}
	return held
}
