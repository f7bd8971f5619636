// Package frames compresses a chunk in frames of 128 KiB, so that a small read decodes only the frames
// that it touches.
//
// A chunk is either raw, byte for byte what the user gave, or framed: the encoded frames one after the
// other, each with a sum behind it, and a Table that says how long each is. The table travels in the
// manifest and in the recovery information, the sums with the data:
//
//	frame  encoded bytes
//	u32    CRC32C of the decoded frame ^ CRC32C of its place (object id u64, offset of its chunk u64, number u64)
//
// integers little endian. So a frame that was taken from another place is refused like one that is damaged.
// Chunks from before version 3 of manifests have no sums behind their frames, but in their tables.
//
// A chunk is raw whenever compression does not pay. That is decided from a few sampled frames, so that
// data that does not compress costs almost nothing. In a framed chunk each frame that does not shrink
// is stored as it is.
//
// A chunk can be sealed frame by frame as well. It is always framed then; its frames carry their own proof of
// integrity, and the table has no sums, which would tell who has no key about the content.
package frames

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// Size is the length of every decoded frame of a chunk but the last.
const Size = objstore.FrameSize

// Chunks shorter than this are never compressed: their records would not get shorter on disk.
const minChunk = 8 << 10

// Table describes the frames of one chunk.
type Table struct {
	Lens   []uint32 // encoded bytes, with what is behind the frame; as long as the decoded frame: stored as it is
	Sums   []uint32 // CRC32C of the decoded frame; nil in a sealed chunk, and in a Summed one
	Summed bool     // every frame has its sum behind it
}

// SumLen is how long the sum behind a frame is.
const SumLen = 4

// Place says where a chunk belongs, so that its frames are not taken for those of another.
type Place struct {
	Object uint64 // id of the upload
	Offset int64  // of the chunk in the object
}

// mask is what the sum of frame i of the chunk is combined with.
func (p Place) mask(i int) uint32 {
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], p.Object)
	binary.LittleEndian.PutUint64(b[8:], uint64(p.Offset))
	binary.LittleEndian.PutUint64(b[16:], uint64(i))
	return crc.Sum(b[:])
}

// Len returns the number of encoded bytes.
func (t *Table) Len() int {
	n := 0
	for _, l := range t.Lens {
		n += int(l)
	}
	return n
}

// Count returns how many frames a chunk of size bytes has.
func Count(size int) int { return (size + Size - 1) / Size }

// DecodedLen returns the length of frame i of a chunk of size bytes.
func DecodedLen(size, i int) int { return min(Size, size-i*Size) }

// Sum returns the CRC32C of the whole decoded chunk of size bytes at a place. read fills p from offset off of the
// encoded chunk; a chunk that is not Summed needs none.
func (t *Table) Sum(size int, at Place, read func(p []byte, off int)) uint32 {
	var sum uint32
	end := 0
	for i, l := range t.Lens {
		end += int(l)
		s := uint32(0)
		if t.Summed {
			var b [SumLen]byte
			read(b[:], end-SumLen)
			s = binary.LittleEndian.Uint32(b[:]) ^ at.mask(i)
		} else {
			s = t.Sums[i]
		}
		sum = crc.Combine(sum, s, int64(DecodedLen(size, i)))
	}
	return sum
}

// Codec encodes and decodes frames. Safe for concurrent use; the zero value is ready. Close it.
type Codec struct {
	encOnce, decOnce sync.Once
	enc              *zstd.Encoder
	dec              *zstd.Decoder
	encErr, decErr   error
	scratch          sync.Pool // *[]byte of maxEncoded
}

// Close frees the codec's memory.
func (c *Codec) Close() {
	c.encOnce.Do(func() {})
	c.decOnce.Do(func() {})
	if c.enc != nil {
		c.enc.Close()
	}
	if c.dec != nil {
		c.dec.Close()
	}
}

// maxEncoded is enough for one frame by any compression, however badly it does.
var maxEncoded = max(s2.MaxEncodedLen(Size), Size+Size/8+1024)

func (c *Codec) buffer() *[]byte {
	if b, ok := c.scratch.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, maxEncoded)
	return &b
}

// Encode writes the chunk src, which belongs at a place, to dst, which is at least as long and does not overlap it,
// compressed by how when that pays. It returns the number of bytes written and, unless the chunk is raw, its table
// and the CRC32C of src.
func (c *Codec) Encode(dst, src []byte, how objstore.Compression, at Place) (n int, t *Table, sum uint32, err error) {
	pays, err := c.pays(src, how)
	if err != nil {
		return 0, nil, 0, err
	}
	if !pays {
		return copy(dst, src), nil, 0, nil
	}
	scratch := c.buffer()
	defer c.scratch.Put(scratch)
	t = &Table{Lens: make([]uint32, 0, Count(len(src))), Summed: true}
	most := worthwhile(len(src))
	for rest := src; len(rest) > 0; {
		frame := rest[:min(Size, len(rest))]
		rest = rest[len(frame):]
		enc, err := c.shrink(*scratch, frame, how)
		if err != nil {
			return 0, nil, 0, err
		}
		if n+len(enc)+SumLen > most {
			return copy(dst, src), nil, 0, nil
		}
		s := crc.Sum(frame)
		n += copy(dst[n:], enc)
		binary.LittleEndian.PutUint32(dst[n:], s^at.mask(len(t.Lens)))
		n += SumLen
		t.Lens = append(t.Lens, uint32(len(enc)+SumLen))
		sum = crc.Combine(sum, s, int64(len(frame)))
	}
	return n, t, sum, nil
}

// shrink returns the encoding of a frame, which is the frame itself when compression does not pay.
func (c *Codec) shrink(scratch, frame []byte, how objstore.Compression) ([]byte, error) {
	enc, err := c.encode(scratch, frame, how)
	if err != nil {
		return nil, err
	}
	if len(enc) > worthwhile(len(frame)) {
		enc = frame
	}
	return enc, nil
}

// Sealer seals frames: it appends content, the encoding of frame number i, to dst, and adds Overhead bytes.
type Sealer func(dst, content []byte, i int) []byte

// Overhead is how much longer a sealed frame is.
const Overhead = 16

// SealedLen returns the most bytes that a chunk of size bytes takes when it is sealed.
func SealedLen(size int) int { return size + Overhead*Count(size) }

// EncodeSealed is Encode with every frame sealed. dst has SealedLen(len(src)) bytes.
func (c *Codec) EncodeSealed(dst, src []byte, how objstore.Compression, seal Sealer) (int, *Table, error) {
	pays, err := c.pays(src, how)
	if err != nil {
		return 0, nil, err
	}
	scratch := c.buffer()
	defer c.scratch.Put(scratch)
	t := &Table{Lens: make([]uint32, Count(len(src)))}
	at := 0
	for i := range t.Lens {
		enc := src[i*Size:]
		enc = enc[:min(Size, len(enc))]
		if pays {
			if enc, err = c.shrink(*scratch, enc, how); err != nil {
				return 0, nil, err
			}
		}
		if at+len(enc)+Overhead > len(dst) {
			return 0, nil, fmt.Errorf("frames: a buffer of %d bytes for a sealed chunk of %d", len(dst), len(src))
		}
		n := len(seal(dst[at:at], enc, i))
		t.Lens[i] = uint32(n)
		at += n
	}
	return at, t, nil
}

// Expand is Decode without a sum, of a frame whose integrity is known.
func (c *Codec) Expand(dst, enc []byte, how objstore.Compression) error {
	if err := c.decode(dst, enc, how); err != nil {
		return &objstore.CorruptError{What: "frame", Err: err}
	}
	return nil
}

// worthwhile is the longest encoding of n bytes that is worth the decoding.
func worthwhile(n int) int { return n - n/16 }

// pays samples frames of src: the first, one in the middle and the last.
func (c *Codec) pays(src []byte, how objstore.Compression) (bool, error) {
	if how == objstore.CompressNone || len(src) < minChunk {
		return false, nil
	}
	count := Count(len(src))
	if count <= 3 {
		return true, nil // encoding is the sample
	}
	scratch := c.buffer()
	defer c.scratch.Put(scratch)
	for _, i := range [3]int{0, count / 2, count - 1} {
		// A quarter of a frame tells as much and costs a quarter.
		frame := src[i*Size:]
		frame = frame[:min(Size/4, len(frame))]
		enc, err := c.encode(*scratch, frame, how)
		if err != nil {
			return false, err
		}
		if len(enc) <= worthwhile(len(frame)) {
			return true, nil
		}
	}
	return false, nil
}

func (c *Codec) encode(scratch, frame []byte, how objstore.Compression) ([]byte, error) {
	switch how {
	case objstore.CompressS2:
		return s2.Encode(scratch, frame), nil
	case objstore.CompressZstd:
		c.encOnce.Do(func() {
			c.enc, c.encErr = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
				zstd.WithWindowSize(Size), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		})
		if c.encErr != nil || c.enc == nil {
			return nil, fmt.Errorf("frames: zstd encoder: %w", c.encErr)
		}
		return c.enc.EncodeAll(frame, scratch[:0]), nil
	}
	return nil, fmt.Errorf("frames: no compression %d", how)
}

// DecodeSummed is Decode of frame i of a Summed chunk that belongs at a place.
func (c *Codec) DecodeSummed(dst, enc []byte, at Place, i int, how objstore.Compression) error {
	n := len(enc) - SumLen
	if n < 1 {
		return &objstore.CorruptError{What: "frame", Err: fmt.Errorf("%d bytes", len(enc))}
	}
	return c.Decode(dst, enc[:n], binary.LittleEndian.Uint32(enc[n:])^at.mask(i), how)
}

// Decode decodes one frame into dst, which has exactly its decoded length, and verifies its sum.
func (c *Codec) Decode(dst, enc []byte, sum uint32, how objstore.Compression) error {
	if err := c.decode(dst, enc, how); err != nil {
		return &objstore.CorruptError{What: "frame", Err: err}
	}
	if got := crc.Sum(dst); got != sum {
		return &objstore.CorruptError{What: "frame", Err: fmt.Errorf("checksum %08x, expected %08x", got, sum)}
	}
	return nil
}

func (c *Codec) decode(dst, enc []byte, how objstore.Compression) error {
	if len(enc) == len(dst) {
		copy(dst, enc)
		return nil
	}
	switch how {
	case objstore.CompressS2:
		if n, err := s2.DecodedLen(enc); err != nil || n != len(dst) {
			return fmt.Errorf("%d bytes announced, %d expected: %w", n, len(dst), errLength(err))
		}
		_, err := s2.Decode(dst, enc)
		return err
	case objstore.CompressZstd:
		c.decOnce.Do(func() {
			c.dec, c.decErr = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxMemory(Size))
		})
		if c.decErr != nil || c.dec == nil {
			return fmt.Errorf("zstd decoder: %w", c.decErr)
		}
		out, err := c.dec.DecodeAll(enc, dst[:0:len(dst)])
		if err != nil {
			return err
		}
		if len(out) != len(dst) {
			return fmt.Errorf("%d bytes decoded, %d expected", len(out), len(dst))
		}
		if len(out) > 0 && &out[0] != &dst[0] {
			copy(dst, out)
		}
		return nil
	}
	return fmt.Errorf("unknown compression %d", how)
}

func errLength(err error) error {
	if err != nil {
		return err
	}
	return s2.ErrCorrupt
}
