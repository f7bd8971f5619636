package kvrpc

import (
	"slices"
	"strings"

	"github.com/gabionfs/gabion/kv"
)

// optimisticTxn is a kv.Txn over a remote store: its own writes, over what it reads.
type optimisticTxn struct {
	remote
	writes map[rowKey]write
	size   int
	err    error // the first limit that was exceeded
}

type write struct {
	value   []byte
	deleted bool
}

func (t *optimisticTxn) set(ks kv.Keyspace, key []byte, w write) {
	k := rowKey{ks, string(key)}
	if old, ok := t.writes[k]; ok {
		t.size -= len(key) + len(old.value)
	}
	if t.writes == nil {
		t.writes = map[rowKey]write{}
	}
	t.size += len(key) + len(w.value)
	t.writes[k] = w
}

// Put implements kv.Txn.
func (t *optimisticTxn) Put(ks kv.Keyspace, key, value []byte) {
	if err := kv.CheckPut(ks, key, value); err != nil {
		t.refuse(err)
		return
	}
	t.set(ks, key, write{value: value})
}

// Delete implements kv.Txn.
func (t *optimisticTxn) Delete(ks kv.Keyspace, key []byte) {
	if err := kv.CheckKey(ks, key); err != nil {
		t.refuse(err)
		return
	}
	t.set(ks, key, write{deleted: true})
}

func (t *optimisticTxn) refuse(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Get implements kv.Reader.
func (t *optimisticTxn) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	if w, ok := t.writes[rowKey{ks, string(key)}]; ok {
		if w.deleted {
			return nil, kv.ErrNotFound
		}
		return w.value, nil
	}
	return t.remote.Get(ks, key)
}

// Range implements kv.Reader.
func (t *optimisticTxn) Range(ks kv.Keyspace, r kv.Range, fn func(key, value []byte) bool) error {
	var own []string
	for k := range t.writes {
		if k.ks == ks && within(r, []byte(k.key)) {
			own = append(own, k.key)
		}
	}
	if len(own) == 0 {
		return t.remote.Range(ks, r, fn)
	}
	slices.Sort(own)
	if r.Reverse {
		slices.Reverse(own)
	}
	m := &merge{t: t, ks: ks, own: own, limit: r.Limit, fn: fn}
	r.Limit = 0 // some of what is read is hidden
	if err := t.scan(ks, r, func(e Entry) bool { return m.remote(e, r.Reverse) }); err != nil {
		return err
	}
	for len(m.own) > 0 && m.next() {
	}
	return nil
}

// merge delivers own writes and remote entries in one order.
type merge struct {
	t         *optimisticTxn
	ks        kv.Keyspace
	own       []string
	limit     int
	delivered int
	fn        func(key, value []byte) bool
	stopped   bool
}

// next delivers the next own write.
func (m *merge) next() bool {
	key := m.own[0]
	m.own = m.own[1:]
	w := m.t.writes[rowKey{m.ks, key}]
	return w.deleted || m.deliver([]byte(key), w.value)
}

func (m *merge) deliver(key, value []byte) bool {
	m.delivered++
	if !m.fn(key, value) || m.delivered == m.limit {
		m.stopped, m.own = true, nil
	}
	return !m.stopped
}

func (m *merge) remote(e Entry, reverse bool) bool {
	for len(m.own) > 0 {
		c := strings.Compare(m.own[0], string(e.Key))
		if c == 0 {
			return m.next()
		}
		if (c < 0) == reverse {
			break
		}
		if !m.next() {
			return false
		}
	}
	return m.deliver(e.Key, e.Value)
}

// steps are the transaction's writes.
func (t *optimisticTxn) steps() (steps []kv.Step) {
	for k, w := range t.writes {
		st := kv.Step{Op: kv.OpSet, Keyspace: k.ks, Key: []byte(k.key), Value: w.value}
		if w.deleted {
			st.Op = kv.OpDelete
		}
		steps = append(steps, st)
	}
	return steps
}
