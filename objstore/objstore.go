// Package objstore is the vocabulary of gabion's object layer: immutable objects in namespaces,
// erasure-coded into fragments over local disks ("ASDs") by the policy of the namespace's preset.
//
// What the servers promise:
//
//   - Put returns once enough fragments of every chunk are durable (policy's c) and the manifest is
//     registered; from then on the object is read whole or not at all.
//   - Every byte that a read returns was verified against a checksum. Missing, damaged or slow
//     fragments are reconstructed from the others on the way, and reported for repair.
//   - The order of durability is fragments, then manifest; deletion runs the other way. A crash in
//     between leaves garbage that maintenance collects, never a manifest without its fragments.
//   - An object never changes. Putting an existing name fails with ErrExists.
//
// Implementations live below: objstore/client over asd, erasure, nsm, manager and maint.
package objstore

import (
	"context"
	"io"
	"slices"
)

// Limits on what comes from outside.
const (
	MaxNamespace = 64      // bytes in a namespace's name, at least 1
	MaxName      = 1 << 10 // bytes in an object's name, at least 1
	MaxObject    = 1 << 40 // bytes in an object
	MaxFragments = 64      // k+m of a policy
)

// FrameSize is how much of an object is compressed, sealed and verified together: a small read decodes
// only the frames that it touches.
const FrameSize = 128 << 10

// Compression of an object's frames. A frame that does not shrink is stored as it is.
type Compression uint8

const (
	CompressNone Compression = iota
	CompressS2
	CompressZstd
)

// Encryption of an object's frames.
type Encryption uint8

const (
	EncryptNone Encryption = iota
	EncryptAES             // AES-256-GCM, see objstore/crypt
)

// Checksum of what is stored. CRC32C guards every fragment and every 64 KiB of it against rot.
type Checksum uint8

const (
	ChecksumCRC    Checksum = iota
	ChecksumBLAKE3          // also a BLAKE3-256 of every chunk, compared whenever a whole chunk is read
)

// Preset says how the objects of a namespace are laid out. An object keeps the layout it was written with.
type Preset struct {
	Name         string
	Version      uint32   // rises with each change, from 1
	Policies     []Policy // in order of preference, at least one
	FragmentSize int      // most user data in a fragment, in bytes; 0 means 4 MiB
	Compression  Compression
	Encryption   Encryption `json:",omitempty"`
	Checksum     Checksum   `json:",omitempty"`
	Disks        []DiskID   `json:",omitempty"` // the only ones that get new fragments; none: all
}

// Has tells whether new fragments may be put on a disk.
func (p *Preset) Has(d DiskID) bool { return len(p.Disks) == 0 || slices.Contains(p.Disks, d) }

// Info describes one object.
type Info struct {
	Name   string
	ID     uint64 // the upload's id, unique in the namespace for ever
	Size   int64  // bytes as given to Put
	Stored int64  // bytes on disk: all fragments, without record headers
}

// Slice is one range of one object to be read into P: all of P, or an error.
type Slice struct {
	Name string
	Off  int64
	P    []byte
}

// Namespace holds objects by name. Safe for concurrent use.
type Namespace interface {
	// Put stores p as the new object name. It does not keep p.
	// Its manifest is sequenced, in order, in the namespace's key-value store when Put returns, and
	// durable after that store's next sync: an update of the same store that refers to the object
	// is never durable before the manifest is.
	Put(ctx context.Context, name string, p []byte) (Info, error)
	// PutFrom is Put for size bytes streamed from r, with memory bounded by a few chunks.
	PutFrom(ctx context.Context, name string, r io.Reader, size int64) (Info, error)
	// ReadAt fills p from offset off of the object. Reading past the end is io.ErrUnexpectedEOF.
	ReadAt(ctx context.Context, name string, off int64, p []byte) error
	// ReadSlices is ReadAt for many ranges in one call, in parallel. The first error is returned.
	ReadSlices(ctx context.Context, slices []Slice) error
	// Stat returns ErrNotFound when there is no such object.
	Stat(ctx context.Context, name string) (Info, error)
	// Delete removes the objects; absent ones are skipped. The fragments' space comes back soon after
	// the removal of the manifests is durable.
	Delete(ctx context.Context, names ...string) error
	// List calls fn for objects with from <= name < to ("" is no bound) in name order, until fn
	// returns false.
	List(ctx context.Context, from, to string, fn func(Info) bool) error
}

// Prefetcher is a Namespace that can be told what will be read soon.
type Prefetcher interface {
	// Prefetch starts to bring n bytes from off of the object nearer. It is a hint and does not wait.
	Prefetch(ctx context.Context, name string, off, n int64)
}

// Reclaimer is a Namespace that can be asked for the space of what was deleted.
type Reclaimer interface {
	// Reclaim frees the space of everything that was deleted before the call, now and not soon, on the
	// disks that are there.
	Reclaim(ctx context.Context) error
}

// Secretive is a Namespace that may be encrypted, for those who keep something of its content, or about it,
// elsewhere.
type Secretive interface {
	// Secret derives a key for a purpose, the same for the life of the namespace. It reports false when the
	// namespace is not encrypted.
	Secret(purpose string) (key [32]byte, ok bool)
}

// Capacity of a namespace's disks, in bytes of user data after coding.
type Capacity struct {
	Total, Used, Free int64
}
