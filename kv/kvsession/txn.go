package kvsession

import (
	"bytes"
	"slices"

	"github.com/gabionfs/gabion/kv"
)

// writes is what a transaction has written: one write per key, in the order of the first.
type writes struct {
	list   []write
	index  map[writeKey]int         // when there are many
	sorted map[kv.Keyspace][]*write // built by the first Range over a keyspace, dropped by a write
	size   int                      // bytes of keys and values
	err    error                    // the first limit that was exceeded
	few    [fewWrites]write         // where list begins
}

type writeKey struct {
	ks  kv.Keyspace
	key string
}

// fewWrites is how many writes are searched one by one before an index is made.
const fewWrites = 8

func (t *writes) find(ks kv.Keyspace, key []byte) *write {
	if t.index != nil {
		if i, ok := t.index[writeKey{ks, str(key)}]; ok {
			return &t.list[i]
		}
		return nil
	}
	for i := range t.list {
		if w := &t.list[i]; w.ks == ks && bytes.Equal(w.key, key) {
			return w
		}
	}
	return nil
}

func (t *writes) set(ks kv.Keyspace, key, value []byte) {
	t.sorted = nil // it points into list
	if w := t.find(ks, key); w != nil {
		t.size += len(value) - len(w.value)
		w.value = value
		return
	}
	t.size += len(key) + len(value)
	if t.list == nil {
		t.list = t.few[:0]
	}
	t.list = append(t.list, write{ks, key, value})
	if n := len(t.list); t.index != nil {
		t.index[writeKey{ks, str(key)}] = n - 1
	} else if n > fewWrites {
		t.index = make(map[writeKey]int, 4*fewWrites)
		for i := range t.list {
			t.index[writeKey{t.list[i].ks, str(t.list[i].key)}] = i
		}
	}
}

// Put implements kv.Txn.
func (t *writes) Put(ks kv.Keyspace, key, value []byte) {
	if err := kv.CheckPut(ks, key, value); err != nil {
		t.refuse(err)
		return
	}
	if value == nil {
		value = []byte{}
	}
	t.set(ks, key, value)
}

// Delete implements kv.Txn.
func (t *writes) Delete(ks kv.Keyspace, key []byte) {
	if err := kv.CheckKey(ks, key); err != nil {
		t.refuse(err)
		return
	}
	t.set(ks, key, nil)
}

func (t *writes) refuse(err error) {
	if t.err == nil {
		t.err = err
	}
}

// check returns why the transaction must not be committed, or nil.
func (t *writes) check() error {
	if t.err != nil {
		return t.err
	}
	for i := range t.list {
		if ks := t.list[i].ks; ks.Reserved() {
			return &ReservedError{ks}
		}
	}
	return kv.CheckBatch(t.size)
}

// inside returns the writes to a keyspace that a walk covers, in its order.
func (t *writes) inside(w walk) []*write {
	if len(t.list) == 0 {
		return nil
	}
	own, ok := t.sorted[w.ks]
	if !ok {
		for i := range t.list {
			if t.list[i].ks == w.ks {
				own = append(own, &t.list[i])
			}
		}
		slices.SortFunc(own, func(a, b *write) int { return bytes.Compare(a.key, b.key) })
		if t.sorted == nil {
			t.sorted = map[kv.Keyspace][]*write{}
		}
		t.sorted[w.ks] = own
	}
	find := func(key string) int {
		i, _ := slices.BinarySearchFunc(own, bytesOf(key), func(w *write, key []byte) int { return bytes.Compare(w.key, key) })
		return i
	}
	lo, hi := find(w.from), len(own)
	if !w.end {
		hi = max(lo, find(w.to))
	}
	own = slices.Clone(own[lo:hi])
	if w.reverse {
		slices.Reverse(own)
	}
	return own
}

// txn is a transaction under evaluation: a view of everything sequenced before it, and its own writes.
type txn struct {
	view
	writes
}

// Get implements kv.Reader.
func (t *txn) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	if len(t.list) > 0 {
		if w := t.find(ks, key); w != nil {
			if w.value == nil {
				return nil, kv.ErrNotFound
			}
			return w.value, nil
		}
	}
	return t.view.Get(ks, key)
}

// Range implements kv.Reader.
func (t *txn) Range(ks kv.Keyspace, r kv.Range, fn func(key, value []byte) bool) error {
	w := newWalk(ks, r)
	return t.view.merge(w, r.Limit, t.inside(w), fn)
}
