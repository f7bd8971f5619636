package raftkv

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// sealedTable is a memtable that takes no more writes and is on its way into the state file.
type sealedTable struct {
	table *memtable
	seal  uint64        // the last sequence number in it
	ready chan struct{} // closed when all of it is committed or discarded
	state state         // what it contains, once it is ready
	keys  int           // in the table
	left  int           // of them, not in the state file; guarded by Store.mu
	spare int64         // what the active table had when updates began to be evaluated; likewise
}

func (t *sealedTable) settled() bool {
	select {
	case <-t.ready:
		return true
	default:
		return false
	}
}

// settle marks the table as ready. The caller holds mu.
func (t *sealedTable) settle(st state) {
	if !t.settled() {
		t.state = st
		close(t.ready)
	}
}

// settleFlush marks the sealed table, if there is one, as ready once its last transaction is committed.
// The caller holds mu.
func (s *Store) settleFlush() {
	if s.flushing != nil && s.committed >= s.flushing.seal {
		s.flushing.settle(s.applied)
	}
}

func (s *Store) flushingTable() *memtable {
	if s.flushing == nil {
		return nil
	}
	return s.flushing.table
}

// flushLoop is the goroutine that writes the active table into the state file when it is large.
func (s *Store) flushLoop() {
	s.flushMu.Lock()
	_ = s.resumeFlush() // stops the store when it fails
	s.flushMu.Unlock()
	for {
		select {
		case <-s.flushKick:
		case <-s.stop:
			return
		}
		for s.flushDue() && s.compact() {
		}
	}
}

// flushDue says whether the active table is large, or the log has much in it that the state file has
// too. The latter happens because a snapshot's index is that of the moment it was asked for, and the
// flush takes what was pending then along.
func (s *Store) flushDue() bool {
	select {
	case <-s.stop:
		return false
	default:
	}
	held := s.holds.first(s.wal.Bytes()) != 0
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active.bytes > s.opts.FlushBytes ||
		s.snapshotLag > 0 && !held && s.wal.Bytes() > s.opts.MinLog+2*s.opts.FlushBytes+6*s.opts.SegmentBytes
}

// compact flushes by way of a raft snapshot, which then truncates the log. Raft refuses one while a
// configuration change is under way; then the log has to wait and memory must not. ok says that the log
// was truncated.
func (s *Store) compact() (ok bool) {
	flushes := s.flushCount()
	err := s.raft.Snapshot().Error()
	select {
	case <-s.stop: // the log has what was not flushed
		return false
	default:
	}
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		s.mu.Lock()
		s.snapshotLag = 0
		s.mu.Unlock()
	}
	if err == nil || errors.Is(err, raft.ErrRaftShutdown) {
		return err == nil
	}
	s.log.Warn("the log could not be truncated", "cause", err)
	if s.flushCount() == flushes {
		_ = s.flush(nil) // stops the store when it fails
	}
	return false
}

func (s *Store) flushCount() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.flushes
}

var errStopped = errors.New("raftkv: stopped")

// flush writes everything that was sequenced so far into the state file, with the snapshot's
// description when there is one.
func (s *Store) flush(meta *snapshotMeta) error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if err := s.resumeFlush(); err != nil {
		return err
	}
	sealed := s.sealActive()
	s.wake()
	select {
	case <-sealed.ready:
	case <-s.stop:
		s.flushCut = true
		return errStopped // the log has it
	}
	return s.writeTable(sealed, meta)
}

// resumeFlush writes the table that openFiles has found half written, if nobody has yet. A flush that this
// process gave up half way is left alone, which only the end of the store brings about: the state file
// must not get ahead of it. The caller holds flushMu.
func (s *Store) resumeFlush() error {
	s.mu.Lock()
	t := s.flushing
	s.mu.Unlock()
	switch {
	case s.flushCut:
		return errStopped
	case t != nil:
		return s.writeTable(t, nil)
	}
	return nil
}

// writeTable writes a table that is ready into the state file, in parts. The caller holds flushMu.
func (s *Store) writeTable(sealed *sealedTable, meta *snapshotMeta) error {
	began := time.Now()
	st := sealed.state
	st.mixed = 0
	if meta != nil {
		st.applied = max(st.applied, meta.Index)
		if meta.Index > st.snapshot.Index {
			st.snapshot = *meta
		}
	}
	s.mu.Lock()
	s.pace.last = began
	s.mu.Unlock()
	for c := newFlushCursor(sealed.table); ; {
		part := time.Now()
		if err := s.flushPart(sealed, c, st); err != nil {
			s.flushCut = true
			s.fail(err)
			return err
		}
		if c.done() {
			break
		}
		took, hurry := time.Since(part), s.hurry()
		s.adapt(took, hurry)
		if !hurry && !s.sleep(min(took, maxRest)) {
			s.flushCut = true
			return errStopped // the log has what is missing
		}
	}
	first, _ := s.wal.FirstIndex()
	s.mu.Lock()
	s.applied.voids.forget(first)
	s.stats.lastFlush = time.Since(began)
	s.mu.Unlock()
	return nil
}

// flushPart writes some more of the sealed table into the state file, and makes that the present
// generation. The table stays on top of it until all of it is written, so readers see no difference. The
// caller holds flushMu.
func (s *Store) flushPart(sealed *sealedTable, c *flushCursor, st state) error {
	if err := s.growBase(sealed.table); err != nil {
		return err
	}
	s.mu.Lock()
	old := s.gen
	s.mu.Unlock()
	b := old.base
	if err := b.write(old, c, s.partBytes, st); err != nil {
		return err
	}
	b.trimWriter()
	gen, wrote, err := b.begin(old.tree.sums)
	if err != nil {
		return err
	}
	if c.done() {
		err = b.sums.replace(gen.tree.sums, gen.tree.size)
	} else {
		err = b.sums.append(gen.tree.sums, wrote)
	}
	if err != nil {
		_ = gen.pin.Rollback()
		return err
	}
	s.mu.Lock()
	s.gen = gen
	if sealed.keys > 0 {
		s.pace.flushed(float64(sealed.table.bytes)*float64(sealed.left-c.left)/float64(sealed.keys), time.Now())
	}
	sealed.left = c.left
	if c.done() {
		s.flushing = nil
		s.applied.snapshot = st.snapshot
		s.snapshotLag = st.applied - st.snapshot.Index
		s.stats.flushes++
		s.stats.flushBytes += uint64(sealed.table.bytes)
	}
	s.madeProgress()
	unpin := old.retire()
	s.mu.Unlock()
	if unpin {
		old.unpin()
	}
	return nil
}

// sealActive makes the active table the flushing one.
func (s *Store) sealActive() *sealedTable {
	s.seqMu.Lock()
	defer s.seqMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := s.active.len()
	t := &sealedTable{table: s.active, seal: s.seq, ready: make(chan struct{}), keys: keys, left: keys}
	if e := s.epoch; e != nil && e.open != nil {
		e.seal() // the table ends where a log entry does
	}
	s.flushing = t
	s.active = newMemtable()
	s.settleFlush()
	s.madeProgress()
	return t
}

// adapt makes the parts smaller when they take long, because syncs of the log may wait for one, and larger again when
// they do not, or when the flusher is behind: small ones are slower in all. The caller holds flushMu.
func (s *Store) adapt(took time.Duration, hurry bool) {
	switch {
	case hurry:
		s.partBytes = s.opts.partBytes
	case took > 2*partTime:
		s.partBytes = max(s.partBytes/2, s.opts.partBytes/4)
	case took < partTime:
		s.partBytes = min(s.partBytes*2, s.opts.partBytes)
	}
}

// partTime is what a part should take.
const partTime = 40 * time.Millisecond

// hurry says whether updates are about to wait for the flush, or a snapshot does. Otherwise the flusher rests after a
// part as long as that took, so that the log has the disk for half of the time.
func (s *Store) hurry() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active.bytes > s.room()/2 || s.waiting > 0
}

const (
	maxRest = 100 * time.Millisecond
	// defaultPart is small enough that a part delays a sync of the log little, and large enough that its
	// own syncs and the upper pages of the tree cost little.
	defaultPart = 8 << 20
)

// growBase exchanges the mapping of the state file for a larger one when a part of the table's flush may
// not fit. bbolt would do it by itself, and wait for the pin of the generation that it is to replace.
func (s *Store) growBase(table *memtable) error {
	s.mu.Lock()
	b := s.gen.base
	s.mu.Unlock()
	size, err := statFile(b.path)
	if err != nil {
		return err
	}
	// A page that changes may take two others with it, and each new one may be half full. The rest is for
	// the list of free pages.
	need := size + 8*max(s.opts.partBytes, int64(table.largest)) + size/256 + 1<<20
	mapped := b.mapped
	for int64(mapped) < need {
		mapped *= 2
	}
	if mapped == b.mapped {
		return nil
	}
	return s.swapBase(func() (*generation, state, error) { return openBase(b.dir, mapped, s.log) }, nil)
}

// swapBase waits until no view is open, closes the state file and opens what open returns in its place.
// adopt runs under mu with the state of the new file. The caller holds flushMu.
func (s *Store) swapBase(open func() (*generation, state, error), adopt func(state)) error {
	s.mu.Lock()
	old := s.gen
	s.gen = nil
	s.mu.Unlock()
	s.retire(old)
	if err := old.base.close(); err != nil {
		return err
	}
	gen, st, err := open()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gen = gen
	if adopt != nil {
		adopt(st)
	}
	s.genReady.Broadcast()
	return nil
}

// retire ends a generation and waits until its last view is closed.
func (s *Store) retire(g *generation) {
	s.mu.Lock()
	unpin := g.retire()
	s.mu.Unlock()
	if unpin {
		g.unpin()
	}
	<-g.drained
}
