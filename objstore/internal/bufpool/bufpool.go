// Package bufpool lends page-aligned buffers and takes them back. Unlike sync.Pool it keeps what it was
// given across garbage collections, up to a bound, because fresh megabytes must be zeroed and faulted in.
package bufpool

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Align is the alignment of every buffer in memory, in bytes, as direct I/O wants it.
const Align = 4096

// Pool lends buffers. Safe for concurrent use.
type Pool struct {
	mu   sync.Mutex
	free map[int][][]byte // by capacity
	kept int              // bytes in free
	most int
}

// New returns a pool that keeps at most keep bytes of returned buffers.
func New(keep int) *Pool { return &Pool{free: make(map[int][][]byte), most: keep} }

// Buf is one buffer with a count of its holders; it returns to its pool when the last one lets go.
type Buf struct {
	B    []byte
	pool *Pool
	refs atomic.Int32
}

// Get returns a buffer of n bytes with whatever was in it, held once.
func (p *Pool) Get(n int) *Buf {
	size := class(n)
	b := &Buf{pool: p}
	b.refs.Store(1)
	p.mu.Lock()
	if l := p.free[size]; len(l) > 0 {
		b.B = l[len(l)-1][:n]
		p.free[size] = l[:len(l)-1]
		p.kept -= size
		p.mu.Unlock()
		return b
	}
	p.mu.Unlock()
	b.B = Alloc(size)[:n]
	return b
}

// Alloc returns n bytes aligned to a page, outside any pool. Its capacity is n.
//
// What is large lies in huge pages, as far as it fills them and the kernel has some: direct I/O hands memory to the disk
// in contiguous pieces, of which a disk takes only so many at a time.
func Alloc(n int) []byte {
	if n >= minHuge {
		return allocHuge(n)
	}
	return align(make([]byte, n+Align), Align)[:n:n]
}

const (
	hugePage = 2 << 20
	minHuge  = 2 * hugePage // up to one more is address space that is never touched
)

func allocHuge(n int) []byte {
	b := align(make([]byte, n+hugePage), hugePage)[:n:n]
	whole := b[:n/hugePage*hugePage]
	// The memory stays the collector's. This is advice, and nothing depends on it.
	if unix.Madvise(whole, unix.MADV_HUGEPAGE) == nil {
		_ = unix.Madvise(whole, unix.MADV_COLLAPSE) // what the heap had in small pages
	}
	return b
}

// align returns b from the first multiple of to on.
func align(b []byte, to int) []byte {
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % uintptr(to)); r != 0 {
		b = b[to-r:]
	}
	return b
}

// class rounds n up to one of eight sizes per power of two, so that little is wasted and much fits again.
func class(n int) int {
	if n <= Align {
		return Align
	}
	step := max(1<<(bits.Len(uint(n-1))-4), Align)
	return (n + step - 1) / step * step
}

// Hold adds a holder.
func (b *Buf) Hold() { b.refs.Add(1) }

// Release ends one hold. Nobody may touch B after the last.
func (b *Buf) Release() {
	switch n := b.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("bufpool: released more often than held")
	}
	p, raw := b.pool, b.B[:cap(b.B)]
	b.B = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept+len(raw) <= p.most {
		p.free[len(raw)] = append(p.free[len(raw)], raw)
		p.kept += len(raw)
	}
}
