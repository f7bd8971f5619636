package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
)

// Hash is the keyed BLAKE3-256 of a blob's content.
type Hash [32]byte

// piece is a range of a block whose bytes are those of a blob from boff on.
type piece struct {
	off, n uint32 // in the block; n > 0
	boff   uint32 // in the blob
	hash   Hash
}

func (p piece) end() uint32 { return p.off + p.n }

// extent is the content of one block: pieces in ascending order that do not overlap. What no
// piece covers reads as zeroes. Inline rows, when hasInline is set, lie over the pieces.
type extent struct {
	hasInline bool
	inline    int64 // bytes in the inline rows; uncounted when the extent does not say
	pieces    []piece
}

// uncounted is in extents that were written before they counted their inline bytes.
const uncounted = -1

// maxPieces bounds what one extent may hold. Writers merge a block into one blob long before.
const maxPieces = 1024

const (
	flagInline  = 1
	flagCounted = 2 // the number of inline bytes follows
)

// appendTo appends the encoding of e; an extent without anything encodes to its flags alone.
func (e *extent) encode() []byte {
	b := make([]byte, 1, 5+len(e.pieces)*42)
	if e.hasInline {
		b[0] |= flagInline
	}
	if e.inline > 0 {
		b[0] |= flagCounted
		b = binary.AppendUvarint(b, uint64(e.inline))
	}
	for _, p := range e.pieces {
		b = binary.AppendUvarint(b, uint64(p.off))
		b = binary.AppendUvarint(b, uint64(p.n))
		b = binary.AppendUvarint(b, uint64(p.boff))
		b = append(b, p.hash[:]...)
	}
	return b
}

var errPiece = errors.New("pieces overlap or leave the block")

// decodeExtent decodes what encode made.
func decodeExtent(b []byte) (extent, error) {
	var e extent
	if len(b) == 0 {
		return e, errShort
	}
	flags := b[0]
	b = b[1:]
	switch e.hasInline = flags&flagInline != 0; {
	case flags&^(flagInline|flagCounted) != 0, flags == flagCounted:
		return e, fmt.Errorf("unknown flags %#x", flags)
	case flags&flagCounted != 0:
		var n uint64
		var err error
		if b, err = uvarints(b, &n); err != nil {
			return e, err
		}
		if n == 0 || n > BlockSize {
			return e, fmt.Errorf("%d inline bytes in a block", n)
		}
		e.inline = int64(n)
	case e.hasInline:
		e.inline = uncounted
	}
	if len(b) > 0 {
		e.pieces = make([]piece, 0, min(len(b)/35, maxPieces)) // 35 bytes is the shortest piece
	}
	var last uint64
	for len(b) > 0 {
		var off, n, boff uint64
		var err error
		if b, err = uvarints(b, &off, &n, &boff); err != nil {
			return e, err
		}
		if len(b) < len(Hash{}) {
			return e, errShort
		}
		if off < last || n == 0 || n > BlockSize || off+n > BlockSize || boff+n > BlockSize || len(e.pieces) == maxPieces {
			return e, errPiece
		}
		p := piece{off: uint32(off), n: uint32(n), boff: uint32(boff)}
		copy(p.hash[:], b)
		b, last = b[len(p.hash):], off+n
		e.pieces = append(e.pieces, p)
	}
	return e, nil
}

// refDelta counts by how much the references to blobs change.
type refDelta map[Hash]int

// cut removes [from, to) of the block from e and counts in refs the references that go and come:
// a piece that is cut in its middle becomes two.
func (e *extent) cut(from, to uint32, refs refDelta) {
	if from >= to {
		return
	}
	i := sort.Search(len(e.pieces), func(i int) bool { return e.pieces[i].end() > from })
	j := i
	var keep [2]piece
	n := 0
	for ; j < len(e.pieces) && e.pieces[j].off < to; j++ {
		p := e.pieces[j]
		refs[p.hash]--
		if p.off < from {
			l := p
			l.n = from - p.off
			keep[n], n = l, n+1
			refs[p.hash]++
		}
		if p.end() > to {
			r := p
			r.boff += to - p.off
			r.n = p.end() - to
			r.off = to
			keep[n], n = r, n+1
			refs[p.hash]++
		}
	}
	if i == j {
		return
	}
	tail := append([]piece(nil), e.pieces[j:]...)
	e.pieces = append(append(e.pieces[:i], keep[:n]...), tail...)
}

// lay puts p over e, cutting away what it covers.
func (e *extent) lay(p piece, refs refDelta) {
	e.cut(p.off, p.end(), refs)
	i := sort.Search(len(e.pieces), func(i int) bool { return e.pieces[i].off >= p.off })
	e.pieces = append(e.pieces, piece{})
	copy(e.pieces[i+1:], e.pieces[i:])
	e.pieces[i] = p
	refs[p.hash]++
}

// end returns where the last piece ends.
func (e *extent) end() uint32 {
	if n := len(e.pieces); n > 0 {
		return e.pieces[n-1].end()
	}
	return 0
}

// covered returns how many bytes of the block pieces cover.
func (e *extent) covered() (n int64) {
	for _, p := range e.pieces {
		n += int64(p.n)
	}
	return n
}
