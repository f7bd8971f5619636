// Package frames compresses a chunk in frames of 128 KiB, so that a small read decodes only the frames
// that it touches.
//
// A chunk is either raw, byte for byte what the user gave, or framed: the encoded frames one after the
// other, with a Table that says how long each is and what its decoded content sums to. The frames have
// no headers of their own; the table travels in the manifest and in the recovery information.
//
// A chunk is raw whenever compression does not pay. That is decided from a few sampled frames, so that
// data that does not compress costs almost nothing. In a framed chunk each frame that does not shrink
// is stored as it is.
//
// A chunk can be sealed frame by frame as well. It is always framed then; its frames carry their own proof of
// integrity, and the table has no sums, which would tell who has no key about the content.
package frames

import (
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
	Lens []uint32 // encoded bytes; as long as the decoded frame: stored as it is
	Sums []uint32 // CRC32C of the decoded frame; nil in a sealed chunk
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

// Sum returns the CRC32C of the whole decoded chunk of size bytes.
func (t *Table) Sum(size int) uint32 {
	var sum uint32
	for i, s := range t.Sums {
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

// Encode writes the chunk src to dst, which is at least as long and does not overlap it, compressed by
// how when that pays. It returns the number of bytes written and the table, nil for a raw chunk.
func (c *Codec) Encode(dst, src []byte, how objstore.Compression) (int, *Table, error) {
	pays, err := c.pays(src, how)
	if err != nil {
		return 0, nil, err
	}
	if !pays {
		return copy(dst, src), nil, nil
	}
	scratch := c.buffer()
	defer c.scratch.Put(scratch)
	count := Count(len(src))
	t := &Table{Lens: make([]uint32, 0, count), Sums: make([]uint32, 0, count)}
	at := 0
	for rest := src; len(rest) > 0; {
		frame := rest[:min(Size, len(rest))]
		rest = rest[len(frame):]
		enc, err := c.shrink(*scratch, frame, how)
		if err != nil {
			return 0, nil, err
		}
		at += copy(dst[at:], enc)
		t.Lens = append(t.Lens, uint32(len(enc)))
		t.Sums = append(t.Sums, crc.Sum(frame))
	}
	if at > worthwhile(len(src)) {
		return copy(dst, src), nil, nil
	}
	return at, t, nil
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
