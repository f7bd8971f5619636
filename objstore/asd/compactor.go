package asd

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"
)

// compactor copies what is needed of one segment to the end of the log.
type compactor struct {
	a    *ASD
	ctx  context.Context
	s    *segment
	rate int64

	moves []op
	lsn   uint64 // of the last copy
}

// compactSegment copies what is needed of a segment and ends its life. The caller holds compactMu.
func (a *ASD) compactSegment(ctx context.Context, s *segment, rate int64) error {
	c := &compactor{a: a, ctx: ctx, s: s, rate: rate}
	// Its last frames may not be in the index yet, and then the segment looks shorter than it is.
	if err := a.syncUntil(a.lastWritten()); err != nil {
		return err
	}
	a.table.RLock()
	empty := s.empty()
	a.table.RUnlock()
	if !empty {
		if err := a.roomToMove(s); err != nil {
			return err
		}
		damaged, err := a.walk(s, c.collect)
		if err == nil {
			err = c.move()
		}
		if err == nil && damaged > 0 {
			err = c.rescue()
		}
		if err != nil {
			return err
		}
	}
	if err := a.syncUntil(max(c.lsn, a.lastWritten())); err != nil {
		return err
	}
	a.table.RLock()
	left := s.state.records
	a.table.RUnlock()
	if left != 0 {
		// The accounts and the index disagree, or a record could not be moved: keep the segment.
		s.setMissing(a)
		return fmt.Errorf("%d records were left behind: %w", left, ErrDamaged)
	}
	// From here on an index that is lost in a crash is replayed from a position after the copies.
	if err := a.flushIndex(ctx); err != nil {
		return err
	}
	a.counters.compacts.Add(1)
	return a.free(s)
}

// setMissing keeps a segment that cannot be compacted from being tried again until the next Open.
func (s *segment) setMissing(a *ASD) {
	a.table.Lock()
	s.missing = true
	a.table.Unlock()
}

// collect notes an op of the segment that must be kept.
func (c *compactor) collect(h *frameInfo, o *opView) error {
	m := op{kind: o.kind, move: true, damaged: o.damaged, seq: o.seq, size: o.size,
		from: location{segment: h.segment, page: h.page, ord: o.ord, off: o.off}}
	if o.kind == opDelete {
		if !c.a.deleteNeeded(c.s, o) {
			return nil
		}
		m.prevLo, m.prevHi = o.prevLo, o.prevHi
	} else {
		e, err := c.a.lookup(o.key)
		if err != nil {
			return err
		}
		if e == nil || e.location != m.from || e.seq != o.seq {
			return nil
		}
		m.prevLo, m.prevHi = e.prevLo, e.prevHi
		m.crcs = bytes.Clone(o.crcs)
	}
	m.key, m.info = bytes.Clone(o.key), bytes.Clone(o.info)
	c.moves = append(c.moves, m)
	if len(c.moves) >= compactChunk {
		return c.move()
	}
	return nil
}

// move copies what was collected, in the order of the keys.
func (c *compactor) move() error {
	slices.SortFunc(c.moves, func(x, y op) int { return bytes.Compare(x.key, y.key) })
	for len(c.moves) > 0 {
		n, size, limit := 0, int64(0), int64(compactBatch)
		if c.a.active() {
			limit = compactStep
		}
		for n < len(c.moves) && n < compactBatchOps {
			next := c.moves[n].metaLen() + pageCeil(int64(c.moves[n].size))
			if n > 0 && size+next > min(limit, c.a.MaxBatchBytes()) {
				break
			}
			size += next
			n++
		}
		if err := c.copy(c.moves[:n], size); err != nil {
			return err
		}
		c.moves = c.moves[n:]
	}
	c.moves = nil
	return nil
}

// copy moves some records with one frame.
func (c *compactor) copy(moves []op, size int64) error {
	began := time.Now()
	var bufs []*Buffer
	defer func() {
		for _, b := range bufs {
			b.Free()
		}
	}()
	f, err := c.s.reader()
	if err != nil {
		return err
	}
	for i := range moves {
		m := &moves[i]
		if m.size == 0 {
			continue
		}
		b := c.a.buffers.Get(m.size)
		bufs = append(bufs, b)
		m.payload = [][]byte{b.Bytes()} // never aligned: copies are packed
		at := int64(m.from.page)*pageSize + int64(m.from.off)
		if _, err := f.ReadAt(b.Bytes(), at); err != nil {
			return err
		}
		if badBlock(b.Bytes(), m.crcs) < 0 {
			m.damaged = false
			continue
		}
		if err := c.a.readDirect(c.s, m.payload, at); err != nil {
			return err
		}
		// What is damaged stays damaged: it goes along with the checksums that it fails.
		if m.damaged = badBlock(b.Bytes(), m.crcs) >= 0; m.damaged {
			c.a.log.Error("a damaged record is carried along", "key", fmt.Sprintf("%q", m.key), "segment", c.s.id)
		}
	}
	r := &request{ops: moves, class: classMove}
	if err := c.a.submit(r); err != nil {
		return err
	}
	c.lsn = max(c.lsn, r.lsn)
	c.a.counters.compacted.Add(size)
	return c.wait(began, size)
}

// wait keeps to the rate, to a quarter of it while others read or write, and lets those go first that do so now.
func (c *compactor) wait(began time.Time, size int64) error {
	if err := c.a.gate.yield(c.ctx, time.Since(began)); err != nil || c.rate <= 0 || c.a.gate.urgent.Load() > 0 {
		return err
	}
	if c.a.active() {
		size *= 4
	}
	d := time.Duration(float64(size)/float64(c.rate)*float64(time.Second)) - time.Since(began)
	if d <= 0 {
		return c.ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-t.C:
		return nil
	}
}

// rescue moves the records whose frame is damaged, and which only the index knows. Their recovery
// information is lost.
func (c *compactor) rescue() error {
	err := c.a.withIndex(func(x *index) error {
		c.moves = nil
		return x.scan(nil, nil, func(key []byte, e *entry) (bool, error) {
			if e.segment == c.s.id {
				c.moves = append(c.moves, op{kind: opPut, move: true, damaged: e.damaged, key: bytes.Clone(key),
					seq: e.seq, prevLo: e.prevLo, prevHi: e.prevHi, size: e.size, crcs: e.crcs, from: e.location})
			}
			return true, c.ctx.Err()
		})
	})
	if err != nil {
		return err
	}
	// What was moved before is still in the index at its old place, when it is pending; stageMoves sees that.
	c.a.log.Error("recovery information is lost with a damaged frame", "segment", c.s.id, "records", len(c.moves))
	return c.move()
}

// stageMoves adds those moves to the group whose record has not changed since.
func (a *ASD) stageMoves(g *group, r *request) error {
	for i := range r.ops {
		o := &r.ops[i]
		if o.kind == opDelete {
			g.frame.add(o)
			g.ops = append(g.ops, &pendingOp{key: string(o.key), cost: deleteCost(len(o.key)), keep: true})
			continue
		}
		cur, err := a.current(g, o.key)
		if err != nil {
			return err
		}
		if cur == nil || cur.location != o.from || cur.seq != o.seq {
			continue
		}
		o.prevLo, o.prevHi = a.killRange(cur)
		e := o.entry(a.table.active.seg.id)
		g.add(o, &pendingOp{key: string(o.key), cur: e, old: cur, cost: e.cost(len(o.key))})
	}
	return nil
}
