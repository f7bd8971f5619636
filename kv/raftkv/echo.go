package raftkv

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// How a member knows how old its state is, without trusting that a message was quick or that two clocks
// agree. Messages may lie in a buffer for as long as a process is stopped or a network is broken.
//
//	member                                    leader
//	  answers a heartbeat, with its time S --->  remembers S, received at R
//	                                             a quorum answers heartbeats that it sent after R:
//	                                             so it led at R, and nobody else committed anything before
//	  knows that up to C is all there was <---  sends entries with the commit index C, and S with them
//	  at its time S, once it has applied C
//
// What anyone had acknowledged before S is up to C, because C is read after R, in an epoch of the leader's:
// then it has committed what the leaders before it did. The leader itself is as fresh as the time T at which
// the last heartbeat began that a quorum has answered.
//
// S is in the field Addr of an answer's header and Leader of a request, which raft does not read.

// echo is what a leader has of one peer.
type echo struct {
	term      uint64    // in which the rest holds
	confirmed time.Time // when the last heartbeat began that the peer has answered
	received  []word    // not confirmed by a quorum yet, oldest first
	ready     []byte    // the last that was
	armed     []byte    // goes with the next message: it was ready before that was made
}

// word is a time of a peer's.
type word struct {
	stamp []byte
	at    time.Time // when it was received
}

// maxWords bounds the times of a peer that wait for a quorum.
const maxWords = 16

// reign is the leadership of this member whose epoch began last.
type reign struct {
	term      uint64
	members   func() []Member
	self      raft.ServerID
	confirmed time.Time // T
}

// stamper makes times of this process that others can carry around.
type stamper struct {
	base  time.Time
	nonce uint64
}

func newStamper() stamper { return stamper{time.Now(), rand.Uint64()} }

const stampSize = 16

func (s stamper) now() []byte {
	b := make([]byte, stampSize)
	binary.LittleEndian.PutUint64(b, s.nonce)
	binary.LittleEndian.PutUint64(b[8:], uint64(time.Since(s.base)))
	return b
}

// time reads a stamp of this process.
func (s stamper) time(b []byte) (time.Time, bool) {
	if len(b) != stampSize || binary.LittleEndian.Uint64(b) != s.nonce {
		return time.Time{}, false
	}
	return s.base.Add(time.Duration(binary.LittleEndian.Uint64(b[8:]))), true
}

func isHeartbeat(q *raft.AppendEntriesRequest) bool {
	return q.PrevLogEntry == 0 && q.PrevLogTerm == 0 && len(q.Entries) == 0 && q.LeaderCommitIndex == 0
}

// reigns notes that this member leads in a term and has committed what came before.
func (l *link) reigns(term uint64, self string, members func() []Member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reign.term != term {
		l.reign = reign{term: term, self: raft.ServerID(self), members: members}
	}
}

// confirmedAt returns T of a term; the zero time when there is none.
func (l *link) confirmedAt(term uint64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reign.term != term {
		return time.Time{}
	}
	return l.reign.confirmed
}

func (l *link) echo(id raft.ServerID, term uint64) *echo {
	e := l.echoes[id]
	if e == nil || e.term < term {
		e = &echo{term: term}
		l.echoes[id] = e
	}
	return e
}

// beat takes the answer to a heartbeat that was sent at began.
func (l *link) beat(id raft.ServerID, began time.Time, q *raft.AppendEntriesRequest, a *raft.AppendEntriesResponse) {
	if !a.Success || a.Term != q.Term {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.echo(id, q.Term)
	if e.term != q.Term {
		return
	}
	if began.After(e.confirmed) {
		e.confirmed = began
	}
	if len(a.Addr) == stampSize && len(e.received) < maxWords {
		// Raft decodes its next answer into the same memory.
		e.received = append(e.received, word{bytes.Clone(a.Addr), time.Now()})
	}
	if l.reign.term == q.Term {
		l.confirm()
	}
}

// confirm finds out until when a quorum is known to have followed. The caller holds mu.
func (l *link) confirm() {
	var times []time.Time
	for _, m := range l.reign.members() {
		id := raft.ServerID(m.ID)
		switch e := l.echoes[id]; {
		case !m.Voter:
		case id == l.reign.self:
			times = append(times, time.Now())
		case e != nil && e.term == l.reign.term:
			times = append(times, e.confirmed)
		default:
			times = append(times, time.Time{})
		}
	}
	if len(times) == 0 {
		return
	}
	slices.SortFunc(times, func(a, b time.Time) int { return b.Compare(a) })
	t := times[len(times)/2]
	l.reign.confirmed = t
	for _, e := range l.echoes {
		for e.term == l.reign.term && len(e.received) > 0 && !e.received[0].at.After(t) {
			e.ready = e.received[0].stamp
			e.received = e.received[1:]
		}
	}
}

// carry puts the peer's armed time into a message.
func (l *link) carry(id raft.ServerID, q *raft.AppendEntriesRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.echoes[id]; e != nil && e.term == q.Term && e.armed != nil {
		setCarried(q, e.armed)
	}
}

// The time travels in a field that raft has replaced by one in the header and reads no more.

func setCarried(q *raft.AppendEntriesRequest, stamp []byte) {
	//lint:ignore SA1019 raft leaves it to us
	q.Leader = stamp
}

func carried(q *raft.AppendEntriesRequest) []byte {
	//lint:ignore SA1019 as above
	return q.Leader
}

// arm chooses what the message after this one to the peer carries. That is made after this call, by the
// same goroutine of raft's.
func (l *link) arm(id raft.ServerID, term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.echoes[id]; e != nil && e.term == term && l.reign.term == term {
		e.armed = e.ready
	}
}
