package fragcache

import "container/list"

// Thresholds of S3-FIFO.
const (
	maxFreq     = 3 // hits that are counted
	promote     = 2 // hits that take an entry from the small queue to the main one
	smallShare  = 10
	ghostAtMost = 1 << 20
)

// ghost remembers keys that had to go, the latest. Not safe for concurrent use.
type ghost[K comparable] struct {
	at    map[K]uint64 // when it was added
	order []K          // oldest first, from head on; those that were taken are still there
	when  []uint64
	head  int
	clock uint64
}

func newGhost[K comparable]() *ghost[K] { return &ghost[K]{at: make(map[K]uint64)} }

// add remembers k, and as many as most in all.
func (g *ghost[K]) add(k K, most int) {
	g.clock++
	g.at[k] = g.clock
	g.order, g.when = append(g.order, k), append(g.when, g.clock)
	for len(g.order)-g.head > min(max(most, 16), ghostAtMost) {
		if old := g.order[g.head]; g.at[old] == g.when[g.head] {
			delete(g.at, old)
		}
		g.head++
	}
	if g.head > 1024 && g.head > len(g.order)/2 {
		n := copy(g.order, g.order[g.head:])
		copy(g.when, g.when[g.head:])
		g.order, g.when, g.head = g.order[:n], g.when[:n], 0
	}
}

// take reports whether k is remembered, and forgets it.
func (g *ghost[K]) take(k K) bool {
	_, ok := g.at[k]
	delete(g.at, k)
	return ok
}

// fifo is a cache of values by S3-FIFO, bounded in the sum of their costs. Not safe for concurrent use.
type fifo[K comparable, V any] struct {
	most    int64
	cost    [2]int64 // of the queues
	queues  [2]list.List
	entries map[K]*list.Element
	ghost   *ghost[K]
	evicted func(V) // what left the cache; nil: nobody cares
	gone    int64   // how many had to go
}

type fifoEntry[K comparable, V any] struct {
	key  K
	v    V
	cost int64
	freq uint8
	in   queue
}

func newFIFO[K comparable, V any](most int64, evicted func(V)) *fifo[K, V] {
	if evicted == nil {
		evicted = func(V) {}
	}
	return &fifo[K, V]{most: most, entries: make(map[K]*list.Element), ghost: newGhost[K](), evicted: evicted}
}

// get returns the value of k and counts that it was wanted.
func (c *fifo[K, V]) get(k K) (v V, ok bool) {
	e := c.entries[k]
	if e == nil {
		return v, false
	}
	x := e.Value.(*fifoEntry[K, V])
	x.freq = min(x.freq+1, maxFreq)
	return x.v, true
}

func (c *fifo[K, V]) has(k K) bool { return c.entries[k] != nil }

// put adds a value. It reports false, and does not keep it, when k is there already or the value is too large.
func (c *fifo[K, V]) put(k K, v V, cost int64) bool {
	if c.entries[k] != nil || cost > c.most/smallShare {
		return false
	}
	for c.cost[small]+c.cost[main]+cost > c.most {
		c.evict()
	}
	q := small
	if c.ghost.take(k) {
		q = main
	}
	c.push(&fifoEntry[K, V]{key: k, v: v, cost: cost, in: q})
	return true
}

func (c *fifo[K, V]) push(x *fifoEntry[K, V]) {
	c.entries[x.key] = c.queues[x.in].PushBack(x)
	c.cost[x.in] += x.cost
}

// pop takes the oldest entry from a queue.
func (c *fifo[K, V]) pop(q queue) *fifoEntry[K, V] {
	e := c.queues[q].Front()
	x := c.queues[q].Remove(e).(*fifoEntry[K, V])
	c.cost[q] -= x.cost
	delete(c.entries, x.key)
	return x
}

// evict brings the cache nearer to having room: it removes an entry, or moves one on.
func (c *fifo[K, V]) evict() {
	if c.queues[main].Len() == 0 || c.cost[small] > c.most/smallShare {
		x := c.pop(small)
		if x.freq >= promote {
			x.in, x.freq = main, 0
			c.push(x)
			return
		}
		c.ghost.add(x.key, c.queues[main].Len())
		c.drop(x)
		return
	}
	x := c.pop(main)
	if x.freq > 0 {
		x.freq--
		c.push(x)
		return
	}
	c.drop(x)
}

func (c *fifo[K, V]) drop(x *fifoEntry[K, V]) {
	c.gone++
	c.evicted(x.v)
}

// remove drops k, if it is there.
func (c *fifo[K, V]) remove(k K) {
	if e := c.entries[k]; e != nil {
		x := e.Value.(*fifoEntry[K, V])
		c.queues[x.in].Remove(e)
		c.cost[x.in] -= x.cost
		delete(c.entries, k)
		c.evicted(x.v)
	}
}
