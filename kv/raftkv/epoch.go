package raftkv

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
)

const (
	// maxInFlight is how many batches are with raft at once: one that is being synced, one that can
	// start when it is done.
	maxInFlight = 2
	// batchBytes ends a batch that nobody waits for.
	batchBytes = 1 << 20
	// chunkSize is the memory that batches are encoded into, one behind the other.
	chunkSize = 256 << 10
)

// epoch is one period in which this member leads and evaluates transactions. Guarded by Store.mu.
type epoch struct {
	id        uint64 // unique among the epochs of this process, never 0
	term      uint64
	committed uint64   // sequence number up to which its batches are committed
	number    uint64   // of the last batch that was begun
	queue     []*batch // sealed and not committed, oldest first
	open      *batch   // being filled, or nil
	inFlight  int      // batches of queue that raft has
	pending   int64    // bytes not committed
	over      atomic.Bool
	cause     error // why it is over
}

// batch is one log entry in the making.
type batch struct {
	number      uint64
	first, last uint64 // sequence numbers of its transactions
	data        []byte // encoded; the end of the chunk while it is open
	began       time.Time
	ordered     bool   // it has transactions that were acknowledged when they were sequenced
	wanted      bool   // someone waits for it
	filling     bool   // a transaction is being appended
	proposed    bool   // raft has it
	large       bool   // data is not part of a chunk
	mark        string // of a hash that it carries, or ""
	index       uint64 // of the log entry; set before done is closed
	done        chan struct{}
	err         error // set before done is closed: why it is not known to be committed
}

// covering returns the batch that has seq in it, which is not committed yet.
func (e *epoch) covering(seq uint64) *batch {
	for _, b := range e.queue {
		if b.last >= seq {
			return b
		}
	}
	return e.open
}

// seal closes the open batch. The caller holds mu.
func (e *epoch) seal() {
	e.queue = append(e.queue, e.open)
	e.open = nil
}

// sequence appends what the transaction wrote to the open batch and to the active table. The caller
// holds seqMu, so nothing else is sequenced meanwhile.
func (s *Store) sequence(t *txn, c kv.Commit) (*batch, error) {
	need := 0
	for i := range t.writes {
		w := &t.writes[i]
		need += 1 + 5 + opSize(w.ks, w.key, w.value, w.deleted)
		if !w.deleted {
			need += sealSize
		}
	}
	b := s.openBatch(t.epoch, need)
	if b == nil {
		return nil, t.epoch.cause
	}
	// The values are copied without holding mu; filling keeps the proposer away from the batch.
	versions := make([]version, len(t.writes))
	data, mark := b.data, ""
	for i := range t.writes {
		w := &t.writes[i]
		mark = cmp.Or(hashMark(w.ks, w.key, w.value), mark)
		data, w.key, versions[i].sealed = appendOp(data, w.ks, w.key, w.value, w.deleted)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	b.filling = false
	if t.epoch.over.Load() {
		return nil, t.epoch.cause
	}
	seq := s.seq + 1
	h := s.horizon(b.first, t.slot)
	before := s.active.bytes
	s.active.mu.Lock()
	for i := range t.writes {
		versions[i].seq = seq
		s.active.insert(t.writes[i].ks, t.writes[i].key, &versions[i], h)
	}
	s.active.mu.Unlock()
	s.admit(before)
	s.seq = seq
	t.epoch.pending += int64(len(data) - len(b.data))
	b.last, b.data = seq, data
	if mark != "" {
		b.mark = mark
	}
	if !b.large {
		s.chunk = data[len(data):cap(data)]
	}
	s.stats.transactions++
	if c == kv.Ordered {
		b.ordered = true
	} else {
		b.wanted = true
	}
	if s.active.bytes > s.opts.FlushBytes {
		wake(s.flushKick)
	}
	if b.wanted || len(b.data) >= batchBytes || b.first == seq {
		s.wake()
	}
	return b, nil
}

// openBatch returns the open batch with room for need more bytes, marked as being filled, beginning a
// new one if necessary; nil when the epoch is over. The caller holds seqMu.
func (s *Store) openBatch(e *epoch, need int) *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.over.Load() {
		return nil
	}
	if b := e.open; b != nil {
		if cap(b.data)-len(b.data) >= need {
			b.filling = true
			return b
		}
		e.seal()
		s.wake()
	}
	room, large := s.chunk, need > chunkSize/4
	if large { // it has a buffer of its own, so that it does not waste the rest of the chunk
		room = make([]byte, headerSize+need)
	} else if len(room) < headerSize+need {
		room = make([]byte, chunkSize)
	}
	e.number++
	e.open = &batch{
		number:  e.number,
		first:   s.seq + 1,
		last:    s.seq,
		data:    appendHeader(room[:0], e.term, e.number),
		large:   large,
		began:   time.Now(),
		filling: true,
		done:    make(chan struct{}),
	}
	return e.open
}

// horizon describes who may still need old versions. except is the slot of the transaction's own view.
// The caller holds mu.
func (s *Store) horizon(batch uint64, except int) horizon {
	h := horizon{batch: batch, oldest: s.committed}
	for i, v := range s.views {
		if i == except {
			continue
		}
		h.anyReader = true
		h.newest = max(h.newest, v.seq)
		h.oldest = min(h.oldest, v.seq)
	}
	return h
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (s *Store) wake() { wake(s.kick) }

type proposal struct {
	epoch  *epoch
	batch  *batch
	future raft.ApplyFuture
}

// propose is the goroutine that hands batches to raft, in order.
func (s *Store) propose() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer close(s.proposals)
	for {
		e, b, wait := s.nextProposal()
		if b != nil {
			s.proposals <- proposal{e, b, s.raft.ApplyLog(raft.Log{Data: slices.Clip(b.data)}, 0)}
			continue
		}
		timer.Reset(wait)
		select {
		case <-s.kick:
		case <-timer.C:
		case <-s.stop:
			return
		}
	}
}

// nextProposal returns the batch to propose now, or how long there will be none by itself.
func (s *Store) nextProposal() (*epoch, *batch, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.epoch
	if e == nil || e.inFlight == maxInFlight {
		return nil, nil, time.Hour
	}
	if b := e.open; e.inFlight == len(e.queue) && b != nil && !b.filling {
		wait := s.opts.Window - time.Since(b.began)
		if !b.wanted && len(b.data) < batchBytes && wait > 0 {
			return nil, nil, wait
		}
		e.seal()
	}
	if e.inFlight == len(e.queue) {
		return nil, nil, time.Hour
	}
	b := e.queue[e.inFlight]
	b.proposed = true
	e.inFlight++
	return e, b, 0
}

// reap is the goroutine that learns of proposals that failed. Those that succeed are seen by the FSM
// first.
func (s *Store) reap() {
	for p := range s.proposals {
		if err := p.future.Error(); err != nil {
			s.endEpoch(p.epoch, s.proposalError(err))
		}
	}
}

func (s *Store) proposalError(err error) error {
	switch {
	case errors.Is(err, raft.ErrRaftShutdown):
		return s.closedError()
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost),
		errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return s.notLeader()
	}
	return err
}

func (s *Store) notLeader() error {
	if s.closing.Load() || s.failed.Load() != nil {
		return s.closedError()
	}
	if s.raft == nil { // not started yet
		return &kv.NotLeaderError{}
	}
	leader, _ := s.raft.LeaderWithID()
	if leader == "" || s.link != nil && s.link.silent() {
		return s.explain(&kv.NotLeaderError{})
	}
	return &kv.NotLeaderError{Leader: string(leader)}
}

// endEpoch ends e, or whichever epoch there is when e is nil: pending batches are discarded and those
// who wait for them are told.
func (s *Store) endEpoch(e *epoch, cause error) {
	s.seqMu.Lock()
	defer s.seqMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == nil || e != nil && s.epoch != e {
		return
	}
	s.discard(cause)
}

// discard ends the epoch. The caller holds mu, and no transaction is being sequenced.
func (s *Store) discard(cause error) {
	e := s.epoch
	s.epoch = nil
	e.cause = cause
	e.over.Store(true)
	if e.open != nil {
		e.seal()
	}
	for _, b := range e.queue {
		b.err = cause
		if b.proposed {
			b.err = errors.Join(kv.ErrUnknownOutcome, cause)
		}
		s.lost = s.lost || b.ordered
		close(b.done)
	}
	e.queue = nil
	s.active.rollback(s.committed)
	if s.flushing != nil {
		s.flushing.table.rollback(s.committed)
		s.flushing.settle(s.applied)
	}
	s.committed = s.seq // nothing is left between them
	s.madeProgress()
	select {
	case s.endings <- e:
	default:
	}
}

// lead is the goroutine that begins an epoch whenever raft has made this member the leader.
func (s *Store) lead() {
	for {
		select {
		case leads := <-s.notify:
			if !leads {
				s.endEpoch(nil, s.notLeader())
				continue
			}
		case <-s.endings:
		case <-s.stop:
			return
		}
		for s.raft.State() == raft.Leader && !s.begin() {
			// A leadership transfer that is under way refuses everything and tells nobody when it has
			// failed.
			if !s.sleep(10 * time.Millisecond) {
				return
			}
		}
	}
}

// begin starts an epoch once everything in the log has been applied.
func (s *Store) begin() bool {
	s.mu.Lock()
	leading := s.epoch != nil
	s.mu.Unlock()
	if leading {
		return true
	}
	term := s.raft.CurrentTerm()
	if err := s.raft.Barrier(0).Error(); err != nil {
		return false
	}
	if s.raft.CurrentTerm() != term || s.raft.State() != raft.Leader {
		return false
	}
	s.seqMu.Lock()
	defer s.seqMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() || s.failed.Load() != nil {
		return true
	}
	s.epochs++
	e := &epoch{id: s.epochs, term: term, committed: s.committed}
	if s.applied.term == term {
		e.number = s.applied.number
	}
	s.epoch = e
	if s.flushing != nil {
		s.flushing.spare = s.active.bytes
	}
	if s.link != nil {
		s.link.reigns(term, s.opts.ID, s.Members)
	}
	close(s.ready)
	s.ready = make(chan struct{})
	s.log.Info("kv store leads", "term", term, "applied", s.applied.applied)
	return true
}
