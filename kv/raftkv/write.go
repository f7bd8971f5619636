package raftkv

import (
	"bytes"
	"maps"
	"runtime/debug"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/gabionfs/gabion/kv"
)

// flushCursor is how far a table has been written into the state file.
type flushCursor struct {
	table  *memtable
	spaces []kv.Keyspace // with keys that are not written
	from   []byte        // the first of them in spaces[0], or nil: all of its keys
	left   int           // number of keys that are not written
}

func newFlushCursor(table *memtable) *flushCursor {
	n := table.len()
	table.mu.RLock()
	defer table.mu.RUnlock()
	return &flushCursor{table: table, spaces: slices.Sorted(maps.Keys(table.spaces)), left: n}
}

func (c *flushCursor) done() bool { return len(c.spaces) == 0 }

// write puts the newest versions of the next keys of the table into the file, as many as change about
// limit bytes of pages, in one transaction. With the last ones goes the state that the table leads to;
// before, the state that the file has is kept, with a note that some keys are ahead of it. old is the
// generation that it changes.
func (b *base) write(old *generation, c *flushCursor, limit int64, st state) (err error) {
	defer guard(b.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := b.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	c.table.mu.RLock()
	defer c.table.mu.RUnlock()
	for rest := limit; rest > 0 && !c.done(); {
		if rest, err = b.writeSpace(tx, old, c, rest); err != nil {
			return err
		}
	}
	if !c.done() {
		now, err := old.state()
		if err != nil {
			return err
		}
		now.mixed = st.applied
		st = now
	}
	if err := putState(tx, st); err != nil {
		return err
	}
	return tx.Commit()
}

// writeSpace writes the next keys of one keyspace. It returns what is left of the limit; 0 when there are
// more keys.
func (b *base) writeSpace(tx *bolt.Tx, old *generation, c *flushCursor, limit int64) (int64, error) {
	ks := c.spaces[0]
	name := bucketName(ks)
	before, exists := old.tree.buckets[string(name)]
	bucket, err := tx.CreateBucketIfNotExists(name)
	if err != nil {
		return 0, err
	}
	var touched []byte // up to this key
	rest, more := limit, false
	visit := func(it item) bool {
		key := bytesOf(it.key)
		if rest <= 0 {
			c.from, more = key, true
			return false
		}
		if len(key) > maxPlain {
			var changed int64
			changed, err = b.putLong(tx, old, ks, key, it.head.sealed)
			rest -= changed
			c.left--
			return err == nil
		}
		if exists && (touched == nil || bytes.Compare(key, touched) > 0) {
			if touched, err = old.tree.touch(before, key); err != nil {
				return false
			}
			rest -= int64(old.tree.size)
		}
		if it.head.sealed == nil {
			err = bucket.Delete(key)
		} else {
			err = bucket.Put(key, it.head.sealed)
		}
		rest -= int64(len(key) + len(it.head.sealed) + elementSize)
		c.left--
		return err == nil
	}
	if t := c.table.spaces[ks]; c.from == nil {
		t.Scan(visit)
	} else {
		t.Ascend(makeItem(c.from, nil), visit)
	}
	if err != nil || more {
		return 0, err
	}
	c.spaces, c.from = c.spaces[1:], nil
	return rest, nil
}
