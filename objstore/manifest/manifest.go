// Package manifest is the description of one object: what it is, how its chunks were coded and where
// their fragments are.
//
// An encoded manifest, all integers little endian, uvarint as in encoding/binary:
//
//	"GM" 01                    magic and version
//	uvarint  id                of the upload, unique in the namespace for ever
//	uvarint  size              bytes as the user gave them
//	u32      sum               CRC32C of those bytes
//	u8       compression       of framed chunks: 0 none, 1 s2, 2 zstd
//	uvarint  chunks
//	per chunk:
//	  u8       flags           1: as the chunk before (k, m); 2: framed; 4: numbered
//	  [u8 k, u8 m]             unless flag 1
//	  [uvarint number]         if flag 4; else its place in the object
//	  uvarint  size            bytes as the user gave them
//	  [frames, if flag 2]      ceil(size / 128 KiB) of them:
//	    uvarint  length        encoded bytes
//	    u32      sum           CRC32C of the decoded frame
//	  fragments                k+m of them:
//	    uvarint  disk<<1 | u   0: there is none; u: the write was not confirmed yet
//	    uvarint  version
//	    u32      sum           CRC32C of the fragment
//	u32      CRC32C of everything before
//
// Version 2 is written for objects that are encrypted or have digests, and for no others. It differs in this:
//
//	u32      sum               0 in an encrypted object: it would tell who has no key about the content
//	u8       encryption        after compression: 0 none, 1 aes-256-gcm; if 1:
//	  uvarint  key             version of the namespace's key that the data key is sealed with
//	  72 bytes                 the data key, sealed (package crypt)
//	per chunk:
//	  u8       flags           also 8: sealed; 16: sealed, and no frame is compressed; 32: digest
//	  [uvarint encoding]       after size, if flag 8 or 16 (package crypt, frames)
//	  [frames, if flag 8]      the lengths only
//	  [32 bytes, if flag 32]   BLAKE3-256 of the chunk as it is stored, before coding
//
// Version 3 is written for objects with frames that have their sums behind them (package frames), which is every
// object that is compressed and not sealed. It is version 2 with
//
//	per chunk:
//	  u8       flags           also 64: framed, with sums behind the frames
//	  [lengths, if flag 64]    per group of 64 frames:
//	    uvarint  base          the least length in the group
//	    u8       width         bits, at most 17
//	    bits     length - base width bits for each frame, from the lowest bit of each byte; zeroes to the next byte
//
// The stored length of a chunk is its size, or the sum of its frames; the length of its fragments
// follows from that and k. The same form, with one chunk and its place, is the recovery information
// beside every fragment (see Recovery).
package manifest

import (
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/erasure"
	"github.com/gabionfs/gabion/objstore/frames"
)

// Manifest describes one object. It is immutable once it was handed to anyone.
type Manifest struct {
	ID          uint64
	Size        int64  // bytes as the user gave them
	Sum         uint32 // CRC32C of those bytes; 0 when the object is sealed
	Compression objstore.Compression
	Seal        *crypt.Wrapped // the data key of a sealed object; nil: it is not
	Chunks      []Chunk
}

// Chunk is a part of an object that was coded on its own. Its policy may differ from its neighbours':
// a disk may fail between two chunks.
type Chunk struct {
	K, M      int
	Number    uint32        // in fragment keys; its place in the object unless a part was coded again
	Size      int           // bytes as the user gave them
	Frames    *frames.Table // nil: raw
	Encoding  uint32        // of a sealed object: see package crypt
	Digest    *Digest       // nil: there is none
	Fragments []Fragment    // K+M
}

// Digest is the BLAKE3-256 of a chunk as it is stored, before coding.
type Digest [32]byte

// Fragment says where one fragment is.
type Fragment struct {
	Disk        objstore.DiskID // 0: nowhere
	Version     uint32
	Sum         uint32 // CRC32C
	Unconfirmed bool   // the write had not finished when the object was acknowledged
}

// Present tells whether the fragment was durably written.
func (f Fragment) Present() bool { return f.Disk != 0 && !f.Unconfirmed }

// Stored returns the bytes of the chunk before coding.
func (c *Chunk) Stored() int {
	if c.Frames != nil {
		return c.Frames.Len()
	}
	return c.Size
}

// FragmentLen returns the length of each of the chunk's fragments.
func (c *Chunk) FragmentLen() int { return erasure.FragmentLen(c.Stored(), c.K) }

// Present counts the fragments that were durably written.
func (c *Chunk) Present() int {
	n := 0
	for _, f := range c.Fragments {
		if f.Present() {
			n++
		}
	}
	return n
}

// Key returns the key of fragment f of chunk c.
func (m *Manifest) Key(ns uint32, chunk, fragment int) objstore.FragmentKey {
	return objstore.FragmentKey{
		Namespace: ns, Object: m.ID, Chunk: m.Chunks[chunk].Number, Fragment: uint8(fragment),
		Version: m.Chunks[chunk].Fragments[fragment].Version,
	}
}

// Stored returns the bytes of all fragments that exist.
func (m *Manifest) Stored() int64 {
	var n int64
	for i := range m.Chunks {
		c := &m.Chunks[i]
		for _, f := range c.Fragments {
			if f.Disk != 0 {
				n += int64(c.FragmentLen())
			}
		}
	}
	return n
}

// Safety returns how many more fragments of its weakest chunk the object can lose, and that chunk's
// m: what it was coded for. An object without chunks can lose nothing and needs nothing.
func (m *Manifest) Safety() (spare, full int) {
	for i := range m.Chunks {
		c := &m.Chunks[i]
		if s := c.Present() - c.K; i == 0 || s < spare || s == spare && c.M > full {
			spare, full = s, c.M
		}
	}
	return spare, full
}

// Complete tells whether every fragment of every chunk was durably written.
func (m *Manifest) Complete() bool {
	for i := range m.Chunks {
		if m.Chunks[i].Present() < m.Chunks[i].K+m.Chunks[i].M {
			return false
		}
	}
	return true
}

// Clone returns a copy whose fragments can be changed.
func (m *Manifest) Clone() *Manifest {
	out := *m
	out.Chunks = slices.Clone(m.Chunks)
	for i := range out.Chunks {
		out.Chunks[i].Fragments = slices.Clone(out.Chunks[i].Fragments)
	}
	return &out
}

// Memory estimates the bytes that the manifest takes in memory, for caches.
func (m *Manifest) Memory() int {
	n := 104 + 88*len(m.Chunks)
	if m.Seal != nil {
		n += 80
	}
	for i := range m.Chunks {
		n += 16 * len(m.Chunks[i].Fragments)
		if t := m.Chunks[i].Frames; t != nil {
			n += 48 + 8*len(t.Lens)
		}
		if m.Chunks[i].Digest != nil {
			n += len(Digest{})
		}
	}
	return n
}

// Info returns what the user sees of it.
func (m *Manifest) Info(name string) objstore.Info {
	return objstore.Info{Name: name, ID: m.ID, Size: m.Size, Stored: m.Stored()}
}
