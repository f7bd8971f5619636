package objstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// DiskID numbers a disk of one backend, from 1. Numbers are given out once and never reused, so that a
// manifest can name a disk in a byte or two. 0 is no disk.
type DiskID uint32

// FragmentKey names one fragment on a disk. Fragments are keyed by upload, not by content: Object is
// the id of the upload, so two writers of the same content never mix their fragments. Version rises
// each time the fragment is written anew by maintenance.
type FragmentKey struct {
	Namespace uint32
	Object    uint64
	Chunk     uint32
	Fragment  uint8
	Version   uint32
}

// FragmentKeyLen is the length of an encoded FragmentKey in bytes.
const FragmentKeyLen = 22

// Append appends the key's bytes to b. Their order is that of namespace, object, chunk, fragment and
// version, all big endian:
//
//	0     1          5         13     17        18       22
//	+-----+----------+---------+------+---------+--------+
//	| 'F' | namespace| object  | chunk| fragment| version|
//	+-----+----------+---------+------+---------+--------+
func (k FragmentKey) Append(b []byte) []byte {
	b = append(b, 'F')
	b = binary.BigEndian.AppendUint32(b, k.Namespace)
	b = binary.BigEndian.AppendUint64(b, k.Object)
	b = binary.BigEndian.AppendUint32(b, k.Chunk)
	b = append(b, k.Fragment)
	return binary.BigEndian.AppendUint32(b, k.Version)
}

// ParseFragmentKey is the inverse of Append.
func ParseFragmentKey(b []byte) (FragmentKey, error) {
	if len(b) != FragmentKeyLen || b[0] != 'F' {
		return FragmentKey{}, &CorruptError{What: "fragment key", Err: fmt.Errorf("%x is not one", b)}
	}
	return FragmentKey{
		Namespace: binary.BigEndian.Uint32(b[1:]),
		Object:    binary.BigEndian.Uint64(b[5:]),
		Chunk:     binary.BigEndian.Uint32(b[13:]),
		Fragment:  b[17],
		Version:   binary.BigEndian.Uint32(b[18:]),
	}, nil
}

// Compare orders keys as their bytes are ordered.
func (k FragmentKey) Compare(o FragmentKey) int {
	switch {
	case k.Namespace != o.Namespace:
		return cmpUint(uint64(k.Namespace), uint64(o.Namespace))
	case k.Object != o.Object:
		return cmpUint(k.Object, o.Object)
	case k.Chunk != o.Chunk:
		return cmpUint(uint64(k.Chunk), uint64(o.Chunk))
	case k.Fragment != o.Fragment:
		return cmpUint(uint64(k.Fragment), uint64(o.Fragment))
	}
	return cmpUint(uint64(k.Version), uint64(o.Version))
}

// Next returns the smallest key that is greater than k.
func (k FragmentKey) Next() FragmentKey {
	if k.Version++; k.Version != 0 {
		return k
	}
	if k.Fragment++; k.Fragment != 0 {
		return k
	}
	if k.Chunk++; k.Chunk != 0 {
		return k
	}
	if k.Object++; k.Object == 0 {
		k.Namespace++
	}
	return k
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (k FragmentKey) String() string {
	return fmt.Sprintf("%d/%d/%d/%d.%d", k.Namespace, k.Object, k.Chunk, k.Fragment, k.Version)
}

// ErrNoFragment is what a Disk answers for a fragment that it does not hold.
var ErrNoFragment = errors.New("objstore: no such fragment on this disk")

// FragmentInfo is one fragment as Disk.Range lists it.
type FragmentInfo struct {
	Key  FragmentKey
	Size int64 // bytes of data
}

// DiskStat is the state of a disk's space, in bytes.
type DiskStat struct {
	Total, Used, Free int64
	Own               int64 // of Free: in space that the disk has already; the rest is its device's
	Fragments         int64
	Full              bool   // puts are refused, deletes pass
	Device            uint64 // disks with the same one share what it has free; 0: shared with none

	// What a disk of this process also tells; zero where it is not known.
	Garbage       int64   // bytes of deleted fragments whose space is not back yet
	Compacted     int64   // bytes copied since the disk was opened, to bring it back
	Reads, Writes OpTimes // of fragments, since the disk was opened, without those of maintenance
}

// OpTimes sums up how long operations took.
type OpTimes struct {
	Count         int64
	P50, P99, Max time.Duration // at most an eighth above the truth
}

// Disk holds fragments: what the object layer asks of an ASD. Safe for concurrent use.
//
// Errors: ErrNoFragment, a *CorruptError for a fragment that fails its checksum or is short, ErrFull;
// any other error is the disk's failure, not the fragment's.
type Disk interface {
	// PutFragment stores data under key, with recovery beside it, and returns once both are durable.
	// Putting a key again replaces it. data is aligned to 4096 in memory; the memory after it up to the
	// next multiple of 4096 may be read but holds nothing of meaning. sums are the CRC32Cs of data's
	// blocks of 64 KiB.
	PutFragment(ctx context.Context, key FragmentKey, recovery, data []byte, sums []uint32) error
	// ReadFragment fills p from offset off of the fragment, verified. Reading past the end is a
	// *CorruptError: the manifest says how long a fragment is.
	ReadFragment(ctx context.Context, key FragmentKey, off int64, p []byte) error
	// ReadRecovery returns what was put beside the fragment.
	ReadRecovery(ctx context.Context, key FragmentKey) ([]byte, error)
	// HasFragments tells for each key whether the disk holds it, without reading the data.
	HasFragments(ctx context.Context, keys []FragmentKey) ([]bool, error)
	// DeleteFragments removes the keys it holds and skips the others. The removal is durable soon.
	DeleteFragments(ctx context.Context, keys []FragmentKey) error
	// Range calls fn with the fragments from <= key < to in order until fn returns false.
	Range(ctx context.Context, from, to FragmentKey, fn func(FragmentInfo) bool) error
	// Stat returns the disk's space.
	Stat(ctx context.Context) (DiskStat, error)
	// Probe tells cheaply whether the disk is still there and still the one that was opened.
	Probe(ctx context.Context) error
	// Close makes everything durable and lets go of the disk.
	Close() error
}

// FragmentRead is one read of many: what ReadFragment is given, and what it returned.
type FragmentRead struct {
	Key FragmentKey
	Off int64
	P   []byte
	Err error
}

// MultiDisk is a Disk that answers many reads in one call, which costs one way there and back.
type MultiDisk interface {
	Disk
	// ReadFragments does each of the reads as ReadFragment would, and notes how it ended. The error that it returns
	// is one of the call; then nothing is known of the reads.
	ReadFragments(ctx context.Context, reads []FragmentRead) error
}

// RemoteDisk is a Disk that is not of this machine: what is kept of it here saves a way over the network.
type RemoteDisk interface {
	Disk
	// Node is the id of the node that serves the disk.
	Node() string
}

// CachedDisk is a Disk that keeps what was read in a cache, and can tell.
type CachedDisk interface {
	Disk
	// ReadCached is ReadFragment when it needs no I/O; else it reports false, and p is undefined.
	ReadCached(ctx context.Context, key FragmentKey, off int64, p []byte) bool
	// Prefetch starts to read n bytes from off of a fragment into the cache, as far as they exist.
	Prefetch(ctx context.Context, key FragmentKey, off int64, n int)
}
