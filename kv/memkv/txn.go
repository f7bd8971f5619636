package memkv

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"strings"

	"github.com/tidwall/btree"

	"github.com/gabionfs/gabion/kv"
)

type entry struct {
	ks    kv.Keyspace
	key   []byte
	value []byte
}

type tree = btree.BTreeG[entry]

func newTree() *tree {
	// No locks: a state is never changed once it is visible, and a Range inside a Range would otherwise
	// wait for itself when a copy is made in between.
	return btree.NewBTreeGOptions(func(a, b entry) bool {
		if c := strings.Compare(string(a.ks), string(b.ks)); c != 0 {
			return c < 0
		}
		return bytes.Compare(a.key, b.key) < 0
	}, btree.Options{NoLocks: true})
}

// reader answers from one state and remembers what it handed out.
type reader struct {
	tree *tree
	lent [][]byte
}

func (r *reader) lend(b []byte) []byte {
	c := append(make([]byte, 0, len(b)), b...)
	r.lent = append(r.lent, c)
	return c
}

// poison overwrites every slice that was handed out, so that one that escaped is noticed.
func (r *reader) poison() {
	for _, b := range r.lent {
		for i := range b {
			b[i] = 0xDB
		}
	}
}

func (r *reader) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	e, ok := r.tree.Get(entry{ks: ks, key: key})
	if !ok {
		return nil, kv.ErrNotFound
	}
	return r.lend(e.value), nil
}

func (r *reader) Range(ks kv.Keyspace, g kv.Range, fn func(key, value []byte) bool) error {
	n := 0
	visit := func(e entry) bool {
		n++
		return fn(r.lend(e.key), r.lend(e.value)) && (g.Limit <= 0 || n < g.Limit)
	}
	if !g.Reverse {
		r.tree.Ascend(entry{ks: ks, key: g.From}, func(e entry) bool {
			return e.ks == ks && (g.To == nil || bytes.Compare(e.key, g.To) < 0) && visit(e)
		})
		return nil
	}
	// Descend begins at the largest entry <= the pivot: the end itself, which is excluded, or, without
	// an end, the smallest entry past this keyspace ("ks\0" is the next name there can be).
	pivot := entry{ks: ks, key: g.To}
	if g.To == nil {
		pivot = entry{ks: ks + "\x00"}
	}
	r.tree.Descend(pivot, func(e entry) bool {
		if e.ks > ks || g.To != nil && bytes.Compare(e.key, g.To) >= 0 {
			return true
		}
		return e.ks == ks && bytes.Compare(e.key, g.From) >= 0 && visit(e)
	})
	return nil
}

// txn evaluates one update on a clone of the state.
type txn struct {
	reader
	err   error // the first limit that was exceeded
	wrote map[[2]string]write
}

// write is one key that the transaction wrote: the caller's slices and what they held at the time.
type write struct {
	entry
	deleted bool
	sum     uint64
}

var seed = maphash.MakeSeed()

func (w write) hash() uint64 {
	return maphash.Bytes(seed, w.key) ^ 3*maphash.Bytes(seed, w.value)
}

// evaluate runs fn over now and returns the state that it leaves.
func evaluate(now *tree, fn func(kv.Txn) error) (*tree, error) {
	t := &txn{reader: reader{tree: now.Copy()}, wrote: map[[2]string]write{}}
	defer t.poison()
	if err := fn(t); err != nil {
		return nil, err
	}
	if t.err != nil {
		return nil, t.err
	}
	size := 0
	for _, w := range t.wrote {
		size += len(w.key) + len(w.value)
		if w.hash() != w.sum {
			panic(fmt.Sprintf("memkv: key %q or its value was modified after it was put", w.key))
		}
	}
	if err := kv.CheckBatch(size); err != nil {
		return nil, err
	}
	return t.tree, nil
}

func (t *txn) write(w write) {
	w.sum = w.hash()
	t.wrote[[2]string{string(w.ks), string(w.key)}] = w
}

func (t *txn) Put(ks kv.Keyspace, key, value []byte) {
	if err := kv.CheckPut(ks, key, value); err != nil {
		t.err = first(t.err, err)
		return
	}
	t.write(write{entry: entry{ks, key, value}})
	t.tree.Set(entry{ks, bytes.Clone(key), bytes.Clone(value)})
}

func (t *txn) Delete(ks kv.Keyspace, key []byte) {
	if err := kv.CheckKey(ks, key); err != nil {
		t.err = first(t.err, err)
		return
	}
	t.write(write{entry: entry{ks: ks, key: key}, deleted: true})
	t.tree.Delete(entry{ks: ks, key: key})
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
