package raftkv

import (
	"context"
	"time"
)

// Updates that come faster than the flusher writes have to wait. When each waits until the active table has
// room, all of them stop until the flusher has written another part, and a part may take a second while
// others use the disk. So there are two limits. Beyond the first, room, updates are paced: together they are let in at
// about the rate at which the flusher has lately written, which is a short wait for each of them.
// Only at the second, full, do they wait for the flusher itself. What is between the two outlasts a part that takes
// seconds.

// room is how large the active table may be before updates are paced. While the table before it is flushed it grows
// with what is done. The caller holds mu.
func (s *Store) room() int64 {
	f := s.flushing
	if f == nil || f.keys == 0 {
		return 2 * s.opts.FlushBytes
	}
	return f.spare + s.opts.FlushBytes/2 + int64(float64(s.opts.FlushBytes/2)*float64(f.keys-f.left)/float64(f.keys))
}

// full is how large the active table may be at all. The caller holds mu.
func (s *Store) full() int64 {
	if s.flushing == nil { // the flusher is about to begin
		return s.room()
	}
	return s.room() + s.opts.FlushBytes
}

// pacer lets updates in at the rate of the flusher. Guarded by Store.mu.
type pacer struct {
	rate float64   // bytes of tables that were flushed in a second; 0: not known
	last time.Time // when the last part was done, or the flush began
	next time.Time // when the next update may begin
}

const (
	// paceWindow is the time over which the rate is averaged.
	paceWindow = time.Second
	// maxPace is the longest that an update is delayed by the pacer.
	maxPace = 100 * time.Millisecond
)

// flushed notes that bytes of a table were flushed since the last call.
func (p *pacer) flushed(bytes float64, now time.Time) {
	took := max(now.Sub(p.last), time.Microsecond)
	p.last = now
	sample := bytes / took.Seconds()
	if p.rate == 0 {
		p.rate = sample
		return
	}
	weight := float64(took) / float64(took+paceWindow)
	p.rate += weight * (sample - p.rate)
}

// admitted notes that an update has added bytes to the active table, which is over its room by the share over of what
// is between the two limits.
func (p *pacer) admitted(bytes int64, over float64, now time.Time) {
	if over <= 0 || p.rate == 0 {
		p.next = time.Time{}
		return
	}
	// At first faster than the flusher, so that a wait begins gently, and slower when the table grows on.
	rate := p.rate * 2 * max(1-over, 1./64)
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(bytes) / rate * float64(time.Second)))
	if latest := now.Add(maxPace); p.next.After(latest) {
		p.next = latest
	}
}

// admit notes that the active table was before bytes large and has grown. The caller holds mu.
func (s *Store) admit(before int64) {
	room := s.room()
	if s.active.bytes <= room && s.pace.next.IsZero() {
		return
	}
	over := float64(s.active.bytes-room) / float64(s.opts.FlushBytes)
	s.pace.admitted(s.active.bytes-before, over, time.Now())
}

// waitRoom waits while too much is pending or in memory.
func (s *Store) waitRoom(ctx context.Context) error {
	for paced := false; ; {
		s.mu.Lock()
		full := s.epoch != nil && (s.epoch.pending > s.opts.MaxPending || s.active.bytes > s.full())
		progress, next := s.progress, s.pace.next
		s.mu.Unlock()
		if !full {
			if paced || next.IsZero() {
				return nil
			}
			paced = true // once, so that others cannot keep it waiting
			if err := s.pause(ctx, time.Until(next)); err != nil {
				return err
			}
			continue
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return s.explain(ctx.Err())
		case <-s.stop:
			return s.closedError()
		}
		if s.closing.Load() {
			return s.closedError()
		}
	}
}

// pause waits for d.
func (s *Store) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return s.explain(ctx.Err())
	case <-s.stop:
		return s.closedError()
	}
}

// madeProgress wakes who waits for room. The caller holds mu.
func (s *Store) madeProgress() {
	close(s.progress)
	s.progress = make(chan struct{})
}
