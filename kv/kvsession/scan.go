package kvsession

import (
	"github.com/tidwall/btree"

	"github.com/gabionfs/gabion/kv"
)

// row is a key that a scan found, with its value.
type row struct {
	key   string
	value []byte
}

// walk is a range that is being read. Its bounds move as rows are delivered.
type walk struct {
	ks      kv.Keyspace
	from    string // included
	to      string // excluded, unless end
	end     bool   // to is the end of the keyspace
	reverse bool
}

func newWalk(ks kv.Keyspace, r kv.Range) walk {
	return walk{ks: ks, from: string(r.From), to: string(r.To), end: r.To == nil, reverse: r.Reverse}
}

func (w *walk) empty() bool { return !w.end && w.from >= w.to }

// past moves the bounds behind a key that was delivered.
func (w *walk) past(key string) {
	if w.reverse {
		w.to, w.end = key, false
	} else {
		w.from = key + "\x00"
	}
}

// probe says where knowledge ended: rows are wanted from key on or, below, before it.
type probe struct {
	ks    kv.Keyspace
	key   string
	below bool
	end   bool // below: key is the end of the keyspace
	point bool // only key itself is wanted, but its neighbours will do no harm
}

// scan appends to out what a reader at seq sees of the walk, at most max rows. When it ends for want of
// knowledge, miss says where. done says that there is no more.
func (t *table) scan(out []row, w walk, seq uint64, max int) (_ []row, done bool, miss *probe) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	sp := t.spaces[w.ks]
	if sp == nil {
		sp = &space{tree: btree.NewBTreeGOptions(itemLess, btree.Options{NoLocks: true})}
	}
	if w.reverse {
		return sp.down(out, w, seq, max)
	}
	return sp.up(out, w, seq, max)
}

func (sp *space) up(out []row, w walk, seq uint64, max int) (_ []row, done bool, miss *probe) {
	// open is where the stretch that nothing is known of would begin, if covered is false.
	open, covered := w.from, false
	if p := sp.before(w.from, false); p != nil {
		covered = p.after
	}
	stopped := false
	sp.tree.Ascend(makeItem(w.from, nil), func(it item) bool {
		stopped = true
		if it.key != open && !covered {
			miss = &probe{ks: w.ks, key: open}
			return false
		}
		if !w.end && it.key >= w.to {
			done = true
			return false
		}
		if len(out) == max {
			return false
		}
		value, known := it.node.at(seq)
		if !known {
			miss = &probe{ks: w.ks, key: it.key}
			return false
		}
		it.node.touch()
		if value != nil {
			out = append(out, row{it.key, value})
		}
		open, covered, stopped = it.key+"\x00", it.node.after, false
		return true
	})
	switch {
	case stopped:
	case !w.end && open >= w.to:
		done = true
	case covered:
		done = true
	default:
		miss = &probe{ks: w.ks, key: open}
	}
	return out, done, miss
}

func (sp *space) down(out []row, w walk, seq uint64, max int) (_ []row, done bool, miss *probe) {
	bound, end, stopped := w.to, w.end, false
	visit := func(it item) bool {
		if !end && it.key == bound {
			return true
		}
		stopped = true
		if !it.node.after {
			miss = &probe{ks: w.ks, key: bound, below: true, end: end}
			return false
		}
		if it.key < w.from {
			done = true
			return false
		}
		if len(out) == max {
			return false
		}
		value, known := it.node.at(seq)
		if !known {
			miss = &probe{ks: w.ks, key: it.key, point: true}
			return false
		}
		it.node.touch()
		if value != nil {
			out = append(out, row{it.key, value})
		}
		bound, end, stopped = it.key, false, false
		if it.key == w.from {
			done, stopped = true, true
		}
		return !stopped
	}
	if w.end {
		sp.tree.Reverse(visit)
	} else {
		sp.tree.Descend(makeItem(w.to, nil), visit)
	}
	if !stopped { // the first key of the tree is inside the range
		miss = &probe{ks: w.ks, key: bound, below: true, end: end}
	}
	return out, done, miss
}
