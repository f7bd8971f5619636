package asd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sys/unix"
)

// checkpointBytes is how much may be written before the index is flushed: it bounds what Open replays
// after a crash. The flush happens in the background.
const checkpointBytes = 256 << 20

// syncer makes frames durable and then commits them to the index. One goroutine at a time leads; who
// comes meanwhile waits, and shares the next sync.
type syncer struct {
	mu      sync.Mutex
	cond    sync.Cond
	running bool
	synced  uint64 // lsn

	unflushed int64 // owned by the leader
}

// Sync returns once everything applied before the call is durable.
func (a *ASD) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := a.usable(); err != nil {
		return err
	}
	return a.syncUntil(a.lastWritten())
}

func (a *ASD) lastWritten() uint64 {
	a.table.RLock()
	defer a.table.RUnlock()
	return a.table.written
}

// syncUntil returns once the frames up to lsn are durable and in the index.
func (a *ASD) syncUntil(lsn uint64) error {
	s := &a.syncer
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.synced < lsn {
		if err := a.Err(); err != nil {
			return err
		}
		if s.running {
			s.cond.Wait()
			continue
		}
		s.running = true
		s.mu.Unlock()
		upTo, err := a.syncOnce()
		s.mu.Lock()
		s.running = false
		if err == nil {
			s.synced = max(s.synced, upTo)
		}
		s.cond.Broadcast()
		if err != nil {
			return err
		}
	}
	return nil
}

// syncOnce syncs what is written now and commits it to the index.
func (a *ASD) syncOnce() (uint64, error) {
	t := &a.table
	t.RLock()
	act, upTo, frames := t.active, t.written, t.frames
	end := int64(0)
	for _, f := range frames {
		if act != nil && f.segment == act.seg.id {
			end = f.end
		}
	}
	t.RUnlock()
	// Frames in segments before the active one were made durable when the segment was sealed.
	if end > 0 {
		began := time.Now()
		if err := act.sync(end); err != nil {
			return 0, a.fail(fmt.Errorf("sync segment %d: %w", act.seg.id, err))
		}
		a.counters.sync.Add(time.Since(began))
		a.counters.syncs.Add(1)
	}
	if err := a.commitIndex(frames); err != nil {
		return 0, a.fail(err)
	}
	return upTo, nil
}

// commitIndex puts durable frames, the oldest that are pending, into the index.
func (a *ASD) commitIndex(frames []*pendingFrame) error {
	if len(frames) == 0 {
		return nil
	}
	return a.withIndex(func(x *index) error {
		if err := a.commitFrames(x, frames); err != nil {
			return err
		}
		for _, f := range frames {
			a.syncer.unflushed += f.size
		}
		if flush := a.syncer.unflushed >= checkpointBytes; flush {
			a.syncer.unflushed = 0
			_, err := x.db.AsyncFlush()
			return err
		}
		return nil
	})
}

// commitFrames is called with indexMu held for reading.
func (a *ASD) commitFrames(x *index, frames []*pendingFrame) error {
	b := x.db.NewBatch()
	defer b.Close()
	for _, f := range frames {
		for _, p := range f.ops {
			if p.keep {
				continue
			}
			if p.cur == nil {
				b.Delete(append([]byte{indexRecord}, p.key...), nil)
			} else {
				b.Set(append([]byte{indexRecord}, p.key...), p.cur.encode(nil), nil)
			}
		}
	}
	last := frames[len(frames)-1]
	pos := position{segment: last.segment, offset: last.end, lsn: last.lsn, seq: last.seq, asd: a.identity.ASD}
	b.Set([]byte{indexMeta}, pos.encode(), nil)
	after := a.account(frames)
	for id, st := range after {
		b.Set(segmentKey(id), st.encode(), nil)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return indexError(err)
	}
	a.retire(frames, after)
	return nil
}

// account returns the states of the segments that the frames change, after them.
func (a *ASD) account(frames []*pendingFrame) map[uint64]segmentState {
	t := &a.table
	t.RLock()
	defer t.RUnlock()
	after := make(map[uint64]segmentState)
	change := func(id uint64, live, deletes, records, end int64) {
		st, ok := after[id]
		if !ok {
			s := t.segments[id]
			if s == nil {
				return
			}
			st = s.state
		}
		st.live += live
		st.deletes += deletes
		st.records += records
		st.end = max(st.end, end)
		after[id] = st
	}
	for _, f := range frames {
		change(f.segment, 0, 0, 0, f.end)
		for _, p := range f.ops {
			if p.cur != nil {
				change(f.segment, p.cost, 0, 1, 0)
			} else {
				change(f.segment, 0, p.cost, 0, 0)
			}
			if p.old != nil {
				change(p.old.segment, -p.old.cost(len(p.key)), 0, -1, 0)
			}
		}
	}
	return after
}

// retire ends what is pending about frames that are in the index now.
func (a *ASD) retire(frames []*pendingFrame, after map[uint64]segmentState) {
	t := &a.table
	t.Lock()
	defer t.Unlock()
	for id, st := range after {
		if s := t.segments[id]; s != nil {
			s.state = st
		}
	}
	for _, f := range frames {
		for _, p := range f.ops {
			if t.pending[p.key] == p {
				delete(t.pending, p.key)
			}
		}
		t.pendingBytes -= f.size
	}
	if t.frames = t.frames[min(len(frames), len(t.frames)):]; len(t.frames) == 0 {
		t.frames = nil
	}
	a.wake()
}

// wake tells maintenance that something has changed.
func (a *ASD) wake() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// sync makes everything up to end durable, unless the segment was sealed meanwhile, which did it.
func (act *activeSegment) sync(end int64) error {
	act.use.RLock()
	defer act.use.RUnlock()
	if act.file == nil {
		return nil
	}
	if err := unix.Fdatasync(int(act.file.Fd())); err != nil {
		return err
	}
	for {
		old := act.synced.Load()
		if old >= end || act.synced.CompareAndSwap(old, end) {
			return nil
		}
	}
}
