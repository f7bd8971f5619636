package maint

import (
	"context"
	"sync"
	"time"
)

// limiter bounds bytes per second, with bursts of a quarter of a second. A nil limiter does not.
type limiter struct {
	mu   sync.Mutex
	rate float64 // bytes per second
	free time.Time
}

func newLimiter(rate int64) *limiter {
	if rate < 0 {
		return nil
	}
	return &limiter{rate: float64(rate)}
}

const burst = 250 * time.Millisecond

// spend waits until n more bytes are within the rate.
func (l *limiter) spend(ctx context.Context, n int) error {
	if l == nil {
		return ctx.Err()
	}
	l.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-burst); l.free.Before(earliest) {
		l.free = earliest
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	wait := l.free.Sub(now)
	l.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
