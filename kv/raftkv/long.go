package raftkv

import (
	"bytes"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"

	"github.com/gabionfs/gabion/kv"
)

// bbolt takes keys of up to 32 KiB. A longer key of keyspace ks is kept in the bucket "l" + ks: in the
// bucket therein that has the first maxPlain bytes of the key as its name, under the rest of the key. So
// the order of the keys is that of the walk through both, and shorter keys know nothing of it.

// maxPlain is the longest key that stands in the bucket of its keyspace.
const maxPlain = bolt.MaxKeySize

// longPath is more than the pages on the way to a long key take: each has few of the large names.
const longPath = 2 << 20

func appendLongName(b []byte, ks kv.Keyspace) []byte { return append(append(b, 'l'), ks...) }

// putLong writes a long key, or deletes it when sealed is nil, after it has verified what bbolt is going to
// read. It returns about how many bytes of pages it changes.
func (b *base) putLong(tx *bolt.Tx, old *generation, ks kv.Keyspace, key, sealed []byte) (changed int64, err error) {
	name := appendLongName(nil, ks)
	prefix, rest := key[:maxPlain], key[maxPlain:]
	if before, ok := old.tree.buckets[string(name)]; ok {
		if changed, err = old.tree.touchLong(before, prefix, rest); err != nil {
			return 0, err
		}
	}
	outer, err := tx.CreateBucketIfNotExists(name)
	if err != nil {
		return 0, err
	}
	changed += int64(len(key) + len(sealed))
	if sealed != nil {
		inner, err := outer.CreateBucketIfNotExists(prefix)
		if err != nil {
			return 0, err
		}
		return changed, inner.Put(rest, sealed)
	}
	inner := outer.Bucket(prefix)
	if inner == nil {
		return changed, nil
	}
	if err := inner.Delete(rest); err != nil {
		return 0, err
	}
	if first, _ := inner.Cursor().First(); first == nil {
		return changed, outer.DeleteBucket(prefix)
	}
	return changed, nil
}

// touchLong is touch for a long key. It returns the size of the pages.
func (t *tree) touchLong(b bucket, prefix, rest []byte) (size int64, err error) {
	if _, err := t.touch(b, prefix); err != nil {
		return 0, err
	}
	if size, err = t.pathSize(b, prefix); err != nil {
		return 0, err
	}
	inner, found, err := t.within(b, prefix)
	if err != nil || !found {
		return size, err
	}
	if _, err := t.touch(inner, rest); err != nil {
		return 0, err
	}
	n, err := t.pathSize(inner, rest)
	return size + n, err
}

// pathSize returns the size of the pages from the top of a bucket to where key is, or would be.
func (t *tree) pathSize(b bucket, key []byte) (size int64, err error) {
	p, err := t.top(b)
	for err == nil && p.isBranch() {
		size += int64(len(p))
		p, err = t.page(p.child(p.toward(key)))
	}
	return size + int64(len(p)), err
}

// within returns the bucket of that name in a bucket.
func (t *tree) within(b bucket, name []byte) (inner bucket, found bool, err error) {
	value, err := t.get(b, name)
	if err != nil || value == nil {
		return inner, false, err
	}
	inner, err = t.bucket(name, value)
	return inner, err == nil, err
}

// getLong returns the sealed value of a long key, or nil.
func (g *generation) getLong(ks kv.Keyspace, key []byte) (sealed []byte, err error) {
	var name [1 + kv.MaxKeyspace]byte
	b, ok := g.tree.buckets[string(appendLongName(name[:0], ks))]
	if !ok {
		return nil, nil
	}
	defer guard(g.base.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	inner, found, err := g.tree.within(b, key[:maxPlain])
	if err != nil || !found {
		return nil, err
	}
	return g.tree.get(inner, key[maxPlain:])
}

// longWalker is a position among the long keys of a keyspace.
type longWalker struct {
	outer, inner walker
	key          []byte
}

// seek moves to the first key that is not less than key.
func (w *longWalker) seek(t *tree, b bucket, key []byte) error {
	prefix := key[:min(len(key), maxPlain)]
	if err := w.outer.seek(t, b, prefix); err != nil {
		return err
	}
	if len(key) > maxPlain && w.outer.valid() {
		if name, _ := w.outer.current(); bytes.Equal(name, prefix) {
			return w.enter(+1, func(inner bucket) error { return w.inner.seek(t, inner, key[maxPlain:]) })
		}
	}
	return w.enter(+1, func(inner bucket) error { return w.inner.first(t, inner) })
}

func (w *longWalker) first(t *tree, b bucket) error {
	if err := w.outer.first(t, b); err != nil {
		return err
	}
	return w.enter(+1, func(inner bucket) error { return w.inner.first(t, inner) })
}

func (w *longWalker) last(t *tree, b bucket) error {
	if err := w.outer.last(t, b); err != nil {
		return err
	}
	return w.enter(-1, func(inner bucket) error { return w.inner.last(t, inner) })
}

// enter begins with the bucket that the outer walker is at, at the place that begin chooses, and goes on in
// the direction by until there is a key.
func (w *longWalker) enter(by int, begin func(bucket) error) error {
	for w.outer.valid() {
		name, value := w.outer.current()
		inner, err := w.outer.tree.bucket(name, value)
		if err != nil {
			return err
		}
		if err := begin(inner); err != nil {
			return err
		}
		if w.inner.valid() {
			w.assemble()
			return nil
		}
		if err := w.outer.move(by); err != nil {
			return err
		}
		begin = w.end(by)
	}
	return nil
}

// end returns what moves the inner walker to where a walk in the direction by begins.
func (w *longWalker) end(by int) func(bucket) error {
	if by < 0 {
		return func(inner bucket) error { return w.inner.last(w.outer.tree, inner) }
	}
	return func(inner bucket) error { return w.inner.first(w.outer.tree, inner) }
}

// assemble puts the key together. Whoever has the last one may keep it.
func (w *longWalker) assemble() {
	prefix, _ := w.outer.current()
	rest, _ := w.inner.current()
	w.key = append(append(make([]byte, 0, len(prefix)+len(rest)), prefix...), rest...)
}

func (w *longWalker) valid() bool { return w.outer.valid() && w.inner.valid() }

func (w *longWalker) current() (key, sealed []byte) {
	_, sealed = w.inner.current()
	return w.key, sealed
}

// move goes one key forward or back; past either end the walker is not valid any more.
func (w *longWalker) move(by int) error {
	if err := w.inner.move(by); err != nil {
		return err
	}
	if w.inner.valid() {
		w.assemble()
		return nil
	}
	if err := w.outer.move(by); err != nil {
		return err
	}
	return w.enter(by, w.end(by))
}

// longCursor walks the long keys of a keyspace in the state file. It is baseCursor with another walker and yet a type of its
// own: one type for both, over a type parameter, calls its walker through a dictionary, which made a range over short keys
// 3 to 5 percent slower (BenchmarkRangeBase).
type longCursor struct {
	view   *view
	walk   longWalker
	by     int
	broken error
}

// longCursor returns nil when the state file has no long keys in the keyspace.
func (v *view) longCursor(ks kv.Keyspace, r kv.Range) (c *longCursor, err error) {
	var name [1 + kv.MaxKeyspace]byte
	t := v.gen.tree
	b, ok := t.buckets[string(appendLongName(name[:0], ks))]
	if !ok {
		return nil, nil
	}
	defer guard(v.gen.base.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	c = &longCursor{view: v, by: 1}
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

func (c *longCursor) peek() (e entry, ok bool) {
	if !c.walk.valid() {
		return e, false
	}
	e.key, _ = c.walk.current()
	return e, true
}

func (c *longCursor) value(ks kv.Keyspace) ([]byte, error) {
	key, sealed := c.walk.current()
	return c.view.verify(ks, key, sealed)
}

func (c *longCursor) next() {
	defer guard(c.view.gen.base.path, &c.broken)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if err := c.walk.move(c.by); err != nil {
		c.broken = err
	}
}

func (c *longCursor) err() error { return c.broken }
