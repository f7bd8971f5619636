package kvsession

type counters struct {
	transactions, batches, batchBytes uint64
	fetches, rows, reconnects         uint64
	lost                              int
}

// Stats is what a session says about itself. Counts begin when it was opened.
type Stats struct {
	Connected    bool   // to a member that leads
	Held         bool   // it is sure that nobody else has the store
	Epoch        uint64 // fencing number
	Transactions uint64 // sequenced
	Batches      uint64 // acknowledged
	BatchBytes   uint64
	PendingBytes int64  // sequenced, not acknowledged
	CacheBytes   int64  // remembered of the store, what is not acknowledged included
	Fetches      uint64 // questions to the members
	Rows         uint64 // in their answers
	Reconnects   uint64 // attempts to reach a leader, but for the first
	Lost         int    // batches given up when the session ended
	OpenViews    int
	Err          error // why the session is over, or nil
}

// Stats returns the present figures. It may be called at any time.
func (s *Session) Stats() Stats {
	s.table.mu.RLock()
	held := s.table.bytes
	s.table.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Connected: s.connected, Held: s.lease.valid(), Epoch: s.epoch,
		Transactions: s.counts.transactions, Batches: s.counts.batches, BatchBytes: s.counts.batchBytes,
		PendingBytes: s.pending, CacheBytes: held,
		Fetches: s.counts.fetches, Rows: s.counts.rows, Reconnects: s.counts.reconnects, Lost: s.counts.lost,
		OpenViews: len(s.views), Err: s.failure,
	}
}
