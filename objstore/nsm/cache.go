package nsm

import (
	"container/list"
	"hash/maphash"
	"sync"

	"github.com/gabionfs/gabion/objstore/manifest"
)

// shards of the cache: few, so that the manifest of a large object, a thousand chunks, fits in one.
const shards = 16

// cache keeps decoded manifests, least recently used out first, bounded in bytes.
type cache struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu      sync.Mutex
	entries map[string]*list.Element
	order   list.List // of *entry, most recently used first
	bytes   int
	most    int
	// changes counts what was set or dropped. Readers and writers note it before they go to the store, and
	// keep what they found or wrote only if it is the same: otherwise it may be older than another write.
	changes uint64
}

type entry struct {
	name string
	m    *manifest.Manifest
	size int
}

func newCache(bytes int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].entries = make(map[string]*list.Element)
		c.shards[i].most = bytes / shards
	}
	return c
}

func (c *cache) shard(name string) *shard {
	return &c.shards[maphash.String(c.seed, name)%shards]
}

func (c *cache) get(name string) *manifest.Manifest {
	s := c.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[name]
	if e == nil {
		return nil
	}
	s.order.MoveToFront(e)
	return e.Value.(*entry).m
}

func (c *cache) stamp(name string) uint64 {
	s := c.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// put adds what was read from the store since stamp was taken.
func (c *cache) put(name string, m *manifest.Manifest, stamp uint64) {
	s := c.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes == stamp {
		s.add(name, m)
	}
}

// absent is put for a name that has no object: one that another process has deleted, if the cache has it.
func (c *cache) absent(name string, stamp uint64) {
	s := c.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes == stamp {
		s.remove(name)
	}
}

// set is for what was written to the store since stamp was taken: it tells readers that are under way,
// and adds m unless another write may have come after this one.
func (c *cache) set(name string, m *manifest.Manifest, stamp uint64) {
	s := c.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	alone := s.changes == stamp
	s.changes++
	if alone {
		s.add(name, m)
	} else {
		s.remove(name)
	}
}

func (c *cache) drop(name string) {
	s := c.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	s.remove(name)
}

func (s *shard) add(name string, m *manifest.Manifest) {
	s.remove(name)
	e := &entry{name, m, m.Memory() + 2*len(name) + 160}
	if e.size > s.most {
		return
	}
	s.entries[name] = s.order.PushFront(e)
	s.bytes += e.size
	for s.bytes > s.most {
		s.remove(s.order.Back().Value.(*entry).name)
	}
}

func (s *shard) remove(name string) {
	if e := s.entries[name]; e != nil {
		s.bytes -= e.Value.(*entry).size
		s.order.Remove(e)
		delete(s.entries, name)
	}
}
