// Package memkv is the reference model of kv.Store: the whole contract in memory, simple enough to be
// obviously right. Tests of the layers above use it as a fake; it is not a product store.
//
// A state of the store is one immutable ordered tree. An update evaluates on a copy-on-write clone and
// appends the clone to the history; a view reads whichever state was last when it began. The history
// reaches back to the last state that is durable, so that CrashPrefix can answer with any state that a
// power failure would be allowed to leave.
//
// The model is harsher than a real store where the contract allows it: slices that a Reader handed out
// are overwritten when the function returns, and a key or value that the caller modifies between Put
// and the end of the transaction panics.
package memkv

import (
	"context"
	"math/rand/v2"
	"sync"

	"github.com/gabionfs/gabion/kv"
)

// maxHistory bounds how many Ordered updates can be lost in a crash; older ones become durable, as
// they do in a real store after its batching window.
const maxHistory = 1024

// Store is a kv.Store in memory.
type Store struct {
	rerun bool

	writer  sync.Mutex // held while an update evaluates; taken before mu
	mu      sync.Mutex // guards what follows
	history []*tree    // history[0] is durable, the last one is current
	closed  bool
}

var _ kv.Store = (*Store)(nil)

// Option changes a Store.
type Option func(*Store)

// Rerun makes every update evaluate its function twice and keep only the second evaluation, as a real
// store may; it shows functions with side effects outside the transaction.
func Rerun() Option { return func(s *Store) { s.rerun = true } }

// New returns an empty store.
func New(options ...Option) *Store {
	s := &Store{history: []*tree{newTree()}}
	for _, o := range options {
		o(s)
	}
	return s
}

// current returns the last state, or an error when ctx is over or the store is closed.
func (s *Store) current(ctx context.Context) (*tree, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, kv.ErrClosed
	}
	return s.history[len(s.history)-1], nil
}

// Update implements kv.Store.
func (s *Store) Update(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	now, err := s.current(ctx)
	if err != nil {
		return err
	}
	if s.rerun {
		if _, err := evaluate(now, fn); err != nil {
			return err
		}
	}
	next, err := evaluate(now, fn)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return kv.ErrClosed
	}
	s.history = append(s.history, next)
	if c == kv.Durable {
		s.forget(1)
	}
	s.forget(maxHistory)
	return nil
}

// View implements kv.Store. The three levels are one here: there is a single member, and what is
// sequenced is committed.
func (s *Store) View(ctx context.Context, _ kv.Level, fn func(kv.Reader) error) error {
	now, err := s.current(ctx)
	if err != nil {
		return err
	}
	r := &reader{tree: now}
	defer r.poison()
	return fn(r)
}

// Sync implements kv.Store.
func (s *Store) Sync(ctx context.Context) error {
	if _, err := s.current(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(1)
	return nil
}

// Close implements kv.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return kv.ErrClosed
	}
	s.closed = true
	s.forget(1)
	return nil
}

// forget makes all but the last keep states unreachable: the oldest that is left is the durable one.
func (s *Store) forget(keep int) {
	if n := len(s.history) - keep; n > 0 {
		s.history = append([]*tree(nil), s.history[n:]...)
	}
}

// Unsynced is the number of updates that a crash may lose now.
func (s *Store) Unsynced() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.history) - 1
}

// CrashPrefix returns a new store as it might be found after a power failure at this moment: everything
// durable, and a prefix of the Ordered updates after it whose length rng chooses. This store goes on
// unchanged, so one run can be crashed at many moments.
func (s *Store) CrashPrefix(rng *rand.Rand) *Store {
	return s.Crash(rng.IntN(s.Unsynced() + 1))
}

// Crash is CrashPrefix with a given length: the durable state and the first n updates after it. An n
// past Unsynced keeps everything.
func (s *Store) Crash(n int) *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Store{rerun: s.rerun, history: []*tree{s.history[min(n, len(s.history)-1)]}}
}
