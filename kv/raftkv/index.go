package raftkv

import (
	"context"
	"math"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// signal wakes those who wait for something to change. Guarded by Store.mu; the zero value is ready.
type signal struct{ ch chan struct{} }

// wait returns a channel that the next notify closes.
func (n *signal) wait() <-chan struct{} {
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *signal) notify() {
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}

// UpdateAt is Update that also returns the index of the log entry that carries what fn wrote. A member
// that has applied that index shows it. When fn wrote nothing it is an index at which everything that fn
// read is committed. With kv.Ordered it is 0, because the entry has no place yet.
func (s *Store) UpdateAt(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) (index uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	if err := s.waitRoom(ctx); err != nil {
		return 0, err
	}
	e, b, seq, err := s.evaluate(c, fn)
	if err != nil || c == kv.Ordered {
		return 0, err
	}
	if b == nil { // wrote nothing, but may have read what is not durable yet
		if err := s.waitCommitted(ctx, e, seq); err != nil {
			return 0, err
		}
		return s.AppliedIndex(), nil
	}
	if err := s.waitBatch(ctx, b); err != nil {
		return 0, err
	}
	return b.index, nil
}

// AppliedIndex is the index of the last log entry that this member shows.
func (s *Store) AppliedIndex() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied.applied
}

// WaitApplied waits until this member shows the log entry of that index. A View of level Stale that
// begins afterwards sees it.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	for {
		s.mu.Lock()
		applied, changed := s.applied.applied, s.appliedChanged.wait()
		s.mu.Unlock()
		if applied >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stop:
			return s.closedError()
		}
	}
}

// ViewAt is View with indices of the log: fn is told one up to which everything is in the view, where a
// watch that continues from it misses nothing. ViewAt returns one after which nothing is in the view, so
// that whatever the view showed is also shown by a member that has applied it; for kv.Pending it says
// nothing about what was not committed.
func (s *Store) ViewAt(ctx context.Context, l kv.Level, fn func(r kv.Reader, index uint64) error) (seen uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	var v view
	if err := s.view(ctx, &v, l, func(r kv.Reader) error { return fn(r, v.index) }); err != nil {
		return 0, err
	}
	if l != kv.Linearizable {
		return v.index, nil
	}
	return s.AppliedIndex(), nil
}

// Unknown is the Age of a member that has not heard how far its leader is.
const Unknown time.Duration = math.MaxInt64

// Age says how old a View of level Stale that begins now may be: everything that anyone had acknowledged
// that long ago is in it. It rests on answers of a quorum to the leader, not on clocks that agree or on
// messages that are quick, and is some tenths of a second while all is well; see echo.go. It is 0 where
// nobody else can lead, and Unknown when there was no word of a leader yet.
func (s *Store) Age() time.Duration {
	lone := s.isLone()
	s.mu.Lock()
	e, applied := s.epoch, s.applied.applied
	s.mu.Unlock()
	switch {
	case e != nil && lone:
		return 0
	case s.link == nil:
		return Unknown
	}
	at := s.link.freshAt(applied)
	if e != nil {
		if t := s.link.confirmedAt(e.term); t.After(at) {
			at = t
		}
	}
	if at.IsZero() {
		return Unknown
	}
	return time.Since(at)
}
