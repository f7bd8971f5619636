package kvsession

import "github.com/gabionfs/gabion/kv"

// page is a stretch of a keyspace as the server has it: every row from low to high.
type page struct {
	ks        kv.Keyspace
	low, high string // included, excluded
	end       bool   // high is the end of the keyspace
	rows      []row  // a value that is nil stands for an absent key
}

// fill adds what the server said. A row that this session has written since is left alone: its newest
// version hides what the server has. sent is the last transaction that may have reached the server: what
// was there before a later one is what the page says. The caller holds mu.
func (t *table) fill(p *page, sent uint64) {
	sp := t.space(p.ks)
	// The ends first: they inherit what was known of the gaps that they split.
	t.mark(sp, p.low)
	if !p.end {
		t.mark(sp, p.high)
	}
	var there []item
	sp.tree.Ascend(makeItem(p.low, nil), func(it item) bool {
		if !p.end && it.key >= p.high {
			return false
		}
		there = append(there, it)
		return true
	})
	rows := p.rows
	for _, it := range there {
		for len(rows) > 0 && rows[0].key < it.key {
			t.read(sp, rows[0])
			rows = rows[1:]
		}
		value := []byte(nil)
		if len(rows) > 0 && rows[0].key == it.key {
			value, rows = rows[0].value, rows[1:]
		}
		t.base(it.node, value, sent)
		it.node.after = true
	}
	for _, r := range rows {
		t.read(sp, r)
	}
}

// mark makes sure that there is a node at key.
func (t *table) mark(sp *space, key string) {
	if at, ok := sp.floor(key); !ok || at.key != key {
		t.place(sp, key, new(node), at.node)
	}
}

// read adds a row of a page that nothing was known of.
func (t *table) read(sp *space, r row) {
	n := &node{after: true}
	n.first.value = r.value
	n.head = &n.first
	n.used.Store(1)
	sp.tree.Set(makeItem(r.key, n))
	t.bytes += n.size(r.key)
}

// base records what the server has for a node, if that tells anything: it is what was there before the
// node's oldest version, unless that version may have reached the server already.
func (t *table) base(n *node, value []byte, sent uint64) {
	link := &n.head
	for v := n.head; v != nil; v = v.prev {
		if v.seq <= sent {
			return // read before, or of no use
		}
		link = &v.prev
	}
	if n.absent {
		return
	}
	if value == nil {
		n.absent = true
		return
	}
	v := &n.first
	if link != &n.head {
		v = new(version)
	}
	v.value = value
	*link = v
	t.bytes += int64(len(value))
}

// settle records the values of single keys, each in the place of one of rows. The caller holds mu.
func (t *table) settle(ks []kv.Keyspace, rows []row, sent uint64) {
	for i, r := range rows {
		if it, ok := t.space(ks[i]).tree.Get(makeItem(r.key, nil)); ok {
			t.base(it.node, r.value, sent)
		}
	}
}

// hand is how far the clock that evicts rows has come.
type hand struct {
	space  int
	key    string
	credit int // steps that it may take
}

// evict forgets rows that nobody used since the clock's hand came by last, until no more than limit
// bytes are held or its credit is used up. Rows that were written after floor stay: the server may not
// have them, or a reader may ask for what was there before. Each new row gives credit, so that the work
// is spread evenly and a table full of rows that must stay is not searched again and again. The caller
// holds mu.
func (t *table) evict(limit int64, floor uint64, added int) {
	const per, least, most = 8, 64, 32 << 10
	h := &t.hand
	h.credit = min(h.credit+per*added, most)
	if t.bytes <= limit || h.credit < least {
		return
	}
	for t.bytes > limit && h.credit > 0 && len(t.order) > 0 {
		h.credit-- // also for an empty keyspace
		if h.space >= len(t.order) {
			h.space = 0
		}
		t.sweep(t.order[h.space], floor)
	}
}

// sweep moves the hand over some nodes of a keyspace.
func (t *table) sweep(sp *space, floor uint64) {
	type victim struct {
		item
		before *node // its predecessor that stays
	}
	var victims []victim
	h := &t.hand
	before := sp.before(h.key, false)
	steps, more := 0, false
	sp.tree.Ascend(makeItem(h.key, nil), func(it item) bool {
		if steps == 128 || steps > h.credit {
			h.key, more = it.key, true
			return false
		}
		steps++
		n := it.node
		t.trim(n, floor)
		switch {
		case n.head != nil && (n.head.seq > floor || n.head.prev != nil):
		case n.used.Load() > 0:
			n.used.Add(^uint32(0))
		default:
			victims = append(victims, victim{it, before})
			return true
		}
		before = n
		return true
	})
	if !more {
		h.space, h.key = h.space+1, ""
	}
	h.credit -= steps
	for _, v := range victims {
		value, known := v.node.at(floor)
		if p := v.before; p != nil {
			// An absent key between two gaps that are known to be empty leaves one such gap.
			p.after = p.after && v.node.after && known && value == nil
		}
		t.bytes -= v.node.size(v.key)
		sp.tree.Delete(v.item)
	}
}
