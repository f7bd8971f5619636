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
}

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

func (t *table) known(ino fs.Ino) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.nodes[ino]
	return known
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
