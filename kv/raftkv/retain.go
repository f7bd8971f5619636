package raftkv

import "github.com/gabionfs/gabion/kv/raftkv/raftlog"

// retained is the log as raft sees it. When raft drops its beginning, because a snapshot has it, the last
// keep bytes of entries stay, for watchers and for members that lag, and what holds says.
type retained struct {
	*raftlog.Log
	keep  int64
	holds *holds
}

// DeleteRange implements raft.LogStore.
func (r retained) DeleteRange(from, to uint64) error {
	last, err := r.LastIndex()
	if err != nil {
		return err
	}
	first, err := r.FirstIndex()
	if err != nil {
		return err
	}
	// All of it is dropped when a snapshot of the leader takes its place, an end when it conflicts with
	// what the leader has. A compaction leaves at least one entry, see Options.raftConfig.
	if r.keep > 0 && from <= first && to < last {
		to = min(to, r.Tail(r.keep)-1)
		if held := r.holds.first(r.Bytes()); held != 0 {
			to = min(to, held-1)
		}
		if to < from {
			return nil
		}
	}
	return r.Log.DeleteRange(from, to)
}
