// Package asd is an autonomous storage device: one folder, meant to be one disk, that keeps immutable
// records under ordered keys. Everything about a record is on the disk that holds it.
//
// It promises:
//
//   - Apply is atomic: after any crash all asserts held and all puts and deletes of a batch are there,
//     or none of them are.
//   - Nothing is reordered: a crash leaves a prefix of the batches that were applied. What a returned
//     Durable Apply or a returned Sync covered is in that prefix.
//   - Every byte that is read has been verified against a checksum. Damage is a *CorruptError for the
//     record that is hit; the others are still served.
//   - Full means full: puts fail with ErrFull while there is still room for deletes, and deletes pass.
//   - Space of deleted records comes back, by compaction in the background.
//   - The first error of a write or a sync latches the ASD as failed (ErrFailed); reads still try.
//   - One process at a time has the folder open, and one cluster owns it.
//
// It assumes of the filesystem below that fdatasync makes what was written before it survive a loss of
// power, that a sector of 512 bytes is written whole or not at all, and that flock works. It neither
// compresses nor encrypts, and knows nothing of what the records mean.
//
// # On disk
//
//	DIR/format           the claim: which cluster, which ASD
//	DIR/segments/*.seg   segment files, to which frames of records are appended
//	DIR/index/           a pebble database, rebuilt from the segments whenever it is lost or damaged
//	DIR/index.rebuild    an empty file, there while the index must be rebuilt
//	DIR/ballast          "GBNBALST", a version (4 bytes), and space: given up so that the index can be
//	                     flushed on a disk that is full to the last byte
//
// All integers are little-endian; CRC is CRC32C (Castagnoli). The format file:
//
//	 0        8     12    16               32               48          56     60
//	+--------+-----+-----+----------------+----------------+-----------+------+-----+
//	|"GBNASDFM"| ver | 0 | ASD id (16)    | cluster id (16)| created,s | 0    | CRC |
//	+--------+-----+-----+----------------+----------------+-----------+------+-----+
//
// A segment is a header page of 4096 bytes and then frames. The header (the rest of its page is zero):
//
//	 0        8     12     16               32     40      48       56        64     68
//	+--------+-----+------+----------------+------+-------+--------+---------+------+-----+
//	|"GBNSEGMT"| ver | state| ASD id (16)  | id   | epoch | prevID | prevEnd | 0    | CRC |
//	+--------+-----+------+----------------+------+-------+--------+---------+------+-----+
//
// state is 1 for a segment in use and 2 for one that waits in the pool to be recycled. id rises with
// every life of a segment file; epoch is random per life, so that a frame of an earlier life is never
// taken for a live one. Everything in segment prevID up to offset prevEnd was durable when this life
// began, and nothing after prevEnd counts.
//
// A frame is one write: the batches of one group, a multiple of 4096 bytes, at a multiple of 4096:
//
//	 0        8       16     24     32       40      44       48        52    56        60       64
//	+--------+-------+------+------+--------+-------+--------+---------+-----+---------+--------+
//	|"GBNFRAME"| epoch | segment| lsn | synced| pages | at page| metaLen | ops | metaCRC | CRC  |
//	+--------+-------+------+------+--------+-------+--------+---------+-----+---------+--------+
//	| ops (metaLen bytes)                                                                       |
//	| packed payloads, one after the other                                                      |
//	+---- next page boundary -------------------------------------------------------------------+
//	| large aligned payloads, each from a page boundary, zero-filled to the next                |
//	+-------------------------------------------------------------------------------------------+
//
// lsn numbers the frames of an ASD; synced is the offset in this segment below which everything was
// durable when the frame was written. It tells recovery a torn tail from damage. An op:
//
//	 0      1       2        4         8     16       24       32            40        44     48
//	+------+-------+--------+---------+-----+--------+--------+-------------+---------+------+
//	| kind | flags | keyLen | infoLen | seq | prevLo | prevHi | payload len | payload | 0    |
//	|      |       |        |         |     |        |        |             | offset  |      |
//	+------+-------+--------+---------+-----+--------+--------+-------------+---------+------+
//	| key | info | CRC of each 64 KiB block of the payload, 4 bytes each                     |
//	+-----------------------------------------------------------------------------------------+
//
// kind is 1 for a put and 2 for a delete; flag 1 marks a record that compaction carried along although
// its payload fails its checksums. seq is the record's version. prevLo..prevHi are the ids of
// the segments in which older incarnations of the key may still lie: a delete must be kept for as long as one of
// them exists, or a rebuilt index would resurrect them. The payload's offset counts from the
// beginning of the frame.
package asd
