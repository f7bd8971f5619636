package volume

import (
	"sync"

	"github.com/gabionfs/gabion/fs"
)

// holds counts who holds an inode, and knows which inodes have no link. An inode with neither is reaped,
// and cannot be held again from then on.
type holds struct {
	shards [64]holdShard
}

type holdShard struct {
	mu      sync.Mutex
	held    map[fs.Ino]uint64
	orphans map[fs.Ino]struct{} // without a link, held
	reaping map[fs.Ino]struct{} // without a link, not held; the row may still be there
}

func newHolds() *holds {
	h := new(holds)
	for i := range h.shards {
		h.shards[i] = holdShard{held: map[fs.Ino]uint64{}, orphans: map[fs.Ino]struct{}{}, reaping: map[fs.Ino]struct{}{}}
	}
	return h
}

func (h *holds) shard(ino fs.Ino) *holdShard { return &h.shards[ino%fs.Ino(len(h.shards))] }

// hold counts a holder. first says that there was none before, so that whether the inode exists is not
// known; ok is false when it is being reaped.
func (h *holds) hold(ino fs.Ino) (first, ok bool) {
	s := h.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, gone := s.reaping[ino]; gone {
		return false, false
	}
	s.held[ino]++
	return s.held[ino] == 1, true
}

// drop takes n holders away and reports whether the inode is to be reaped now.
func (h *holds) drop(ino fs.Ino, n uint64) (reap bool) {
	s := h.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.held[ino]
	if n > have {
		panic("volume: an inode was dropped more often than it was held")
	}
	if have > n {
		s.held[ino] = have - n
		return false
	}
	delete(s.held, ino)
	if _, orphan := s.orphans[ino]; !orphan {
		return false
	}
	delete(s.orphans, ino)
	s.reaping[ino] = struct{}{}
	return true
}

// orphan records that ino has lost its last link and reports whether it is to be reaped now.
func (h *holds) orphan(ino fs.Ino) (reap bool) {
	s := h.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[ino] > 0 {
		s.orphans[ino] = struct{}{}
		return false
	}
	s.reaping[ino] = struct{}{}
	return true
}

// gone reports whether ino is being reaped: for users it does not exist any more.
func (h *holds) gone(ino fs.Ino) bool {
	s := h.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, gone := s.reaping[ino]
	return gone
}

// linked records that ino has a link again.
func (h *holds) linked(ino fs.Ino) {
	s := h.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.orphans, ino)
}

// reaped records that the rows of inodes are gone.
func (h *holds) reaped(inos []fs.Ino) {
	for _, ino := range inos {
		s := h.shard(ino)
		s.mu.Lock()
		delete(s.reaping, ino)
		s.mu.Unlock()
	}
}
