package kv

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Digest sums up pairs of keys and values in the order in which they are added: it is the SHA-256 of, for
// each pair, the length of the key u32, the key, the length of the value u32 and the value, little endian.
// Of no pairs it is the SHA-256 of nothing, e3b0c442...
type Digest struct {
	hash  hash.Hash
	Pairs uint64 // added
	Bytes uint64 // of keys and values
}

// NewDigest returns the digest of no pairs.
func NewDigest() *Digest { return &Digest{hash: sha256.New()} }

// Add adds a pair.
func (d *Digest) Add(key, value []byte) {
	d.Pairs++
	d.Bytes += uint64(len(key) + len(value))
	d.field(key)
	d.field(value)
}

// AddKeyspace says that the pairs that follow are of keyspace ks. It counts as a pair of the digest, not
// of Pairs, with the name as its key and the value "keyspace".
func (d *Digest) AddKeyspace(ks Keyspace) {
	d.field([]byte(ks))
	d.field([]byte("keyspace"))
}

func (d *Digest) field(b []byte) {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(b)))
	d.hash.Write(n[:])
	d.hash.Write(b)
}

// Sum returns the digest of what was added so far.
func (d *Digest) Sum() (sum [sha256.Size]byte) {
	d.hash.Sum(sum[:0])
	return sum
}

// DigestRange returns the digest of the pairs in a range, in the range's order, and their number.
func DigestRange(r Reader, ks Keyspace, rng Range) (sum [sha256.Size]byte, pairs uint64, err error) {
	d := NewDigest()
	err = r.Range(ks, rng, func(key, value []byte) bool {
		d.Add(key, value)
		return true
	})
	return d.Sum(), d.Pairs, err
}
