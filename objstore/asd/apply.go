package asd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxGroup is how much the leader gathers into one frame: enough to amortise a sync, little enough
	// that the first of the group does not wait long.
	maxGroup = 8 << 20
	// Written batches wait for a sync until there are this many bytes or records of them.
	maxPendingBytes = 64 << 20
	maxPendingOps   = 8192
)

// queue is where batches wait to be written. Who finds no leader becomes it and writes its own batch; what has gathered
// meanwhile is written by a goroutine of its own, frame after frame, until nothing waits: nobody has to be woken
// between two frames.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	leading bool
	closed  bool
	idle    chan struct{} // closed when closed and nobody leads
}

type request struct {
	ops     []op
	asserts []assert
	class   class
	durable bool // not over before it is durable
	seal    bool // nothing but the end of the active segment
	trim    bool // nothing but giving back what the active segment has allocated ahead

	wake    chan struct{} // nil for who leads
	err     error
	version uint64
	lsn     uint64
}

// class says how far into the reserve a request may go.
type class uint8

const (
	classPut class = iota
	classDelete
	classMove
	classRestore
)

// writer is the state of the leader.
type writer struct {
	seq     uint64 // last version given out
	lsn     uint64 // of the last frame
	nextID  uint64 // of a segment
	prevID  uint64 // of the last segment that was sealed
	prevEnd int64
	clean   bool // the index has the mark of a clean close
}

// pendingOp is an op that is written but not in the index yet.
type pendingOp struct {
	key  string
	cur  *entry // nil: deleted
	old  *entry // what it replaces, for the accounts
	cost int64
	keep bool // a delete that compaction carries along: it changes nothing
}

type pendingFrame struct {
	lsn     uint64
	seq     uint64
	segment uint64
	end     int64
	size    int64
	ops     []*pendingOp
}

// Apply carries out a batch: all of it, or nothing. It returns the version that the batch's records
// have. Errors: *AssertError, ErrFull, ErrTooLarge, ErrInvalid, ErrFailed, ErrClosed. A batch that fails
// with ErrFailed may or may not be there after the next Open.
func (a *ASD) Apply(ctx context.Context, b *Batch, d Durability) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := b.prepare(a.MaxBatchBytes()); err != nil {
		return 0, fmt.Errorf("asd %s: apply: %w", a.dir, err)
	}
	r := &request{ops: b.ops, asserts: b.asserts, class: classDelete, durable: d == Durable}
	hist := &a.counters.remove
	for i := range b.ops {
		if b.ops[i].kind == opPut {
			r.class, hist = classPut, &a.counters.apply
		}
	}
	s, err := a.enter(ctx, hist)
	if err != nil {
		return 0, err
	}
	defer s.end()
	err = a.submit(r)
	for tries := 0; errors.Is(err, ErrFull) && tries < 8 && a.makeRoom(ctx); tries++ {
		*r = request{ops: r.ops, asserts: r.asserts, class: r.class, durable: r.durable}
		err = a.submit(r)
	}
	if err != nil {
		return 0, err
	}
	a.counters.applied(r)
	if d != Durable && a.tooMuchPending() {
		if err := a.syncUntil(r.lsn); err != nil {
			return 0, err
		}
	}
	return r.version, nil
}

// submit queues the request and returns once it is written, or refused; or durable, when it is to be.
func (a *ASD) submit(r *request) error {
	q := &a.queue
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return fmt.Errorf("asd %s: %w", a.dir, ErrClosed)
	}
	q.waiting = append(q.waiting, r)
	if q.leading {
		r.wake = make(chan struct{}, 1)
		q.mu.Unlock()
		<-r.wake
		return r.err
	}
	q.leading = true
	q.mu.Unlock()
	if a.writeWaiting() {
		go a.lead()
	}
	if r.err == nil && r.durable {
		return a.syncUntil(r.lsn)
	}
	return r.err
}

// lead writes what waits until nothing does.
func (a *ASD) lead() {
	for a.writeWaiting() {
	}
}

// writeWaiting writes one frame of what waits, and reports whether more does: if not, nobody leads any longer.
func (a *ASD) writeWaiting() (more bool) {
	q := &a.queue
	q.mu.Lock()
	group := q.waiting
	q.waiting = nil
	q.mu.Unlock()

	taken := a.writeGroup(group)

	// Who waits to be durable is woken when that is so.
	var wait []*request
	for _, r := range group[:taken] {
		switch {
		case r.wake == nil:
		case r.err == nil && r.durable:
			wait = append(wait, r)
		default:
			r.wake <- struct{}{}
		}
	}
	a.syncFor(wait)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(group[taken:len(group):len(group)], q.waiting...)
	if more = len(q.waiting) > 0; !more {
		q.leading = false
		if q.closed {
			close(q.idle)
		}
	}
	return more
}

// close refuses new requests and waits for those that are queued.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.idle = make(chan struct{})
	if !q.leading {
		close(q.idle)
	}
	q.mu.Unlock()
	<-q.idle
}

// group is a frame in the making.
type group struct {
	frame frame
	ops   []*pendingOp
	local map[string]*pendingOp
}

// writeGroup writes as many of the requests as go into one frame, at least the first, and returns how many that
// were. Each of them has its result.
func (a *ASD) writeGroup(rs []*request) int {
	g := &group{local: make(map[string]*pendingOp)}
	lsn := a.writer.lsn + 1
	var taken []*request
	n := 0
	for ; n < len(rs); n++ {
		r := rs[n]
		if r.err = a.Err(); r.err != nil {
			continue
		}
		if r.seal || r.trim {
			if len(g.frame.ops) > 0 {
				break
			}
			if r.seal {
				r.err = a.seal()
			} else {
				r.err = a.trimActive()
			}
			continue
		}
		size := g.frame.sizeWith(r.ops)
		begun := len(g.frame.ops) > 0
		if begun && size > maxGroup {
			break
		}
		var ok bool
		if ok, r.err = a.reserve(size, r.class, begun); r.err != nil {
			continue
		} else if !ok {
			break // the next frame has the next segment
		}
		r.lsn = lsn
		if r.err = a.stage(g, r); r.err == nil {
			taken = append(taken, r)
		}
	}
	if len(g.frame.ops) == 0 {
		for _, r := range taken {
			r.lsn = lsn - 1
		}
		return n
	}
	if err := a.writeFrame(g); err != nil {
		for _, r := range taken {
			r.err = err
		}
	}
	return n
}

// stage checks the asserts of a request against everything before it and adds its ops to the group.
func (a *ASD) stage(g *group, r *request) error {
	switch r.class {
	case classMove:
		return a.stageMoves(g, r)
	case classRestore:
		return a.stageRestored(g, r)
	}
	for i := range r.asserts {
		as := &r.asserts[i]
		e, err := a.current(g, as.key)
		if err != nil {
			return err
		}
		var have uint64
		if e != nil {
			have = e.seq
		}
		ok := have != 0
		switch as.kind {
		case assertAbsent:
			ok = !ok
		case assertVersion:
			ok = have == as.version && ok
		}
		if !ok {
			return &AssertError{Key: append([]byte(nil), as.key...), Want: as.want(), Have: have}
		}
	}
	ops := lastOps(r.ops)
	olds := make([]*entry, len(ops)) // every lookup that can fail comes before the first change
	for i, o := range ops {
		e, err := a.current(g, o.key)
		if err != nil {
			return err
		}
		olds[i] = e
	}
	a.writer.seq++
	r.version = a.writer.seq
	for i, o := range ops {
		a.stageOp(g, o, r.version, olds[i])
	}
	return nil
}

// lastOps leaves one op per key, the last, so that no two incarnations of a key have the same version.
func lastOps(ops []op) []*op {
	out := make([]*op, 0, len(ops))
	if len(ops) == 1 {
		return append(out, &ops[0])
	}
	at := make(map[string]int, len(ops))
	for i := range ops {
		if j, ok := at[string(ops[i].key)]; ok {
			out[j] = &ops[i]
			continue
		}
		at[string(ops[i].key)] = len(out)
		out = append(out, &ops[i])
	}
	return out
}

func (a *ASD) stageOp(g *group, o *op, version uint64, old *entry) {
	if o.kind == opDelete && old == nil {
		return
	}
	o.seq, o.prevLo, o.prevHi = version, 0, 0
	if old != nil {
		o.prevLo, o.prevHi = a.killRange(old)
	}
	p := &pendingOp{key: string(o.key), old: old}
	if o.kind == opPut {
		p.cur = o.entry(a.table.active.seg.id)
		p.cost = p.cur.cost(len(o.key))
	} else {
		p.cost = deleteCost(len(o.key))
	}
	g.add(o, p)
}

// killRange is where older incarnations of a record that is being replaced may lie.
func (a *ASD) killRange(old *entry) (lo, hi uint64) {
	lo, hi = a.aliveRange(old.prevLo, old.prevHi)
	if hi == 0 {
		return old.segment, old.segment
	}
	return min(lo, old.segment), max(hi, old.segment)
}

// aliveRange narrows lo..hi to the segments that still exist; 0, 0 when there is none.
func (a *ASD) aliveRange(lo, hi uint64) (uint64, uint64) {
	if hi == 0 {
		return 0, 0
	}
	a.table.RLock()
	defer a.table.RUnlock()
	if lo == hi {
		if a.table.segments[lo] != nil {
			return lo, hi
		}
		return 0, 0
	}
	var nlo, nhi uint64
	for id := range a.table.segments {
		if id < lo || id > hi {
			continue
		}
		if nhi == 0 || id < nlo {
			nlo = id
		}
		nhi = max(nhi, id)
	}
	return nlo, nhi
}

func (g *group) add(o *op, p *pendingOp) {
	g.frame.add(o)
	g.ops = append(g.ops, p)
	g.local[p.key] = p
}

func (o *op) entry(segment uint64) *entry {
	return &entry{location: location{segment: segment}, damaged: o.damaged, size: o.size, infoLen: len(o.info),
		seq: o.seq, prevLo: o.prevLo, prevHi: o.prevHi, crcs: o.crcs}
}

// current is the entry of a key as the next op of the group finds it; nil when there is none.
func (a *ASD) current(g *group, key []byte) (*entry, error) {
	if p, ok := g.local[string(key)]; ok {
		return p.cur, nil
	}
	return a.lookup(key)
}

// lookup finds the entry of a key; nil when there is none.
func (a *ASD) lookup(key []byte) (*entry, error) {
	a.table.RLock()
	p, ok := a.table.pending[string(key)]
	a.table.RUnlock()
	if ok {
		return p.cur, nil
	}
	var e *entry
	err := a.withIndex(func(x *index) (err error) {
		e, err = x.get(key)
		return err
	})
	return e, err
}

// writeFrame writes the group and publishes it.
func (a *ASD) writeFrame(g *group) error {
	act := a.table.active
	info := frameInfo{
		epoch: act.seg.epoch, segment: act.seg.id, lsn: a.writer.lsn + 1,
		synced: act.synced.Load(), page: uint32(act.pos / pageSize),
	}
	for _, p := range g.ops {
		if p.cur != nil && p.cur.segment != info.segment {
			return a.fail(fmt.Errorf("a record of segment %d in a frame of segment %d", p.cur.segment, info.segment))
		}
	}
	offs, iov, bufs := g.frame.build(a.buffers, info)
	err := a.markDirty()
	if err == nil {
		err = writeAll(act.file, iov, act.pos)
	}
	for _, b := range bufs {
		b.Free()
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("asd %s: apply: %w", a.dir, ErrFull) // the next frame goes to the same place
	}
	if err != nil {
		return a.fail(fmt.Errorf("write segment %d at %d: %w", act.seg.id, act.pos, err))
	}
	for i, p := range g.ops {
		if p.cur != nil {
			p.cur.page, p.cur.ord, p.cur.off = info.page, uint32(i), offs[i]
		}
	}
	size := g.frame.size()
	act.pos += size
	a.writer.lsn++
	a.publish(&pendingFrame{lsn: a.writer.lsn, seq: a.writer.seq, segment: act.seg.id, end: act.pos, size: size, ops: g.ops})
	a.counters.frames.Add(1)
	a.counters.written.Add(size)
	return nil
}

func (a *ASD) publish(f *pendingFrame) {
	t := &a.table
	t.Lock()
	defer t.Unlock()
	for _, p := range f.ops {
		if !p.keep {
			t.pending[p.key] = p
		}
	}
	t.frames = append(t.frames, f)
	t.pendingBytes += f.size
	t.written = f.lsn
	a.wake()
}

func (a *ASD) tooMuchPending() bool {
	a.table.RLock()
	defer a.table.RUnlock()
	return a.table.pendingBytes > maxPendingBytes || len(a.table.pending) > maxPendingOps
}
