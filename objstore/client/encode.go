package client

import (
	"github.com/zeebo/blake3"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// coded is a chunk ready to be written.
type coded struct {
	buf    *bufpool.Buf
	chunk  manifest.Chunk
	shards [][]byte
	sums   [][]uint32 // per fragment, of its blocks
	sum    uint32     // of the chunk as the user gave it
	info   []byte     // recovery information
}

// encode compresses, seals and codes a chunk.
func (u *upload) encode(p objstore.Policy, number, version uint32, off int64, raw []byte) (*coded, error) {
	c := u.s.c
	code, err := c.codes.Get(p.K, p.M)
	if err != nil {
		return nil, err
	}
	e := &coded{chunk: manifest.Chunk{K: p.K, M: p.M, Number: number, Size: len(raw)}}
	most := len(raw)
	if u.sealer != nil {
		most = frames.SealedLen(len(raw))
		e.chunk.Encoding = u.encodings.Add(1) // every encoding is another: see package crypt
	}
	e.buf = c.pool.Get(code.BufferLen(most))
	stored := 0
	if u.sealer != nil {
		stored, e.chunk.Frames, err = c.codec.EncodeSealed(e.buf.B, raw, u.preset.Compression, u.sealFrames(e.chunk.Encoding, off, len(raw)))
	} else {
		stored, e.chunk.Frames, e.sum, err = c.codec.Encode(e.buf.B, raw, u.preset.Compression, frames.Place{Object: u.id.ID, Offset: off})
	}
	if err != nil {
		e.buf.Release()
		return nil, err
	}
	e.shards = code.Split(e.buf.B[:code.BufferLen(stored)], stored)
	if err := code.Encode(e.shards); err != nil {
		e.buf.Release()
		return nil, err
	}
	e.checksum(p, version, stored)
	if u.preset.Checksum == objstore.ChecksumBLAKE3 {
		e.chunk.Digest = digest(e.buf.B[:stored])
	}
	e.info = (&manifest.Recovery{Name: u.name, ID: u.id.ID, Size: u.size, Compression: u.preset.Compression, Seal: u.wrapped,
		Chunks: u.chunks, Offset: off, Chunk: e.chunk}).Encode(nil)
	return e, nil
}

// digest returns the BLAKE3-256 of a chunk as it is stored.
func digest(p []byte) *manifest.Digest {
	d := manifest.Digest(blake3.Sum256(p))
	return &d
}

// checksum sums every fragment once, in blocks, and derives the sum of a raw chunk from that.
func (e *coded) checksum(p objstore.Policy, version uint32, stored int) {
	n := len(e.shards[0])
	e.chunk.Fragments = make([]manifest.Fragment, len(e.shards))
	e.sums = make([][]uint32, len(e.shards))
	for i, s := range e.shards {
		if p.K == 1 && i > 0 {
			e.sums[i] = e.sums[0]
			e.chunk.Fragments[i] = e.chunk.Fragments[0]
			continue
		}
		e.sums[i] = crc.Blocks(make([]uint32, 0, (n+crc.Block-1)/crc.Block), s)
		e.chunk.Fragments[i] = manifest.Fragment{Version: version, Sum: crc.Join(e.sums[i], n)}
	}
	if e.chunk.Frames != nil {
		return // summed frame by frame, or sealed: the sum of the content would tell something about it
	}
	for i := 0; i*n < stored; i++ {
		data := min(n, stored-i*n)
		sum := e.chunk.Fragments[i].Sum
		if data < n { // padded
			sum = crc.Sum(e.shards[i][:data])
		}
		e.sum = crc.Combine(e.sum, sum, int64(data))
	}
}
