package raftkv

import (
	"fmt"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// watchDisk is the goroutine that notices a disk that hangs. Raft's main loop waits for it then, while
// its other goroutines go on sending heartbeats, so nobody else would take over. So a leader ends its
// epoch, which tells everyone who waits, and the link falls silent until the disk answers again. Nothing
// can be acknowledged meanwhile: what waits for the sync is in the log of nobody else for sure.
func (s *Store) watchDisk() {
	for s.sleep(s.opts.SyncTimeout / 4) {
		since := s.wal.Busy()
		stalled := !since.IsZero() && time.Since(since) >= s.opts.SyncTimeout
		switch {
		case s.link == nil || s.isLone():
			if stalled {
				s.log.Error("the log's disk does not answer", "dir", s.opts.Dir, "since", since)
			}
		case stalled && !s.link.stalled.Swap(true):
			s.log.Error("the log's disk does not answer: this member keeps silent until it does", "dir", s.opts.Dir, "since", since)
			s.endEpoch(nil, fmt.Errorf("%w: the log's disk has not answered since %v", &kv.NotLeaderError{}, since))
		case !stalled && s.link.stalled.Swap(false):
			s.log.Warn("the log's disk answers again", "dir", s.opts.Dir)
		}
	}
}
