package asd

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"
)

// ID names an ASD, or the cluster that owns it: 16 random bytes.
type ID [16]byte

// String returns the id as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the id is unset.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID is the inverse of String.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("asd: id %q is not %d hexadecimal digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("asd: id %q: %w", s, err)
	}
	return id, nil
}

// Limits on what comes from outside.
const (
	// MaxKey is the longest key in bytes. Keys have at least one byte.
	MaxKey = 1024
	// MaxInfo is the longest recovery information of a record, in bytes.
	MaxInfo = 64 << 10
	// MaxBatchOps is the largest number of puts and deletes, and of asserts, in a batch.
	MaxBatchOps = 4096
	// maxPayload bounds a payload whatever the segment size; see ASD.MaxBatchBytes.
	maxPayload = 64 << 20
)

// Options say how to open an ASD. The zero value is good for a local disk.
type Options struct {
	// Cluster is the cluster that the folder must belong to; zero accepts any.
	Cluster ID
	// ASD is the ASD that the folder must hold; zero accepts any.
	ASD ID
	// Capacity in bytes that the ASD may occupy. Zero means the size of the filesystem.
	Capacity int64
	// Reserve in bytes that puts leave free on the filesystem, for deletes, compaction, the indexes and
	// whatever else must go on when it is full. Zero means 1/32 of the filesystem, at least 6 MiB and
	// at most 1 GiB. Several ASDs on one filesystem share it: each one looks at what is really free.
	Reserve int64
	// SegmentSize in bytes. Zero derives it from the capacity: a 1024th, between 8 and 256 MiB.
	SegmentSize int64
	// Cache is the memory that the indexes of several ASDs share. Nil gives this one 32 MiB of its own, which holds
	// the filters of more than 10 million records.
	Cache *IndexCache
	// Buffers is the pool for write buffers, shared by several ASDs. Nil gives this one its own.
	Buffers *BufferPool
	// Compaction tunes the return of space.
	Compaction Compaction
	// Logger gets what an operator should know. Nil discards it.
	Logger *slog.Logger
}

// Compaction tunes the return of space of deleted records.
type Compaction struct {
	// Mode says when it runs. The zero value is CompactAuto.
	Mode CompactionMode
	// Window is when it runs with CompactScheduled. Zero means the four hours after midnight.
	Window Window
	// MinGarbage is the fraction of a segment that must be garbage before it is compacted. Zero means
	// 0.3. When the ASD is full, less is enough.
	MinGarbage float64
	// Rate limits the bytes per second that the background copies, and a quarter of it does so while others
	// read or write. Zero means 64 MiB/s; negative means no limit.
	Rate int64
	// PoolDelay is how long freed segments wait to be recycled before their space goes back to the
	// filesystem. Zero means 5 s.
	PoolDelay time.Duration
	// Now is the clock of Window. Nil means time.Now.
	Now func() time.Time
}

// Durability is the strength of an Apply.
type Durability uint8

const (
	// Durable: Apply returns once the batch is on stable storage. Callers that wait share one sync.
	Durable Durability = iota
	// Written: Apply returns once the batch is written and visible. It becomes durable with the next
	// Sync, Durable Apply or Close, whichever is first, and in any case soon after.
	Written
)
