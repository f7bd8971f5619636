package fragcache

import (
	"sync"

	"github.com/gabionfs/gabion/objstore/internal/bufpool"
)

// memory keeps pages in memory.
type memory struct {
	pool *bufpool.Pool

	mu    sync.Mutex
	pages *fifo[pageKey, *bufpool.Buf]
}

// pageCost is what a page takes beside its buffer, in bytes.
const pageCost = 300

func newMemory(most int64) *memory {
	m := &memory{pool: bufpool.New(int(min(most/8, 4<<20)))}
	m.pages = newFIFO[pageKey](most, (*bufpool.Buf).Release)
	return m
}

// span returns the first and the last page of a range.
func span(off int64, n int) (first, last uint32) {
	return uint32(off / PageSize), uint32((off + int64(n) - 1) / PageSize)
}

func (m *memory) get(k Key, off int64, p []byte) bool {
	first, last := span(off, len(p))
	var few [17]*bufpool.Buf
	bufs := few[:0]
	m.mu.Lock()
	for i := first; i <= last; i++ {
		if !m.pages.has(pageKey{k, i}) {
			m.mu.Unlock()
			return false
		}
	}
	for i := first; i <= last; i++ {
		b, _ := m.pages.get(pageKey{k, i})
		b.Hold()
		bufs = append(bufs, b)
	}
	m.mu.Unlock()
	in := int(off % PageSize)
	for i, b := range bufs {
		if in < len(b.B) && (i == len(bufs)-1 || len(b.B) == PageSize) {
			p = p[copy(p, b.B[in:]):]
		}
		in = 0
		b.Release()
	}
	return len(p) == 0
}

func (m *memory) has(k Key, off int64, n int) bool {
	first, last := span(off, n)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := first; i <= last; i++ {
		if !m.pages.has(pageKey{k, i}) {
			return false
		}
	}
	return true
}

func (m *memory) put(pages []page) {
	for _, x := range pages {
		m.mu.Lock()
		has := m.pages.has(x.key)
		m.mu.Unlock()
		if has {
			continue
		}
		b := m.pool.Get(len(x.p))
		copy(b.B, x.p)
		m.mu.Lock()
		kept := m.pages.put(x.key, b, int64(cap(b.B))+pageCost)
		m.mu.Unlock()
		if !kept {
			b.Release()
		}
	}
}

func (m *memory) drop(k Key, pages int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range uint32(pages) {
		m.pages.remove(pageKey{k, i})
	}
}

func (m *memory) used() (bytes, most int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pages.cost[small] + m.pages.cost[main], m.pages.most
}
