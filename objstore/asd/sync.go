package asd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sys/unix"
)

// checkpointBytes is how much may be written before the index is flushed: it bounds what Open replays
// after a crash. The flush happens in the background.
const checkpointBytes = 256 << 20

// maxSyncs is how many syncs may be under way. The second begins while the first is waiting for the disk, so that
// what was written meanwhile need not wait until that is over.
const maxSyncs = 2

// syncer makes frames durable and then commits them to the index. Who finds too few syncs under way leads one; who
// comes meanwhile waits for the first that begins after it.
type syncer struct {
	mu      sync.Mutex
	synced  uint64     // lsn
	covered uint64     // lsn that a sync will reach that is under way, or was
	waiting []*request // written, and not durable yet
	running int
	last    *syncRun // the one that began last; nil when none is running

	commitMu  sync.Mutex // held while frames go to the index
	unflushed int64      // guarded by commitMu
}

// syncRun is one sync.
type syncRun struct {
	act  *activeSegment
	end  int64  // in act; 0: nothing in it is to be synced
	upTo uint64 // lsn that is durable after it

	before *syncRun // that began before it and was still running
	over   chan struct{}
	err    error
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
	r := &request{lsn: lsn, wake: make(chan struct{}, 1)}
	s := &a.syncer
	s.mu.Lock()
	a.awaitSync(r)
	if run := a.beginSync(); run != nil {
		a.runSync(run) // it covers r
	}
	s.mu.Unlock()
	<-r.wake
	return r.err
}

// syncFor has the requests woken once they are durable, and does not wait for that.
func (a *ASD) syncFor(rs []*request) {
	if len(rs) == 0 {
		return
	}
	s := &a.syncer
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rs {
		a.awaitSync(r)
	}
	if run := a.beginSync(); run != nil {
		go a.syncOn(run)
	}
}

// awaitSync has a request woken by the sync that covers it, or at once. The caller holds syncer.mu.
func (a *ASD) awaitSync(r *request) {
	s := &a.syncer
	if r.lsn > s.synced {
		if r.err = a.Err(); r.err == nil {
			s.waiting = append(s.waiting, r)
			return
		}
	}
	r.wake <- struct{}{}
}

// beginSync begins a sync if somebody needs it and there may be another one. The caller holds syncer.mu, and runs it.
func (a *ASD) beginSync() *syncRun {
	s := &a.syncer
	if s.running >= maxSyncs || !slices.ContainsFunc(s.waiting, func(r *request) bool { return r.lsn > s.covered }) {
		return nil
	}
	run := a.toSync()
	run.before, run.over = s.last, make(chan struct{})
	s.last = run
	s.running++
	s.covered = run.upTo
	return run
}

// syncOn runs a sync, and others after it for as long as there is need.
func (a *ASD) syncOn(run *syncRun) {
	a.syncer.mu.Lock()
	defer a.syncer.mu.Unlock()
	a.runSync(run)
}

// runSync runs a sync and wakes who waited for it. It is called with syncer.mu held, and lets go of it meanwhile.
func (a *ASD) runSync(run *syncRun) {
	s := &a.syncer
	s.mu.Unlock()
	run.err = a.syncTo(run)
	close(run.over)
	s.mu.Lock()
	run.before = nil
	if s.running--; s.last == run {
		s.last = nil
	}
	if run.err == nil {
		s.synced = max(s.synced, run.upTo)
	}
	left := s.waiting[:0]
	for _, r := range s.waiting {
		if r.lsn > s.synced && run.err == nil {
			left = append(left, r)
			continue
		}
		if r.lsn > s.synced {
			r.err = run.err
		}
		r.wake <- struct{}{}
	}
	clear(s.waiting[len(left):])
	s.waiting = left
	if next := a.beginSync(); next != nil {
		go a.syncOn(next)
	}
}

// toSync is what a sync that begins now has to do.
func (a *ASD) toSync() *syncRun {
	t := &a.table
	t.RLock()
	defer t.RUnlock()
	run := &syncRun{act: t.active, upTo: t.written}
	for _, f := range t.frames {
		if t.active != nil && f.segment == t.active.seg.id {
			run.end = f.end
		}
	}
	return run
}

// syncTo syncs what was written when the run began and commits it to the index.
func (a *ASD) syncTo(run *syncRun) error {
	var err error
	// Frames in segments before the active one were made durable when the segment was sealed.
	if run.end > 0 {
		began := time.Now()
		if err = run.act.sync(run.end); err != nil {
			err = a.fail(fmt.Errorf("sync segment %d: %w", run.act.seg.id, err))
		} else {
			a.counters.sync.Add(time.Since(began))
			a.counters.syncs.Add(1)
		}
	}
	// The kernel tells of a failed write only once: what a later sync says counts only if the earlier one, which may
	// have been told, went well.
	if run.before != nil {
		if <-run.before.over; err == nil {
			err = run.before.err
		}
	}
	if err == nil {
		err = a.Err()
	}
	if err != nil {
		return err
	}
	if err := a.commitIndex(run.upTo); err != nil {
		return a.fail(err)
	}
	return nil
}

// commitIndex puts the frames up to lsn, which are durable, into the index.
func (a *ASD) commitIndex(lsn uint64) error {
	a.syncer.commitMu.Lock()
	defer a.syncer.commitMu.Unlock()
	a.table.RLock()
	frames := a.table.frames
	for i, f := range frames {
		if f.lsn > lsn {
			frames = frames[:i]
			break
		}
	}
	a.table.RUnlock()
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
