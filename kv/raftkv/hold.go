package raftkv

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A member that is sent a snapshot needs the log from there on. That stays until the member has been sent it too, or it
// would need another snapshot, which again takes so long that it would need another one. When the log outgrows the
// snapshot, another one is the lesser evil.

// hold keeps a part of the log for one member.
type hold struct {
	from   uint64 // the first entry that stays
	size   int64  // of the snapshot
	peer   raft.ServerID
	sent   bool      // the snapshot was; the entries follow
	goal   uint64    // then, the entry with which the member has caught up
	expiry time.Time // then, when it is given up
}

// patienceWithPeer is how long after a snapshot, or the last entries, more must have been sent.
const patienceWithPeer = time.Minute

type holds struct {
	mu   sync.Mutex
	list []*hold
}

func (h *holds) add(from uint64, size int64) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := &hold{from: from, size: size}
	h.list = append(h.list, one)
	return one
}

// to says which member the snapshot is for.
func (h *holds) to(one *hold, peer raft.ServerID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one.peer = peer
}

// sent notes that the sending of the snapshot is over, when the log ended with the entry goal.
func (h *holds) sent(one *hold, goal uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one.sent, one.goal, one.expiry = true, goal, time.Now().Add(patienceWithPeer)
}

// drop ends a hold.
func (h *holds) drop(one *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = slices.DeleteFunc(h.list, func(o *hold) bool { return o == one })
}

// advance notes that a member is being sent entries after prev.
func (h *holds) advance(peer raft.ServerID, prev uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.list) == 0 {
		return
	}
	h.list = slices.DeleteFunc(h.list, func(o *hold) bool {
		if !o.sent || o.peer != peer || prev+1 < o.from {
			return false
		}
		o.from, o.expiry = prev+1, time.Now().Add(patienceWithPeer)
		return prev >= o.goal
	})
}

// first returns the first entry of the log that has to stay while it takes that many bytes; 0 when none has.
func (h *holds) first(logBytes int64) (index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.list = slices.DeleteFunc(h.list, func(o *hold) bool { return o.sent && now.After(o.expiry) })
	for _, o := range h.list {
		if logBytes < o.size && (index == 0 || o.from < index) {
			index = o.from
		}
	}
	return index
}
