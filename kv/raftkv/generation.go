package raftkv

import (
	"context"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"

	"github.com/gabionfs/gabion/kv"
)

// generation is one content of the state file. A flush begins the next one. The views of a generation
// keep its pages from being reused.
type generation struct {
	base    *base
	tree    *tree
	pin     *bolt.Tx      // keeps bbolt from reusing the pages
	views   int           // open ones; guarded by Store.mu, like retired
	retired bool          // no more views
	drained chan struct{} // closed by unpin
}

// leave takes a view off. It reports whether the caller must unpin the generation. The caller holds
// Store.mu.
func (g *generation) leave() (last bool) {
	g.views--
	return g.retired && g.views == 0
}

// retire ends the generation, with the same answer as leave.
func (g *generation) retire() (last bool) {
	g.retired = true
	return g.views == 0
}

func (g *generation) unpin() {
	_ = g.pin.Rollback()
	close(g.drained)
}

// get returns the sealed value of a key in a bucket, or nil.
func (g *generation) get(name, key []byte) (sealed []byte, err error) {
	b, ok := g.tree.buckets[string(name)]
	if !ok {
		return nil, nil
	}
	defer guard(g.base.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return g.tree.get(b, key)
}

// state returns the state record.
func (g *generation) state() (st state, err error) {
	b, err := g.get(metaBucket, stateKey)
	if err != nil {
		return st, err
	}
	if st, err = unmarshalState(b); err != nil {
		return st, &kv.CorruptError{What: g.base.path, Err: err}
	}
	if b, err = g.get(metaBucket, voidsKey); err != nil {
		return st, err
	}
	if b != nil {
		if st.voids, err = parseVoids(b); err != nil {
			return st, &kv.CorruptError{What: g.base.path, Err: err}
		}
	}
	if st.voids.since == 0 { // a file of an earlier release, or a new one
		st.voids.since = st.applied + 1
	}
	return st, nil
}

// verify compares every page with its checksum, and every value with its own, whether that was done
// before or not. It returns the number of bytes.
func (g *generation) verify(ctx context.Context) (n int64, err error) {
	defer guard(g.base.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	t := *g.tree
	t.sums = newSums(g.tree.sums.table, g.tree.sums.tx)
	if _, err := t.page(t.meta.free); err != nil {
		return 0, err
	}
	if err := t.openBuckets(); err != nil {
		return 0, err
	}
	for name, b := range t.buckets {
		var m int64
		if name[0] == 'l' {
			m, err = verifyBucket(ctx, &t, name, b, new(longWalker))
		} else {
			m, err = verifyBucket(ctx, &t, name, b, new(walker))
		}
		if n += m; err != nil {
			return n, err
		}
	}
	_, err = g.state()
	return n, err
}

// verifyBucket walks through a bucket and compares every value with its checksum.
func verifyBucket(ctx context.Context, t *tree, name string, b bucket, w interface {
	first(*tree, bucket) error
	valid() bool
	current() (key, sealed []byte)
	move(by int) error
}) (n int64, err error) {
	trimmed := int64(0)
	for err = w.first(t, b); err == nil && w.valid(); err = w.move(+1) {
		key, sealed := w.current()
		n += int64(len(key) + len(sealed))
		if string(metaBucket) != name {
			if _, err := unseal(kv.Keyspace(name[1:]), key, sealed); err != nil {
				return n, t.corrupt("%w", err)
			}
		}
		if err := ctx.Err(); err != nil {
			return n, err
		}
		if n-trimmed > maxMapped/4 {
			if trimmed = n; mappedMemory() > maxMapped {
				giveBack(t.data)
			}
		}
	}
	return n, err
}
