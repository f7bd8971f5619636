package raftkv

import (
	"cmp"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
)

// fsm is what raft drives. Its methods are called from one goroutine of raft's, except Persist.
type fsm struct{ s *Store }

var _ raft.BatchingFSM = fsm{}

// Apply implements raft.FSM.
func (f fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	for _, l := range logs {
		if f.s.failed.Load() != nil {
			break // never apply past an entry that could not be applied
		}
		if err := f.s.apply(l); err != nil {
			f.s.fail(err)
		}
	}
	return make([]any, len(logs))
}

// apply applies one committed entry.
func (s *Store) apply(l *raft.Log) error {
	s.mu.Lock()
	if s.reached = max(s.reached, l.Index); l.Index <= s.applied.applied { // in the state file already
		s.appliedChanged.notify()
		s.mu.Unlock()
		return nil
	}
	if l.Type != raft.LogCommand {
		s.applied.applied = l.Index
		s.appliedChanged.notify()
		s.mu.Unlock()
		return nil
	}
	h, err := decodeHeader(l.Data)
	if err != nil {
		s.mu.Unlock()
		return s.entryError(l, err)
	}
	e := s.epoch
	if s.follows(h, l) && e != nil && e.term == h.term && len(e.queue) > 0 && e.queue[0].number == h.number {
		s.commit(e, l.Index)
		s.mu.Unlock()
		s.wake()
		return nil
	}
	s.mu.Unlock()
	return s.applyForeign(l, h)
}

// follows says whether a batch counts: it was evaluated in the term it was logged in, on top of the
// batch that was applied before it. See logpb.
func (s *Store) follows(h header, l *raft.Log) bool {
	if h.term != l.Term {
		return false
	}
	if h.term == s.applied.term {
		return h.number == s.applied.number+1
	}
	return h.term > s.applied.term && h.number == 1
}

func (s *Store) entryError(l *raft.Log, err error) error {
	return &kv.CorruptError{What: fmt.Sprintf("log entry %d", l.Index), Err: err}
}

// commit moves the first batch of the queue from pending to recent: its versions are in the active
// table already. The caller holds mu.
func (s *Store) commit(e *epoch, index uint64) {
	b := e.queue[0]
	e.queue[0] = nil
	e.queue = e.queue[1:]
	e.inFlight--
	e.pending -= int64(len(b.data) - headerSize)
	e.committed, s.committed = b.last, b.last
	s.applied.applied, s.applied.term, s.applied.number = index, e.term, b.number
	s.appliedChanged.notify()
	b.index = index
	s.stats.batches++
	s.stats.batchBytes += uint64(len(b.data))
	if b.mark != "" {
		s.startHash(b.mark)
	}
	s.settleFlush()
	s.madeProgress()
	close(b.done)
}

// applyForeign applies an entry that this member did not evaluate in its present epoch: it follows, or
// it replays its log.
func (s *Store) applyForeign(l *raft.Log, h header) error {
	var ops []op
	mark := ""
	if _, err := decodeBatch(l.Data, func(o op) error {
		ops = append(ops, o)
		if o.sealed != nil && l.Index > s.replay {
			mark = cmp.Or(hashMark(o.ks, o.key, o.sealed[:len(o.sealed)-sealSize]), mark)
		}
		return nil
	}); err != nil {
		return s.entryError(l, err)
	}
	s.mu.Lock()
	overtaken := s.epoch != nil
	s.mu.Unlock()
	if overtaken { // with whatever is pending here
		s.endEpoch(nil, s.notLeader())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied.applied = l.Index
	s.appliedChanged.notify()
	if !s.follows(h, l) {
		s.stats.void++
		s.applied.voids.add(l.Index)
		s.log.Warn("skipped a batch that follows on a lost one", "index", l.Index, "term", h.term, "number", h.number)
		return nil
	}
	s.applied.term, s.applied.number = h.term, h.number
	s.seq++
	s.committed = s.seq
	hz := s.horizon(s.seq, -1)
	versions := make([]version, len(ops))
	s.active.mu.Lock()
	for i, o := range ops {
		versions[i] = version{seq: s.seq, sealed: o.sealed}
		s.active.insert(o.ks, o.key, &versions[i], hz)
	}
	s.active.mu.Unlock()
	if mark != "" {
		s.startHash(mark)
	}
	s.stats.applied++
	if s.active.bytes > s.opts.FlushBytes {
		wake(s.flushKick)
	}
	// A member that follows, or replays its log, is held up later than one that evaluates.
	for s.flushing != nil && s.active.bytes > s.opts.FlushBytes+s.room() {
		progress := s.progress
		s.mu.Unlock()
		select {
		case <-progress:
		case <-s.stop:
		}
		s.mu.Lock()
		if s.failed.Load() != nil || s.closing.Load() {
			return nil
		}
	}
	if s.active.bytes > 2*s.opts.FlushBytes && !s.replaying {
		// The flusher needs this goroutine to begin, and it is behind: flush here. Nothing is pending on
		// this member, so no flush waits for a commit.
		s.mu.Unlock()
		err := s.flush(nil)
		s.mu.Lock()
		return err
	}
	return nil
}

// Snapshot implements raft.FSM.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot(f), nil }

// Restore implements raft.FSM. The snapshot has been received into a file of its own.
func (f fsm) Restore(r io.ReadCloser) error {
	_ = r.Close()
	return f.s.restore()
}
