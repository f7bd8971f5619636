package raftkv

import (
	"path/filepath"
	"time"
)

type counters struct {
	transactions, batches, batchBytes, applied, void uint64
	flushes, flushBytes, restores                    uint64
	lastFlush                                        time.Duration
}

// Stats is what a member says about itself. Counts begin when it was opened.
type Stats struct {
	Leader       string // address of the leader, as far as known
	Leads        bool
	Term         uint64
	Transactions uint64 // sequenced here
	Batches      uint64 // of them, committed: log entries
	BatchBytes   uint64
	Applied      uint64 // entries applied that other members evaluated, or replayed
	Void         uint64 // entries skipped because what they build on was lost
	PendingBytes int64  // sequenced, not committed
	RecentBytes  int64  // in memory, not in the state file
	AppliedIndex uint64
	StateIndex   uint64 // the log up to here may be truncated
	StateBytes   int64  // size of the state file
	LogBytes     int64  // disk space of the log
	Flushes      uint64
	FlushBytes   uint64
	LastFlush    time.Duration
	Restores     uint64 // snapshots received
	OpenViews    int
	Err          error // why the store stopped, or nil
}

// Stats returns the present figures. It may be called at any time.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	st := Stats{
		Leads:        s.epoch != nil,
		Transactions: s.stats.transactions,
		Batches:      s.stats.batches,
		BatchBytes:   s.stats.batchBytes,
		Applied:      s.stats.applied,
		Void:         s.stats.void,
		RecentBytes:  s.active.bytes,
		AppliedIndex: s.applied.applied,
		StateIndex:   s.applied.snapshot.Index,
		Flushes:      s.stats.flushes,
		FlushBytes:   s.stats.flushBytes,
		LastFlush:    s.stats.lastFlush,
		Restores:     s.stats.restores,
		OpenViews:    len(s.views),
	}
	if s.epoch != nil {
		st.PendingBytes = s.epoch.pending
	}
	if s.flushing != nil {
		st.RecentBytes += s.flushing.table.bytes
	}
	s.mu.Unlock()
	leader, _ := s.raft.LeaderWithID()
	st.Leader, st.Term = string(leader), s.raft.CurrentTerm()
	st.StateBytes, _ = statFile(filepath.Join(s.opts.Dir, stateFile))
	st.LogBytes = s.wal.Bytes()
	if cause := s.failed.Load(); cause != nil {
		st.Err = *cause
	}
	return st
}
