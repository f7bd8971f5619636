package client

import (
	"container/list"
	"sync"
)

// frameKey names a decoded frame. Objects never change, so neither do their frames.
type frameKey struct {
	ns     uint32
	object uint64
	chunk  uint32
	frame  uint32
}

// frameCache keeps decoded frames, least recently used out first. What it holds is never modified.
type frameCache struct {
	mu      sync.Mutex
	most    int
	bytes   int
	entries map[frameKey]*list.Element
	order   list.List // of *frameEntry, most recently used first
}

type frameEntry struct {
	key  frameKey
	data []byte
}

func newFrameCache(most int) *frameCache {
	return &frameCache{most: most, entries: make(map[frameKey]*list.Element)}
}

func (c *frameCache) get(k frameKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*frameEntry).data
}

// put keeps data, which must not be modified afterwards.
func (c *frameCache) put(k frameKey, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(data) > c.most || c.entries[k] != nil {
		return
	}
	c.entries[k] = c.order.PushFront(&frameEntry{k, data})
	c.bytes += len(data)
	for c.bytes > c.most {
		e := c.order.Back()
		old := c.order.Remove(e).(*frameEntry)
		c.bytes -= len(old.data)
		delete(c.entries, old.key)
	}
}
