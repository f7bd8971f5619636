// Package data keeps the content of regular files: extents, dirty buffers, blobs and packs.
//
// It promises what fs.FS promises about content. Concretely, a file's writes are collected in
// generations. A generation is frozen (when a block is full, after a second, under memory pressure,
// at fsync), its blobs are put into the object layer, and then one transaction switches the
// extents, the size and the times of the file. Generations of a file commit in the order in which
// they were frozen, so a crash leaves the content as it was at one of those moments, whole.
//
// It assumes of the layer below that an object is durable when Put returns, and of the key-value
// store that updates keep their order.
//
// # Content ids
//
// Extents are keyed by a content id, not by the inode number: the inode row says which content it has.
// Truncating to zero and replacing a file's content are then one small transaction, however large the
// old content is; that is freed in steps afterwards.
//
// # Keyspaces
//
// All integers in keys are big endian, those in values are unsigned varints unless sized.
//
//	extent  content:8 block:4            -> flags:1 [inline] { off len boff hash:32 }...  pieces of one 4 MiB block
//	inline  content:8 block:4 off:4      -> bytes that lie over the pieces; small synced writes
//	fold    ino:8                        -> (empty)     the file has inline rows
//	blob    hash:32                      -> refs pack off len                    where a blob's bytes are
//	pack    pack:8                       -> flags blobs live total [hash:32]     one object of the namespace
//	dead    pack:8                       -> (empty)     an object to delete, no reference is left
//	doomed  content:8                    -> (empty)     content to free, no inode has it
//	data    "key"                        -> 32 bytes    key of the content hash (see sealed.go for encrypted volumes)
//	        "next"                       -> 8 bytes     pack and content ids below were handed out
//	        "settled"                    -> 8 bytes     no object below lacks its pack row
//
// A blob is up to 4 MiB of content under its keyed BLAKE3 hash. It lies in a pack, which is one object:
// a blob of 2 MiB or more is alone in its pack (flag solo), smaller ones share packs of about 4 MiB.
// A shared pack ends with its index, so that it describes itself:
//
//	+--------+--------+-----+--------+-----------------------------+---------+---------+--------+
//	| blob 0 | blob 1 | ... | blob n | { hash:32 off:4 len:4 } * n | count:4 | crc32:4 | GBPK:4 |
//	+--------+--------+-----+--------+-----------------------------+---------+---------+--------+
//
// # Lock order
//
// file.op, then upload.mu, then file.mu, then one of Store.mu, Store.dirtyMu, flusher.mu, folder.mu, reaper.mu,
// the budget's or the pins', of which the budget's may follow flusher.mu. Of these only file.op is held across a call into the object layer, and
// only file.op and upload.mu across one of the key-value store, except where a comment says why.
package data
