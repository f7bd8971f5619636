package raftkv

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// round is one question to a quorum whether this member still leads, which any number of readers share.
type round struct {
	done chan struct{}
	err  error // set before done is closed
}

// verifiers is how many rounds may be under way at once: one that is being answered, one that can start
// meanwhile.
const verifiers = 2

// verifyLeader begins to verify that this member leads, and returns a function that waits for the
// answer. A lone voter has nobody to ask: as long as it leads, nobody else can.
func (s *Store) verifyLeader(e *epoch) func(context.Context) error {
	if s.isLone() {
		if s.raft.State() != raft.Leader || s.raft.CurrentTerm() != e.term {
			return func(context.Context) error { return s.notLeader() }
		}
		return func(context.Context) error { return nil }
	}
	s.mu.Lock()
	if s.round == nil { // one that begins after this call
		s.round = &round{done: make(chan struct{})}
	}
	r := s.round
	s.mu.Unlock()
	wake(s.verifyKick)
	return func(ctx context.Context) error {
		select {
		case <-r.done:
		case <-ctx.Done():
			return s.explain(ctx.Err())
		case <-s.stop:
			return s.closedError()
		}
		if r.err != nil {
			return s.proposalError(r.err)
		}
		if s.raft.CurrentTerm() != e.term {
			return s.notLeader()
		}
		return nil
	}
}

// verify is a goroutine that asks the quorum on behalf of those who joined a round.
func (s *Store) verify() {
	for {
		select {
		case <-s.verifyKick:
		case <-s.stop:
			return
		}
		select {
		case <-s.stop: // at the same time
			return
		default:
		}
		s.mu.Lock()
		r := s.round
		s.round = nil
		s.mu.Unlock()
		if r == nil {
			continue
		}
		r.err = s.answer(s.raft.VerifyLeader())
		close(r.done)
	}
}

// answer waits for raft's answer. The verifiers end before raft stops, if it answers: it forgets questions when
// it stops, and whoever waits for them would wait for ever.
func (s *Store) answer(f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-s.forgotten:
		return errors.Join(errStopped, raft.ErrRaftShutdown)
	}
}

// endVerifiers waits for the verifiers. A raft that is stuck does not answer them.
func (s *Store) endVerifiers() {
	ended := make(chan struct{})
	go func() { s.verifiers.Wait(); close(ended) }()
	t := time.NewTimer(2*s.opts.HeartbeatTimeout + time.Second)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
	}
}

// await waits for a future of raft or the end of the store: raft forgets some of its futures when it
// stops.
func (s *Store) await(f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-s.stop:
		return errors.Join(errStopped, raft.ErrRaftShutdown)
	}
}
