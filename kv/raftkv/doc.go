// Package raftkv is a kv.Store that is replicated with hashicorp/raft.
//
// A transaction runs at the leader, on a consistent view, one at a time. Only what it wrote goes into
// the log: the writes of the transactions that were sequenced while the last log sync ran are one log
// entry (logpb.WriteBatch). So one sync carries any number of transactions, and replicas never run
// transaction code.
//
// What a reader sees is three layers:
//
//	pending   sequenced, not committed by raft yet; leader only   \  memtable: an ordered tree whose
//	recent    committed, not in the state file yet                 > keys have versions; a reader sees
//	          (the active table and the one being flushed)        /  those up to its sequence number
//	base      the state file (bbolt), as of the last flush
//
// Pending and recent share a tree, so a commit moves nothing: it advances a number. When the tree is
// large it is sealed and written to the state file in a few bbolt transactions, the last of them together
// with the index of the last log entry that it contains. That is also the raft snapshot, after which the log is truncated.
//
// Keys that are longer than bbolt takes have a place of their own in it (long.go).
//
// Updates that come faster than they are flushed are let in at the rate of the flusher (room.go). A new member is sent
// the state file; it is copied in slices that give way to updates (send.go, courtesy.go, slicefile.go).
//
// The log also serves those who watch (watch.go), and members that lag: Options.MinLog bytes of it stay
// behind the snapshot (retain.go), and what a member will need that is being sent one (hold.go). A link between raft and the transport knows which peers answer, how
// fresh a follower is, and keeps a member silent whose disk hangs (link.go, stall.go).
//
// Files in Options.Dir, all written by one process at a time, which holds the lock on LOCK:
//
//	format    magic, version, the member's ID, checksum (dir.go)
//	log/      the replicated log and raft's vote
//	state.db  bbolt: a bucket per keyspace and the state record (base.go, state.go)
//	state.sum checksums of its pages (sums.go)
//	spool-*   copies that are sent to others; gone when they are sent
//
// The package assumes that a file system keeps what fsync acknowledged. A sync that fails stops the
// store for good: from then on every call returns an error that matches kv.ErrClosed.
package raftkv
