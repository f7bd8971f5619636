package raftkv

import (
	"bytes"
	"runtime/debug"
	"slices"

	"github.com/gabionfs/gabion/kv"
)

// entry is a key as one layer shows it.
type entry struct {
	key     []byte
	deleted bool
}

// cursor walks the keys of one layer in the direction of a range.
type cursor interface {
	// peek returns the current key; ok is false at the end.
	peek() (e entry, ok bool)
	// value returns the value of the current key.
	value(ks kv.Keyspace) ([]byte, error)
	next()
	// err is why the walk ended early, if it did.
	err() error
}

// Runs begin small, because most ranges are, and grow.
const (
	firstRun = 16
	lastRun  = 512
)

// memCursor walks a memtable in runs of keys that it copies out under the table's lock.
type memCursor struct {
	table   *memtable
	ks      kv.Keyspace
	seq     uint64
	reverse bool
	run     run
	pos     int
	done    bool
}

func newMemCursor(m *memtable, ks kv.Keyspace, seq uint64, r kv.Range) *memCursor {
	c := &memCursor{table: m, ks: ks, seq: seq, reverse: r.Reverse}
	bound := r.From
	if r.Reverse {
		bound = r.To
	}
	size := firstRun
	if r.Limit > 0 {
		size = min(size, r.Limit)
	}
	c.run, c.done = m.scan(make(run, 0, size), ks, seq, bound, bound != nil, false, r.Reverse, size)
	return c
}

func (c *memCursor) peek() (entry, bool) {
	if c.pos == len(c.run) {
		return entry{}, false
	}
	e := &c.run[c.pos]
	return entry{bytesOf(e.key), e.sealed == nil}, true
}

func (c *memCursor) value(kv.Keyspace) ([]byte, error) {
	sealed := c.run[c.pos].sealed
	n := len(sealed) - sealSize
	return sealed[:n:n], nil
}

func (c *memCursor) err() error { return nil }

func (c *memCursor) next() {
	c.pos++
	if c.pos < len(c.run) || c.done {
		return
	}
	last := bytesOf(c.run[c.pos-1].key)
	size := min(4*len(c.run), lastRun)
	c.run, c.done = c.table.scan(slices.Grow(c.run[:0], size), c.ks, c.seq, last, true, true, c.reverse, size)
	c.pos = 0
}

// ownCursor walks a transaction's own writes to one keyspace, sorted.
type ownCursor struct {
	ops []*write
	pos int
}

func newOwnCursor(ops []*write, r kv.Range) *ownCursor {
	lo, hi := 0, len(ops)
	find := func(key []byte) int {
		i, _ := slices.BinarySearchFunc(ops, key, func(w *write, key []byte) int { return bytes.Compare(w.key, key) })
		return i
	}
	if r.From != nil {
		lo = find(r.From)
	}
	if r.To != nil {
		hi = max(lo, find(r.To))
	}
	ops = slices.Clone(ops[lo:hi])
	if r.Reverse {
		slices.Reverse(ops)
	}
	return &ownCursor{ops: ops}
}

func (c *ownCursor) peek() (entry, bool) {
	if c.pos == len(c.ops) {
		return entry{}, false
	}
	w := c.ops[c.pos]
	return entry{w.key, w.deleted}, true
}

func (c *ownCursor) value(kv.Keyspace) ([]byte, error) { return c.ops[c.pos].value, nil }
func (c *ownCursor) next()                             { c.pos++ }
func (c *ownCursor) err() error                        { return nil }

// baseCursor walks a bucket of the state file.
type baseCursor struct {
	view   *view
	walk   walker
	by     int
	broken error
}

// baseCursor returns nil when the state file has nothing in the keyspace.
func (v *view) baseCursor(ks kv.Keyspace, r kv.Range) (c *baseCursor, err error) {
	var name [1 + kv.MaxKeyspace]byte
	t := v.gen.tree
	b, ok := t.buckets[string(appendBucketName(name[:0], ks))]
	if !ok {
		return nil, nil
	}
	defer guard(v.gen.base.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	c = &baseCursor{view: v, by: 1}
	if !r.Reverse {
		return c, c.walk.seek(t, b, r.From)
	}
	c.by = -1
	if r.To == nil {
		return c, c.walk.last(t, b)
	}
	if err := c.walk.seek(t, b, r.To); err != nil {
		return nil, err
	}
	if !c.walk.valid() {
		return c, c.walk.last(t, b)
	}
	return c, c.walk.move(-1)
}

func (c *baseCursor) peek() (e entry, ok bool) {
	if !c.walk.valid() {
		return e, false
	}
	e.key, _ = c.walk.current()
	return e, true
}

func (c *baseCursor) value(ks kv.Keyspace) ([]byte, error) {
	key, sealed := c.walk.current()
	return c.view.verify(ks, key, sealed)
}

func (c *baseCursor) next() {
	defer guard(c.view.gen.base.path, &c.broken)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if err := c.walk.move(c.by); err != nil {
		c.broken = err
	}
}

func (c *baseCursor) err() error { return c.broken }

// inside says whether key has not left the range at the end the walk moves to.
func inside(r *kv.Range, key []byte) bool {
	if r.Reverse {
		return bytes.Compare(key, r.From) >= 0
	}
	return r.To == nil || bytes.Compare(key, r.To) < 0
}
