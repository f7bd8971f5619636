// Package backup reads and writes backups of a store: its keys and values as of one moment, in a format
// that says nothing about how the store keeps them, so that they can be loaded into any other.
//
// It promises that a backup that Read returns from without an error is the whole backup, unchanged: pairs
// that are missing, added, changed or out of order are a *kv.CorruptError, also when the file was cut off
// between two of them. Keyspaces that are reserved (kv.Keyspace.Reserved) are not part of a backup.
//
// All integers are little endian.
//
//	file:    header, blocks of pairs, one end block
//
//	header:  0   magic "gabionbk"
//	         8   version u32
//	         12  index in the log of the store that the backup is as of, or 0: u64
//	         20  CRC-32C of all before u32
//
//	block:   0   length of the payload u32
//	         4   kind u8: 1 pairs, 2 end
//	         5   CRC-32C of the bytes 0 to 4 and of the payload u32
//	         9   payload
//
//	pairs:   one or more of: length of the keyspace u8, keyspace, length of the key u32, key, length of the
//	         value u32, value; ascending by keyspace, then by key, in the whole file
//
//	end:     0   number of pairs u64
//	         8   bytes of all keys and values u64
//	         16  kv.Digest of all pairs, with AddKeyspace before the first one of each keyspace
package backup

import (
	"crypto/sha256"
	"hash/crc32"

	"github.com/gabionfs/gabion/kv"
)

const (
	magic      = "gabionbk"
	version    = 1
	headerSize = 24
	blockHead  = 9
	endSize    = 16 + sha256.Size

	kindPairs = 1
	kindEnd   = 2

	// blockSize is how much a block gathers; one pair more is the most it can have.
	blockSize  = 256 << 10
	maxPayload = blockSize + 9 + kv.MaxKeyspace + kv.MaxKey + kv.MaxValue
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Info is what a backup says about itself.
type Info struct {
	Index uint64 // in the log of the store, or 0
	Pairs uint64
	Bytes uint64 // of keys and values
	Sum   [sha256.Size]byte
}
