package asd

import (
	"math/bits"
	"sync"
	"unsafe"
)

const (
	pageSize = 4096
	// minAligned is the payload size from which writing in place beats copying next to the header.
	minAligned = 32 << 10
)

func pageCeil(n int64) int64 { return (n + pageSize - 1) &^ (pageSize - 1) }

func addressAligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%pageSize == 0
}

// isAligned reports whether a payload can be written with O_DIRECT from where it is.
func isAligned(payload [][]byte) bool {
	for i, p := range payload {
		if len(p) == 0 || !addressAligned(p) || i < len(payload)-1 && len(p)%pageSize != 0 {
			return false
		}
	}
	return len(payload) > 0
}

// BufferPool hands out memory that begins at a multiple of 4096, which is what a payload needs to be
// written without a copy. It keeps a bounded amount of what was freed. The zero value is ready for use.
// Safe for concurrent use.
type BufferPool struct {
	// MaxIdle bounds the bytes kept for reuse. Zero means 32 MiB. Set it before the first use.
	MaxIdle int64

	mu   sync.Mutex
	idle int64
	free [maxClass + 1][]*Buffer
}

const (
	minClass = 12 // 4 KiB
	maxClass = 27 // 128 MiB
)

// Buffer is aligned memory. Free returns it to its pool.
type Buffer struct {
	pool  *BufferPool
	mem   []byte
	n     int
	class int
}

// Get returns a buffer of n bytes. Its content is undefined.
func (p *BufferPool) Get(n int) *Buffer {
	class := max(minClass, bits.Len(uint(max(n, 1)-1)))
	if class > maxClass {
		return &Buffer{mem: alignedMemory(n), n: n}
	}
	p.mu.Lock()
	if l := len(p.free[class]); l > 0 {
		b := p.free[class][l-1]
		p.free[class][l-1] = nil
		p.free[class] = p.free[class][:l-1]
		p.idle -= 1 << class
		p.mu.Unlock()
		b.n = n
		return b
	}
	p.mu.Unlock()
	return &Buffer{pool: p, mem: alignedMemory(1 << class), n: n, class: class}
}

// Bytes returns the memory: n bytes, with a capacity of at least n rounded up to a multiple of 4096.
func (b *Buffer) Bytes() []byte { return b.mem[:b.n] }

// Free returns the memory to the pool. It must not be used afterwards, and Free not be called twice.
func (b *Buffer) Free() {
	p := b.pool
	if p == nil {
		return
	}
	limit := p.MaxIdle
	if limit == 0 {
		limit = 32 << 20
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle+1<<b.class <= limit {
		p.idle += 1 << b.class
		p.free[b.class] = append(p.free[b.class], b)
	}
}

// NewBuffer returns n bytes of aligned memory that the garbage collector takes back.
func NewBuffer(n int) []byte { return alignedMemory(n)[:n] }

func alignedMemory(n int) []byte {
	n = int(pageCeil(int64(max(n, 1))))
	mem := make([]byte, n+pageSize)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(mem))) % pageSize); r != 0 {
		skip = pageSize - r
	}
	return mem[skip : skip+n : skip+n]
}
