// Package fragcache keeps what was read and written of fragments near: in memory, and in a folder on a disk that is
// faster than those the fragments are on.
//
// It promises:
//
//   - What it returns is what was put: every page in the folder is verified by its checksum, its key and its place
//     before it is believed. Damage of any kind is a miss, and takes the file that shows it out of the folder.
//   - It is only a cache. Get never waits for the folder's disk for longer than Options.Patience, Put never waits for it
//     at all, and neither fails: a disk that is full, broken or hangs makes misses, and is left alone for a while.
//   - Memory and folder stay within their bounds.
//   - What is in the folder serves again after a restart, or a crash, of the same owner; what belongs to
//     another owner is removed.
//
// Fragments never change, and keys are never used again: nothing needs to be invalidated. A key also has the checksum
// that the manifest has for the fragment, so that an id that is given out twice after all, because the store was set
// back to an older state, does not bring back what it meant before.
//
// What is kept are pages of 64 KiB, which are also the blocks of which a disk reads and verifies whole ones. Which ones are
// kept is decided by S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: FIFO queues are all you need for cache
// eviction, SOSP 2023): what is new waits in a small queue, a tenth of the room, and only what is asked for again more than once
// while it is there moves to the main queue; what comes back soon after it had to go enters the main queue at
// once. So what is read once, however much, displaces a tenth at most. In memory a queue has pages. In the folder it has
// segments, files that are only appended to and removed whole: a disk sees large sequential writes.
//
// A page of the folder takes some 50 bytes of memory: 80 MB for 100 GB.
//
// The folder has a file lock, which an open cache holds, and segments seg-XXXXXXXX, with their number in hexadecimal digits.
// Integers are little endian, checksums are CRC32C.
//
//	segment:
//	0      4   5      6    8        16      32      60    64
//	+------+---+------+----+--------+-------+-------+-----+--------+-----+--------+-----------+---------+
//	| GFCS | 1 | queue| 0  | number | owner |   0   | sum | record | ... | record | directory | trailer |
//	+------+---+------+----+--------+-------+-------+-----+--------+-----+--------+-----------+---------+
//	queue: 0 small, 1 main; sum: of the bytes before it
//
//	record:
//	0      4          26     30     34       38       42  44    48
//	+------+----------+------+------+--------+--------+---+-----+---------+
//	| GFCR | key (22) | fsum | page | length | content| 0 | sum | content |
//	+------+----------+------+------+--------+--------+---+-----+---------+
//	fsum: of the whole fragment; content: checksum of the page; sum: of the 44 bytes before it
//
//	directory: the first 48 bytes of every record again, in order
//
//	trailer:
//	0      4       8            16  20    24
//	+------+-------+------------+---+-----+
//	| GFCT | count | offset of  | 0 | sum |
//	|      |       | directory  |   |     |
//	+------+-------+------------+---+-----+
//	sum: of the 20 bytes before it
//
// A segment gets directory and trailer when it is full or the cache is closed. One without them, which a crash leaves,
// is read record by record up to the first that is not whole.
package fragcache
