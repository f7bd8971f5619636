package asd

import (
	"context"
	"sync/atomic"
	"time"
)

// background marks a context.
type background struct{}

// Background returns a context whose reads and updates give way to those of other contexts, as compaction does: for
// scrub, repair and whoever else reads much and is not waited for. They still get a third of the time when the
// others never pause.
func Background(ctx context.Context) context.Context {
	return context.WithValue(ctx, background{}, true)
}

func isBackground(ctx context.Context) bool { return ctx.Value(background{}) != nil }

const (
	minYield = time.Millisecond
	maxYield = 25 * time.Millisecond
	// recently is how long after the end of an operation of the foreground the next one is expected.
	recently = 20 * time.Millisecond
)

// gate lets the background wait for the foreground.
type gate struct {
	busy   atomic.Int64 // operations of the foreground that are under way
	last   atomic.Int64 // when one ended, in nanoseconds since the ASD was opened
	yields atomic.Int64 // how often the background waited
	waits  atomic.Int64 // how many of the background wait now
	urgent atomic.Int64 // puts that wait for compaction to make room
	idle   chan struct{}
}

func (g *gate) enter() { g.busy.Add(1) }

func (g *gate) leave(now time.Duration) {
	g.last.Store(int64(now))
	if g.busy.Add(-1) == 0 && g.waits.Load() > 0 {
		select {
		case g.idle <- struct{}{}:
		default:
		}
	}
}

// active reports whether the foreground does something, or did a moment ago.
func (a *ASD) active() bool {
	g := &a.gate
	last := g.last.Load()
	return g.busy.Load() > 0 || last > 0 && time.Since(a.start)-time.Duration(last) < recently
}

// yield waits until the foreground pauses, at most twice as long as the background's last step took.
func (g *gate) yield(ctx context.Context, step time.Duration) error {
	if g.busy.Load() == 0 || g.urgent.Load() > 0 {
		return ctx.Err()
	}
	g.yields.Add(1)
	g.waits.Add(1)
	defer g.waits.Add(-1)
	t := time.NewTimer(min(max(2*step, minYield), maxYield))
	defer t.Stop()
	for g.busy.Load() > 0 && g.urgent.Load() == 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			return nil
		case <-g.idle:
		}
	}
	return ctx.Err()
}

// span is one operation, from enter to end.
type span struct {
	a          *ASD
	h          *Histogram
	start      time.Time
	background bool
}

// enter counts an operation of the foreground in, or lets one of the background wait for its turn.
func (a *ASD) enter(ctx context.Context, h *Histogram) (span, error) {
	s := span{a: a, h: h}
	if isBackground(ctx) {
		s.background, s.h = true, nil
		if err := a.gate.yield(ctx, time.Duration(a.step.Load())); err != nil {
			return s, err
		}
	} else {
		a.gate.enter()
	}
	s.start = time.Now()
	return s, nil
}

// end is called once for every enter without an error.
func (s span) end() {
	took := time.Since(s.start)
	if s.background {
		s.a.step.Store(int64(took))
		return
	}
	s.h.Add(took)
	s.a.gate.leave(time.Since(s.a.start))
}
