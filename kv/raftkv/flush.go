package raftkv

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// sealedTable is a memtable that takes no more writes and is on its way into the state file.
type sealedTable struct {
	table *memtable
	seal  uint64        // the last sequence number in it
	ready chan struct{} // closed when all of it is committed or discarded
	state state         // what it contains, once it is ready
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
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active.bytes > s.opts.FlushBytes ||
		s.snapshotLag > 0 && s.wal.Bytes() > 2*s.opts.FlushBytes+6*s.opts.SegmentBytes
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
	if s.flushing != nil {
		// A flush gave up half way, which only the end of the store does. The state file must not get
		// ahead of it.
		return errStopped
	}
	began := time.Now()
	sealed := s.sealActive()
	s.wake()
	select {
	case <-sealed.ready:
	case <-s.stop:
		return errStopped // the log has it
	}
	st := sealed.state
	if meta != nil {
		st.applied = max(st.applied, meta.Index)
		if meta.Index > st.snapshot.Index {
			st.snapshot = *meta
		}
	}
	gen, err := s.writeBase(sealed.table, st)
	if err != nil {
		s.fail(err)
		return err
	}
	s.mu.Lock()
	old := s.gen
	s.gen = gen
	s.flushing = nil
	s.applied.snapshot = st.snapshot
	s.snapshotLag = st.applied - st.snapshot.Index
	s.stats.flushes++
	s.stats.flushBytes += uint64(sealed.table.bytes)
	s.stats.lastFlush = time.Since(began)
	s.madeProgress()
	unpin := old.retire()
	s.mu.Unlock()
	if unpin {
		old.unpin()
	}
	return nil
}

// writeBase writes a table and the state into the state file and returns the new generation. The caller
// holds flushMu.
func (s *Store) writeBase(table *memtable, st state) (*generation, error) {
	if err := s.growBase(table.bytes); err != nil {
		return nil, err
	}
	s.mu.Lock()
	old := s.gen
	s.mu.Unlock()
	b := old.base
	if err := b.write(old, table, st); err != nil {
		return nil, err
	}
	gen, err := b.begin(old.tree.sums)
	if err != nil {
		return nil, err
	}
	sums := gen.tree.sums.marshal(gen.tree.size)
	if err := writeFileDurably(filepath.Join(b.dir, sumsFile), sums); err != nil {
		_ = gen.pin.Rollback()
		return nil, err
	}
	return gen, nil
}

// sealActive makes the active table the flushing one.
func (s *Store) sealActive() *sealedTable {
	s.seqMu.Lock()
	defer s.seqMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &sealedTable{table: s.active, seal: s.seq, ready: make(chan struct{})}
	if e := s.epoch; e != nil && e.open != nil {
		e.seal() // the table ends where a log entry does
	}
	s.flushing = t
	s.active = newMemtable()
	s.settleFlush()
	s.madeProgress()
	return t
}

// growBase exchanges the mapping of the state file for a larger one when a transaction with n bytes may
// not fit. bbolt would do it by itself, and wait for the pin of the generation that it is to replace.
func (s *Store) growBase(n int64) error {
	s.mu.Lock()
	b := s.gen.base
	s.mu.Unlock()
	size, err := statFile(b.path)
	if err != nil {
		return err
	}
	// At worst every page that there is gets a new place, and each new page is half full. The rest is
	// for the list of free pages.
	need := 2*size + 4*n + 1<<20
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
