package kvsession

import (
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tidwall/btree"

	"github.com/gabionfs/gabion/kv"
)

// table is what the session knows of the store: rows that it read, rows that it wrote, and where there
// are none. Each keyspace is a tree of nodes in key order. A node's flag says whether there may be
// unknown rows between it and its successor, so absent keys and whole ranges are answered from here too.
//
// The rows that it wrote have versions, numbered by transaction: a view sees of each key the newest
// version that is not newer than the view. A row that was read has the version 0.
type table struct {
	mu     sync.RWMutex // readers hold it for one lookup or one run of keys
	spaces map[kv.Keyspace]*space
	order  []*space // for the hand of the clock, see evict.go
	bytes  int64    // held, about
	hand   hand
}

type space struct {
	name kv.Keyspace
	tree *btree.BTreeG[item]
}

// item is a key in a tree. order is the beginning of the key as a number: most comparisons end there and
// spare a memory access.
type item struct {
	order uint64
	key   string
	node  *node
}

// node is what is known of one key, and of the gap behind it. Guarded by table.mu, but for used.
type node struct {
	head  *version // newest first; nil when nothing is known, or that the key was never there
	first version  // where the oldest version was put when the node was made; spares an allocation
	// absent: before the oldest version there was no such key.
	absent bool
	// after: between this key and the next one in the tree the server has nothing.
	after bool
	used  atomic.Uint32 // by a reader since the clock's hand came by
}

// version is one value of a key. Only prev changes after it is published, under the table's lock.
type version struct {
	seq   uint64 // of the transaction that wrote it; 0: read from the server
	value []byte // nil: deleted
	prev  *version
}

// nodeOverhead is what a node costs in memory beside its key and value, about.
const nodeOverhead = 160

func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

func makeItem(key string, n *node) item {
	var order uint64
	if len(key) >= 8 {
		order = binary.BigEndian.Uint64(bytesOf(key))
	} else {
		for i := range len(key) {
			order |= uint64(key[i]) << (56 - 8*i)
		}
	}
	return item{order, key, n}
}

func itemLess(a, b item) bool {
	if a.order != b.order {
		return a.order < b.order
	}
	return strings.Compare(a.key, b.key) < 0
}

func newTable() table { return table{spaces: map[kv.Keyspace]*space{}} }

// space returns the tree of a keyspace, making it. The caller holds mu for writing.
func (t *table) space(ks kv.Keyspace) *space {
	sp := t.spaces[ks]
	if sp == nil {
		sp = &space{name: ks, tree: btree.NewBTreeGOptions(itemLess, btree.Options{NoLocks: true})}
		t.spaces[ks] = sp
		t.order = append(t.order, sp)
	}
	return sp
}

// before returns the node of the greatest key below key, or nil. With end it is the last of all.
func (sp *space) before(key string, end bool) (n *node) {
	visit := func(it item) bool {
		if !end && it.key == key {
			return true
		}
		n = it.node
		return false
	}
	if end {
		sp.tree.Reverse(visit)
	} else {
		sp.tree.Descend(makeItem(key, nil), visit)
	}
	return n
}

// at returns what a reader at seq sees: a value, or nil for an absent key. known is false when only the
// server can tell.
func (n *node) at(seq uint64) (value []byte, known bool) {
	for v := n.head; v != nil; v = v.prev {
		if v.seq <= seq {
			return v.value, true
		}
	}
	return nil, n.absent
}

func (n *node) touch() {
	if n.used.Load() == 0 {
		n.used.Store(1)
	}
}

// get looks a key up for a reader at seq.
func (t *table) get(ks kv.Keyspace, key []byte, seq uint64) (value []byte, known bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	sp := t.spaces[ks]
	if sp == nil {
		return nil, false
	}
	if it, ok := sp.tree.Get(makeItem(str(key), nil)); ok {
		it.node.touch()
		return it.node.at(seq)
	}
	if n := sp.before(str(key), false); n != nil && n.after {
		n.touch()
		return nil, true
	}
	return nil, false
}

// write is one operation of a transaction; value is nil for a delete.
type write struct {
	ks         kv.Keyspace
	key, value []byte
}

// insert adds what the transaction seq wrote. Versions that no reader can ask for any more are dropped:
// those behind the newest one that is not newer than oldest. It reports the key when what it was before
// is not known, see Session.settleBlind. The key and the value are copied. The caller holds mu.
func (t *table) insert(w *write, seq, oldest uint64) (key string, blind bool) {
	sp := t.space(w.ks)
	at, ok := sp.floor(str(w.key))
	if ok && at.key == str(w.key) {
		n := at.node
		_, value := t.own(nil, w.value)
		v := &version{seq: seq, value: value, prev: n.head}
		blind = n.head == nil && !n.absent
		t.bytes += int64(len(value))
		n.head = v
		t.trim(n, oldest)
		return at.key, blind
	}
	n := new(node)
	key, n.first.value = t.own(w.key, w.value)
	n.first.seq = seq
	n.head = &n.first
	t.place(sp, key, n, at.node)
	return key, !n.absent
}

// floor returns the greatest key that is not above key, if there is one.
func (sp *space) floor(key string) (at item, ok bool) {
	sp.tree.Descend(makeItem(key, nil), func(it item) bool {
		at, ok = it, true
		return false
	})
	return at, ok
}

// own copies a key and a value into one piece of memory. A value that is not nil stays so.
func (t *table) own(key, value []byte) (string, []byte) {
	b := make([]byte, len(key)+len(value))
	copy(b, key)
	k := str(b[:len(key)])
	if value == nil {
		return k, nil
	}
	copy(b[len(key):], value)
	return k, b[len(key):]
}

// place puts a new node into the tree, behind before, if there is such a node. In a gap that is known to
// be empty its key was absent. The caller holds mu.
func (t *table) place(sp *space, key string, n, before *node) {
	if before != nil && before.after {
		n.after, n.absent = true, true
	}
	n.used.Store(1)
	sp.tree.Set(makeItem(key, n))
	t.bytes += n.size(key)
}

func (n *node) size(key string) int64 {
	size := int64(len(key)) + nodeOverhead
	for v := n.head; v != nil; v = v.prev {
		size += int64(len(v.value))
	}
	return size
}

// trim drops the versions of n that no reader at oldest or later sees. The caller holds mu.
func (t *table) trim(n *node, oldest uint64) {
	v := n.head
	for v != nil && v.seq > oldest {
		v = v.prev
	}
	if v == nil {
		return
	}
	for old := v.prev; old != nil; old = old.prev {
		t.bytes -= int64(len(old.value))
	}
	v.prev = nil
}
