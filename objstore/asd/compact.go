package asd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	compactBatch    = 4 << 20   // bytes copied by one frame
	compactStep     = 256 << 10 // the same while others read or write, who may have to wait for it
	compactBatchOps = 8192
	// minGain is what the compaction of a segment must bring, beside the fraction. Copies are dense up to a page per
	// frame; without a bound well above that, compaction could go on for ever for the sake of the last page.
	minGain    = 32 << 10
	minGarbage = 0.02
	// compactChunk bounds how many records are sorted at a time.
	compactChunk = 32 << 10
)

// Compact brings the space of deleted records back now, as far as it is worth it: it compacts every
// segment of which more than 5% is garbage, of those that there are when it begins, and gives what is free to the
// filesystem.
func (a *ASD) Compact(ctx context.Context) error {
	if err := a.usable(); err != nil {
		return err
	}
	if err := a.syncUntil(a.lastWritten()); err != nil {
		return err
	}
	newest := a.newestSegment()
	if err := a.compactWhile(ctx, choice{fraction: 0.05, newest: newest}, -1, func() bool { return true }); err != nil {
		return err
	}
	if err := a.submit(&request{trim: true}); err != nil {
		return err
	}
	return a.trimPool(0)
}

// choice says which segments are worth their compaction.
type choice struct {
	fraction float64 // of garbage, at least
	newest   uint64  // id of the last one that is looked at; 0: of all
}

func (a *ASD) newestSegment() (id uint64) {
	a.table.RLock()
	defer a.table.RUnlock()
	for i := range a.table.segments {
		id = max(id, i)
	}
	return id
}

// compactWhile compacts segments, those with the most garbage first, while there is one of the choice, and may
// says so.
func (a *ASD) compactWhile(ctx context.Context, of choice, rate int64, may func() bool) error {
	a.compactMu.Lock()
	defer a.compactMu.Unlock()
	for may() {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := a.victim(of)
		if err != nil || s == nil {
			return err
		}
		if err := a.compactSegment(ctx, s, rate); err != nil {
			return fmt.Errorf("asd %s: compact segment %d: %w", a.dir, s.id, err)
		}
	}
	return nil
}

// makeRoom is called by a put that found the ASD full. It reports whether space came back.
func (a *ASD) makeRoom(ctx context.Context) bool {
	a.gate.urgent.Add(1)
	defer a.gate.urgent.Add(-1)
	before := a.counters.freedSegment.Load()
	a.compactMu.Lock()
	defer a.compactMu.Unlock()
	if a.counters.freedSegment.Load() != before {
		return true
	}
	if a.syncUntil(a.lastWritten()) != nil {
		return false
	}
	s, err := a.victim(choice{fraction: 0.1})
	if err == nil && s != nil {
		err = a.compactSegment(ctx, s, -1)
	}
	if err == nil && a.room() < 0 {
		err = a.trimPool(0) // others need it more
	}
	if err != nil {
		a.log.Warn("compaction of a full ASD", "error", err)
		return false
	}
	return s != nil
}

// garbage is what a segment would give back.
func (s *segment) garbage() int64 {
	return s.state.end - segmentStart - s.state.live - s.state.deletes
}

// empty reports whether nothing in the segment is needed.
func (s *segment) empty() bool {
	return s.state.live == 0 && s.state.records == 0 && s.state.deletes == 0
}

// worth reports whether that gain is worth the compaction.
func (s *segment) worth(gain int64, fraction float64) bool {
	return gain >= minGain && float64(gain) >= max(fraction, minGarbage)*float64(s.state.end-segmentStart)
}

// victim chooses the segment to compact next; nil when none is worth it.
func (a *ASD) victim(of choice) (*segment, error) {
	if err := a.recountDeletes(of.fraction); err != nil {
		return nil, err
	}
	worth := func(s *segment) bool {
		return !s.missing && (of.newest == 0 || s.id <= of.newest) && (s.empty() || s.worth(s.garbage(), of.fraction))
	}
	t := &a.table
	t.RLock()
	var best *segment
	var active *segment
	for _, s := range t.segments {
		switch {
		case !s.sealed:
			active = s
		case s.dying || !worth(s):
		case best == nil, s.empty() && !best.empty(), s.empty() == best.empty() && s.garbage() > best.garbage():
			best = s // empty ones first: they need no space, and give some
		}
	}
	var seal bool
	if active != nil && best == nil {
		seal = worth(active) && active.garbage() >= min(spareSize, a.segmentSize/8)
	}
	t.RUnlock()
	if !seal {
		return best, nil
	}
	if err := a.submit(&request{seal: true}); err != nil {
		return nil, err
	}
	if err := a.syncUntil(a.lastWritten()); err != nil {
		return nil, err
	}
	return active, nil
}

// recountDeletes finds out for segments with many deletes which of them are still needed. Freed segments
// make deletes needless, and nothing else tells.
func (a *ASD) recountDeletes(fraction float64) error {
	freed := a.counters.freedSegment.Load()
	t := &a.table
	t.RLock()
	var list []*segment
	for _, s := range t.segments {
		if s.sealed && !s.dying && !s.missing && s.counted != freed && s.state.deletes > 0 &&
			(s.state.records == 0 || s.worth(s.garbage()+s.state.deletes, fraction)) {
			list = append(list, s)
		}
	}
	t.RUnlock()
	for _, s := range list {
		var needed int64
		_, err := a.walk(s, func(h *frameInfo, o *opView) error {
			if o.kind == opDelete && a.deleteNeeded(s, o) {
				needed += deleteCost(len(o.key))
			}
			return nil
		})
		if err != nil {
			return err
		}
		t.Lock()
		s.state.deletes, s.counted = min(s.state.deletes, needed), freed
		t.Unlock()
	}
	return nil
}

// deleteNeeded reports whether the segments other than s in which older incarnations lie still exist.
func (a *ASD) deleteNeeded(s *segment, o *opView) bool {
	lo, hi := a.aliveRange(o.prevLo, o.prevHi)
	return hi != 0 && (lo != s.id || hi != s.id)
}

// walk calls fn for every op in a sealed segment, and reports how many places were damaged.
func (a *ASD) walk(s *segment, fn func(h *frameInfo, o *opView) error) (damaged int, err error) {
	err = a.walkFrames(s, nil, fn, func(off int64, err error) {
		damaged++
		a.log.Error("damaged frame in a segment", "segment", s.id, "offset", off, "error", err)
	})
	return damaged, err
}

// walkFrames calls frame for every frame of a sealed segment that is whole, fn for its ops and damage for every place where
// there is no whole frame.
func (a *ASD) walkFrames(s *segment, frame func(h *frameInfo), fn func(h *frameInfo, o *opView) error, damage func(off int64, err error)) error {
	a.table.RLock()
	end := s.state.end
	a.table.RUnlock()
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := &scanner{f: f, id: s.id, epoch: s.epoch, size: end}
	for off := int64(segmentStart); off+pageSize <= end; {
		at := off
		h, err := sc.header(off)
		if err == nil {
			var meta []byte
			if meta, err = sc.meta(&h); err == nil {
				if meta = bytes.Clone(meta); frame != nil && decodeOps(&h, meta, func(*opView) error { return nil }) == nil {
					frame(&h)
				}
				err = decodeOps(&h, meta, func(o *opView) error { return fn(&h, o) })
			}
			off = h.end()
		} else if next, ok := sc.resync(off+pageSize, end); ok {
			off = next
		} else {
			off = end
		}
		var fe formatError
		if errors.As(err, &fe) {
			damage(at, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (a *ASD) flushIndex(ctx context.Context) error {
	var done <-chan struct{}
	err := a.withIndex(func(x *index) (err error) {
		done, err = x.db.AsyncFlush()
		return err
	})
	if err != nil {
		return err
	}
	const patience = 8 // flushes that found no space
	before := a.noSpace.Load()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return a.Err()
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if a.noSpace.Load()-before > patience {
				return fmt.Errorf("flush the index: %w", ErrFull)
			}
			if err := a.Err(); err != nil {
				return err
			}
		}
	}
}

// free ends the life of a segment that nothing refers to, once its readers are gone.
func (a *ASD) free(s *segment) error {
	if a.hookBeforeFree != nil {
		a.hookBeforeFree()
	}
	a.table.Lock()
	s.dying = true
	a.table.Unlock()
	s.release()
	<-s.drained
	// It counts as alive for deletes until its death is durable.
	a.table.RLock()
	st, size := s.state, s.allocated
	a.table.RUnlock()
	if err := a.bury(st.slot, s.id, st.epoch, size); err != nil {
		return a.fail(fmt.Errorf("free segment %d: %w", s.id, err))
	}
	a.table.Lock()
	delete(a.table.segments, s.id)
	a.table.Unlock()
	a.counters.freedSegment.Add(1)
	return a.withIndex(func(x *index) error { return x.db.Delete(segmentKey(s.id), noSync) })
}
