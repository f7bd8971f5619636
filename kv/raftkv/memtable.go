package raftkv

import (
	"encoding/binary"
	"sync"
	"unsafe"

	"github.com/tidwall/btree"

	"github.com/gabionfs/gabion/kv"
)

// memtable holds the versions of keys that are not in the state file yet: of the pending batches and of
// the recent ones. Each version carries the sequence number of its transaction; a reader at sequence s
// sees of each key the newest version that is not newer than s, so readers need neither hold a lock for
// the length of a view nor a copy of the tree.
type memtable struct {
	mu     sync.RWMutex // readers hold it for one lookup or one run of keys
	spaces map[kv.Keyspace]*btree.BTreeG[item]
	bytes  int64 // written since the table was made; overwritten values count, they pin their chunk
	// largest key with its value that was ever in it, in bytes.
	largest int
}

// item is a key with its versions, newest first. order is the beginning of the key as a number: most
// comparisons end there and spare a memory access.
type item struct {
	order uint64
	key   string
	head  *version
}

func makeItem(key []byte, head *version) item {
	var order uint64
	if len(key) >= 8 {
		order = binary.BigEndian.Uint64(key)
	} else {
		for i, b := range key {
			order |= uint64(b) << (56 - 8*i)
		}
	}
	return item{order, str(key), head}
}

// version is one value of a key. Only prev changes after it is published, under the table's lock.
type version struct {
	seq    uint64
	sealed []byte // nil: deleted
	prev   *version
}

// itemOverhead is what an entry costs in memory beside its key and value, about.
const itemOverhead = 130

func newMemtable() *memtable {
	return &memtable{spaces: map[kv.Keyspace]*btree.BTreeG[item]{}}
}

func itemLess(a, b item) bool {
	if a.order != b.order {
		return a.order < b.order
	}
	return a.key < b.key
}

// view as a string without a copy; the bytes never change.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// at returns the newest version that is not newer than seq, or nil.
func (v *version) at(seq uint64) *version {
	for v != nil && v.seq > seq {
		v = v.prev
	}
	return v
}

// get returns the version of a key that a reader at seq sees, or nil when this table has none.
func (m *memtable) get(ks kv.Keyspace, key []byte, seq uint64) *version {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t := m.spaces[ks]
	if t == nil {
		return nil
	}
	it, _ := t.Get(makeItem(key, nil))
	return it.head.at(seq)
}

// horizon tells insert which older versions someone may still need.
type horizon struct {
	batch     uint64 // first sequence number of the batch that is being filled
	newest    uint64 // the highest sequence number that an open view reads at
	oldest    uint64 // the lowest, or the last committed one when that is lower
	anyReader bool
}

// insert adds a version. The caller holds m.mu. Versions that nobody can ask for any more are dropped:
// one that the same batch overwrites while no view is open at or after it (a batch commits as a whole),
// and those behind the newest version that is old enough for everyone.
func (m *memtable) insert(ks kv.Keyspace, key []byte, v *version, h horizon) {
	t := m.spaces[ks]
	if t == nil {
		t = btree.NewBTreeGOptions(itemLess, btree.Options{NoLocks: true})
		m.spaces[ks] = t
	}
	m.bytes += int64(len(key)+len(v.sealed)) + itemOverhead
	if m.largest = max(m.largest, len(key)+len(v.sealed)); len(key) > maxPlain {
		m.largest = max(m.largest, len(v.sealed)+longPath)
	}
	old, replaced := t.Set(makeItem(key, v))
	if !replaced {
		return
	}
	v.prev = old.head
	if old.head.seq >= h.batch && (!h.anyReader || h.newest < old.head.seq) {
		v.prev = old.head.prev
	}
	if keep := v.at(h.oldest); keep != nil {
		keep.prev = nil
	}
}

// len returns the number of keys, deleted ones included.
func (m *memtable) len() (n int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, t := range m.spaces {
		n += t.Len()
	}
	return n
}

// rollback removes every version newer than seq.
func (m *memtable) rollback(seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.spaces {
		var changed []item
		t.Scan(func(it item) bool {
			if it.head.seq > seq {
				changed = append(changed, it)
			}
			return true
		})
		for _, it := range changed {
			if it.head = it.head.at(seq); it.head == nil {
				t.Delete(it)
			} else {
				t.Set(it)
			}
		}
	}
}

// run is a stretch of consecutive keys, as a scan delivers them.
type run []struct {
	key    string
	sealed []byte
}

// scan appends up to max keys that a reader at seq sees to out: from the key from on upwards, or, in
// reverse, from the key before to downwards. bounded says whether from or to is a bound at all, after
// whether the bound itself is excluded when going up. done says that the table has no more.
func (m *memtable) scan(out run, ks kv.Keyspace, seq uint64, bound []byte, bounded, after, reverse bool, max int) (_ run, done bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t := m.spaces[ks]
	if t == nil {
		return out, true
	}
	done = true
	visit := func(it item) bool {
		if bounded && (reverse && it.key >= str(bound) || after && it.key == str(bound)) {
			return true
		}
		v := it.head.at(seq)
		if v == nil {
			return true
		}
		if len(out) == max {
			done = false
			return false
		}
		out = append(out, struct {
			key    string
			sealed []byte
		}{it.key, v.sealed})
		return true
	}
	switch pivot := makeItem(bound, nil); {
	case !bounded && reverse:
		t.Reverse(visit)
	case !bounded:
		t.Scan(visit)
	case reverse:
		t.Descend(pivot, visit)
	default:
		t.Ascend(pivot, visit)
	}
	return out, done
}

// names adds the keyspaces of the table to a set.
func (m *memtable) names(set map[kv.Keyspace]bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for ks := range m.spaces {
		set[ks] = true
	}
}

// empty says whether the table has any key in ks. A later insert is invisible to a reader whose
// sequence number was taken before.
func (m *memtable) empty(ks kv.Keyspace) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.spaces[ks] == nil
}
