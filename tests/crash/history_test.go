package crash

import (
	"fmt"
	"math/rand/v2"

	"github.com/gabionfs/gabion/tests/harness"
)

// A history is the life of one file: operations that follow from the seed and the file's name alone, so
// that whoever checks can go through it again. Its content holds no zero byte but in holes.
type history struct {
	r       *rand.Rand
	limit   int // of the file's size
	most    int // of one write: one request to the filesystem, so that it happens whole or not at all
	n       int // operations so far; the first creates the file
	content []byte
}

type opKind int

const (
	opCreate opKind = iota
	opWrite
	opAppend
	opSyncWrite // with O_DSYNC: durable when it returns
	opTruncate
	opSync
	opDataSync
)

type op struct {
	kind opKind
	off  int64
	data []byte // of a write
}

func newHistory(seed uint64, name string) *history {
	h := &history{r: harness.Rand(seed, name), limit: 200_000, most: 20_000}
	if h.r.IntN(4) == 0 {
		h.limit, h.most = 12<<20, 120_000
	}
	return h
}

// next returns the next operation and applies it to content.
func (h *history) next() op {
	h.n++
	if h.n == 1 {
		return op{kind: opCreate}
	}
	o := op{off: int64(len(h.content))}
	switch k := h.r.IntN(100); {
	case k < 12:
		o.kind = opSync
	case k < 16:
		o.kind = opDataSync
	case k < 22:
		o.kind = opTruncate
		o.off = h.r.Int64N(int64(len(h.content)) + 1)
		switch h.r.IntN(6) {
		case 0:
			o.off = 0
		case 1:
			o.off = int64(len(h.content)) + h.r.Int64N(30_000)
		}
	case k < 60:
		o.kind = opAppend
	case k < 70:
		o.kind = opSyncWrite
		o.off = h.r.Int64N(int64(len(h.content)) + 1)
	default:
		o.kind = opWrite
		o.off = h.r.Int64N(int64(len(h.content)) + 10_000)
	}
	if o.kind == opAppend && len(h.content) > h.limit {
		o.kind, o.off = opTruncate, h.r.Int64N(int64(len(h.content)))
	}
	switch o.kind {
	case opWrite, opAppend, opSyncWrite:
		size := 1 + h.r.IntN(h.most)
		if h.r.IntN(3) == 0 {
			size = 1 + h.r.IntN(300)
		}
		o.data = harness.Noise(h.r, size)
		h.put(o.off, o.data)
	case opTruncate:
		h.resize(o.off)
	}
	return o
}

func (h *history) put(off int64, p []byte) {
	if end := off + int64(len(p)); end > int64(len(h.content)) {
		h.resize(end)
	}
	copy(h.content[off:], p)
}

func (h *history) resize(size int64) {
	old := int64(len(h.content))
	if size <= old {
		clear(h.content[size:])
		h.content = h.content[:size]
		return
	}
	if size > int64(cap(h.content)) {
		h.content = append(make([]byte, 0, 2*size), h.content...)
	}
	h.content = h.content[:size]
	clear(h.content[old:])
}

// version is the content that a file has after it was replaced v times by rename.
func version(seed uint64, name string, v int) []byte {
	r := harness.Rand(seed, fmt.Sprint(name, "/", v))
	size := 1 + r.IntN(300_000)
	if v%3 == 0 {
		size = 1 + r.IntN(3000)
	}
	return harness.Noise(r, size)
}
