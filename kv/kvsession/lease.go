package kvsession

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// lease is what this side knows of its right to the store. The leader reserves the store for TTL from the
// moment at which it receives a renewal, so from the moment at which the renewal was sent on this side's
// clock at least that long; this side trusts in half of it. Clocks need to agree in rate only, and only
// within a factor of two.
type lease struct {
	ttl   time.Duration
	began time.Time    // for the monotonic clock
	until atomic.Int64 // nanoseconds after began: until then nobody else has the store
	mu    sync.Mutex
	news  chan struct{} // closed and replaced by each renewal
}

func (l *lease) init(ttl time.Duration) {
	l.ttl, l.began, l.news = ttl, time.Now(), make(chan struct{})
}

func (l *lease) valid() bool { return int64(time.Since(l.began)) < l.until.Load() }

// renewed notes that the member had confirmed a renewal that was sent at that time.
func (l *lease) renewed(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := int64(sent.Sub(l.began) + l.ttl/2)
	if until <= l.until.Load() {
		return
	}
	l.until.Store(until)
	close(l.news)
	l.news = make(chan struct{})
}

func (l *lease) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

// interval is how often a renewal is sent, and patience how long the answer may take before another
// connection is tried.
func (l *lease) interval() time.Duration { return l.ttl / 10 }
func (l *lease) patience() time.Duration { return l.ttl / 5 }

// holds waits until it is sure that nobody else has the store.
func (s *Session) holds(ctx context.Context) error {
	if s.lease.valid() {
		return nil
	}
	for {
		news := s.lease.next()
		if s.lease.valid() {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return s.cause()
		}
	}
}
