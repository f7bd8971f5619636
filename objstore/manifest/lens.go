package manifest

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/gabionfs/gabion/objstore/frames"
)

const (
	lenGroup = 64 // frames whose lengths are packed together: one that is unlike the others costs only its group
	lenWidth = 17 // bits, the most that two lengths can differ by: of 1 to 128 KiB
)

// packLens appends the lengths of frames, each group of them as what is above the least.
func packLens(b []byte, lens []uint32) []byte {
	for group := range slices.Chunk(lens, lenGroup) {
		base := slices.Min(group)
		width := bits.Len32(slices.Max(group) - base)
		b = binary.AppendUvarint(b, uint64(base))
		b = append(b, byte(width))
		var acc uint64
		var have int
		for _, l := range group {
			acc |= uint64(l-base) << have
			for have += width; have >= 8; have -= 8 {
				b = append(b, byte(acc))
				acc >>= 8
			}
		}
		if have > 0 {
			b = append(b, byte(acc))
		}
	}
	return b
}

// summedFrames reads lengths that packLens has written.
func (r *reader) summedFrames(c *Chunk) {
	count := frames.Count(c.Size)
	if (count+lenGroup-1)/lenGroup > len(r.b)/2 {
		r.fail(errShort)
		return
	}
	t := &frames.Table{Lens: make([]uint32, count), Summed: true}
	for group := range slices.Chunk(t.Lens, lenGroup) {
		r.unpackLens(group)
	}
	for i, l := range t.Lens {
		if r.err == nil && (l <= frames.SumLen || l > uint32(frames.DecodedLen(c.Size, i)+frames.SumLen)) {
			r.fail(fmt.Errorf("frame %d of %d bytes", i, l))
		}
	}
	c.Frames = t
}

func (r *reader) unpackLens(group []uint32) {
	base, width := r.uvarint(), int(r.u8())
	n := (len(group)*width + 7) / 8
	switch {
	case r.err != nil:
		return
	case base > frames.Size+frames.SumLen || width > lenWidth:
		r.fail(fmt.Errorf("frames of %d bytes and %d bits more", base, width))
		return
	case n > len(r.b):
		r.fail(errShort)
		return
	}
	var acc uint64
	var have int
	for i := range group {
		for ; have < width; have += 8 {
			acc |= uint64(r.b[0]) << have
			r.b = r.b[1:]
		}
		group[i] = uint32(base) + uint32(acc&(1<<width-1))
		acc >>= width
		have -= width
	}
	if acc != 0 {
		r.fail(fmt.Errorf("bits %x after the last length", acc))
	}
}
