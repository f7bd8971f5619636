package kvsession

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/kv"
)

// turn is the right to evaluate a transaction. Only one has it at a time.
type turn struct {
	s    *Session
	held bool
}

// take waits for the turn.
func (t *turn) take(ctx context.Context) error {
	for {
		t.s.seqMu.Lock()
		alone := t.s.alone
		if alone == nil {
			t.held = true
			return nil
		}
		t.s.seqMu.Unlock()
		select {
		case <-alone:
		case <-ctx.Done():
			return ctx.Err()
		case <-t.s.done:
			return t.s.cause()
		}
	}
}

func (t *turn) release() {
	t.held = false
	t.s.seqMu.Unlock()
}

// regain takes the turn back inside a transaction, which may not leave in between.
func (t *turn) regain() {
	t.s.seqMu.Lock()
	t.held = true
}

func (t *turn) end() {
	if t.held {
		t.release()
	}
}

// maxRuns is how often a transaction is evaluated anew because others were sequenced while it waited
// for the server, before the others have to wait for it.
const maxRuns = 3

// Update implements kv.Store.
//
// While fn waits for the server in a Get or Range, other transactions are evaluated. When one of these
// is sequenced meanwhile, fn goes on with the picture that it has, and then is evaluated again. A lock
// that fn takes and holds over a Get or Range must not be one that other transactions take.
func (s *Session) Update(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := s.holds(ctx); err != nil {
		return err
	}
	if err := s.waitRoom(ctx); err != nil {
		return err
	}
	var b *outgoing
	var seq uint64
	for run := 1; ; run++ {
		var again bool
		var err error
		if b, seq, again, err = s.evaluate(ctx, c, fn, run > maxRuns); err != nil {
			return err
		}
		if !again {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if c == kv.Ordered {
		return nil
	}
	if b == nil { // wrote nothing, but may have read what is not durable yet
		return s.waitDurable(ctx, seq)
	}
	return s.waitBatch(ctx, b)
}

// evaluate runs fn and sequences what it wrote, or says that it must be run again. Alone, no other
// transaction is evaluated while fn waits for the server.
func (s *Session) evaluate(ctx context.Context, c kv.Commit, fn func(kv.Txn) error, alone bool) (_ *outgoing, seq uint64, again bool, err error) {
	lock := turn{s: s}
	if err := lock.take(ctx); err != nil {
		return nil, 0, false, err
	}
	defer lock.end()
	if s.closing { // Close has waited for everything that was sequenced
		return nil, 0, false, kv.ErrClosed
	}
	if alone {
		gate := make(chan struct{})
		s.alone = gate
		defer func() { // runs before the turn ends
			s.alone = nil
			close(gate)
		}()
	}
	t := &txn{}
	t.open(s, ctx)
	defer t.close()
	t.lock = &lock
	err = fn(t)
	// Both only change with seqMu held.
	if s.seq != t.seq || s.alone != nil && !alone {
		return nil, 0, true, nil
	}
	if err == nil {
		err = t.check()
	}
	if err != nil {
		return nil, 0, false, err
	}
	if len(t.list) == 0 {
		return nil, t.seq, false, nil
	}
	if s.closing {
		return nil, 0, false, kv.ErrClosed
	}
	b, err := s.sequence(t, c)
	return b, t.seq, false, err
}

// Sync implements kv.Store.
func (s *Session) Sync(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	seq := s.seq
	s.mu.Unlock()
	return s.waitDurable(ctx, seq)
}

// waitDurable waits until everything up to seq is acknowledged, and hurries it.
func (s *Session) waitDurable(ctx context.Context, seq uint64) error {
	s.mu.Lock()
	if s.acked >= seq {
		s.mu.Unlock()
		return nil
	}
	if s.failure != nil { // and nothing is left that covers it
		defer s.mu.Unlock()
		return s.failure
	}
	b := s.covering(seq)
	b.wanted = true
	s.mu.Unlock()
	wake(s.kick)
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitBatch waits until what was written is durable.
func (s *Session) waitBatch(ctx context.Context, b *outgoing) error {
	select {
	case <-b.done:
		if b.err != nil {
			return errors.Join(kv.ErrUnknownOutcome, b.err)
		}
		return nil
	case <-ctx.Done():
		return errors.Join(kv.ErrUnknownOutcome, ctx.Err())
	}
}

// waitRoom waits while too much is not acknowledged.
func (s *Session) waitRoom(ctx context.Context) error {
	for {
		s.mu.Lock()
		full, progress := s.pending > s.o.MaxPending, s.progress
		s.mu.Unlock()
		if !full {
			return nil
		}
		wake(s.kick)
		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return s.cause()
		}
	}
}
