// Package raftlog is the disk log of a member: the replicated entries, and raft's vote. It implements
// raft.LogStore and raft.StableStore.
//
// It exists because its costs are the costs of every durable update. One StoreLogs is one write and one
// fdatasync into blocks that were written before, so that the sync moves data and no file system
// metadata: segments are filled with zeroes before they are used, and recycled afterwards.
//
// It promises: entries that StoreLogs returned for are there after a power failure; what a torn write
// left behind is recognised and dropped; damage anywhere else is reported as a *kv.CorruptError, never
// skipped. After a failed write or sync it refuses everything. It assumes that the file system keeps what
// fdatasync acknowledged, and renames that were followed by an fsync of the directory.
//
// The directory holds the segments "00000001.seg", numbered without a gap; spare files "spare-*" that
// have the size of a segment and no meaning; and "vote" (vote.go). All integers are little endian.
//
//	segment: one 4096-byte header, then records
//	0   magic "gabionlg"
//	8   version u32
//	12  CRC-32C of the header with this field zero u32
//	16  segment number u64
//	24  epoch u64: random, so that records of an earlier use of the file are never taken for this one's
//	32  number of the first batch in this segment u64
//	40  zero
//
//	record: begins at a multiple of 8 bytes
//	0   CRC-32C of epoch u64, offset in the file u64, and everything from byte 4 to the end u32
//	4   length of the payload u32
//	8   kind u8: 1 entry, 2 truncate, 3 reset, 4 seal, 5 mark, 6 closed
//	9   type of the raft entry u8
//	10  flags u16: 1 last record of its batch
//	12  length of the extensions, at the end of the payload u32
//	16  index u64
//	24  term u64
//	32  time of the append, Unix nanoseconds i64
//	40  number of the batch u64
//	48  payload
//
// A batch is what one sync made durable. The next batch is only written after that sync, so a record
// that is damaged while a later batch is there was durable once: that is corruption. Damage in the last
// batch is taken for a torn write. To make that window small, a mark is appended as a batch of its own
// after a while without writes, and the end of an orderly life is marked by closed. A segment that
// another one follows ends with seal.
//
// truncate drops the entries from its index on, reset drops all.
package raftlog
