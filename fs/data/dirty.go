package data

import (
	"sort"
	"sync"
)

// span is a run of dirty bytes of a block.
type span struct {
	off uint32
	b   []byte
}

func (s span) end() uint32 { return s.off + uint32(len(s.b)) }

// dirtyBlock holds the dirty bytes of one block as ascending spans that do not overlap.
type dirtyBlock struct{ spans []span }

// bigSpan is the size of a first write from which a block is taken to be written as a stream, and
// gets a whole block's buffer at once.
const bigSpan = 256 << 10

// bufPool recycles buffers of a whole block between generations.
type bufPool struct{ p sync.Pool }

func (bp *bufPool) get() []byte {
	if b, ok := bp.p.Get().(*[BlockSize]byte); ok {
		return b[:]
	}
	return new([BlockSize]byte)[:]
}

func (bp *bufPool) put(b []byte) {
	if cap(b) == BlockSize {
		bp.p.Put((*[BlockSize]byte)(b[:BlockSize]))
	}
}

// write puts p at off of the block and returns by how much the memory held grew.
func (d *dirtyBlock) write(off uint32, p []byte, pool *bufPool) (grown int64) {
	end := off + uint32(len(p))
	i := sort.Search(len(d.spans), func(i int) bool { return d.spans[i].end() >= off })
	if i < len(d.spans) {
		s := &d.spans[i]
		switch {
		case s.off <= off && end <= s.end(): // within a span
			copy(s.b[off-s.off:], p)
			return 0
		case s.off <= off && (i+1 == len(d.spans) || d.spans[i+1].off >= end): // extends a span
			keep := off - s.off
			grown = s.reserve(int(keep)+len(p), pool)
			s.b = append(s.b[:keep], p...)
			return grown
		}
	}
	grown = d.cut(off, end, pool)
	n := span{off: off}
	grown += n.reserve(len(p), pool)
	n.b = append(n.b, p...)
	i = sort.Search(len(d.spans), func(i int) bool { return d.spans[i].off >= off })
	d.spans = append(d.spans, span{})
	copy(d.spans[i+1:], d.spans[i:])
	d.spans[i] = n
	return grown
}

// reserve makes room for n bytes in s and returns by how much the memory held grew.
func (s *span) reserve(n int, pool *bufPool) int64 {
	old := cap(s.b)
	if n <= old {
		return 0
	}
	most := BlockSize - int(s.off)
	var b []byte
	switch want := min(max(n, 2*old), most); {
	case s.off == 0 && want >= bigSpan:
		b = pool.get()[:len(s.b)]
	case old == 0:
		b = make([]byte, 0, n)
	default:
		b = make([]byte, len(s.b), want)
	}
	copy(b, s.b)
	pool.put(s.b)
	s.b = b
	return int64(cap(b) - old)
}

// cut removes [from, to) from the spans and returns by how much the memory held grew (a span cut in
// its middle is copied) or, negative, shrank.
func (d *dirtyBlock) cut(from, to uint32, pool *bufPool) (grown int64) {
	out := d.spans[:0:0]
	for i, s := range d.spans {
		if s.end() <= from || s.off >= to {
			if out != nil {
				out = append(out, s)
			}
			continue
		}
		if out == nil {
			out = append(make([]span, 0, len(d.spans)+1), d.spans[:i]...)
		}
		if s.off >= from && s.end() <= to {
			grown -= int64(cap(s.b))
			pool.put(s.b)
			continue
		}
		if s.end() > to { // before the left part shortens the buffer
			r := append([]byte(nil), s.b[to-s.off:]...)
			grown += int64(cap(r))
			if s.off < from {
				out = append(out, span{s.off, s.b[:from-s.off]})
			} else {
				grown -= int64(cap(s.b))
				pool.put(s.b)
			}
			out = append(out, span{to, r})
			continue
		}
		out = append(out, span{s.off, s.b[:from-s.off]})
	}
	if out != nil {
		d.spans = out
	}
	return grown
}

// fill copies the dirty bytes of [off, off+len(p)) to p and calls hole for the ranges of p, relative
// to it, that are not dirty.
func (d *dirtyBlock) fill(off uint32, p []byte, hole func(from, to int)) {
	end := off + uint32(len(p))
	i := sort.Search(len(d.spans), func(i int) bool { return d.spans[i].end() > off })
	at := off
	for ; i < len(d.spans) && d.spans[i].off < end; i++ {
		s := d.spans[i]
		if s.off > at {
			hole(int(at-off), int(s.off-off))
			at = s.off
		}
		n := copy(p[at-off:], s.b[at-s.off:])
		at += uint32(n)
	}
	if at < end {
		hole(int(at-off), len(p))
	}
}

// runs calls fn for the maximal ranges that spans cover without a gap.
func (d *dirtyBlock) runs(fn func(from, to uint32, spans []span)) {
	for i := 0; i < len(d.spans); {
		j := i + 1
		for j < len(d.spans) && d.spans[j].off == d.spans[j-1].end() {
			j++
		}
		fn(d.spans[i].off, d.spans[j-1].end(), d.spans[i:j])
		i = j
	}
}

// release gives the buffers back.
func (d *dirtyBlock) release(pool *bufPool) {
	for _, s := range d.spans {
		pool.put(s.b)
	}
	d.spans = nil
}
