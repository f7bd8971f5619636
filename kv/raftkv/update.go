package raftkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gabionfs/gabion/kv"
)

// txn is a transaction under evaluation: a view of everything sequenced before it, and its own writes.
type txn struct {
	view
	writes []write // one per key, in the order of the first write
	index  map[writeKey]int
	sorted map[kv.Keyspace][]*write // built by the first Range over a keyspace, dropped by a write
	size   int                      // bytes of keys and values; what the machinery adds for itself is not counted
	err    error                    // the first limit that was exceeded
	few    [fewWrites]write         // where writes begins
}

type write struct {
	ks         kv.Keyspace
	key, value []byte
	deleted    bool
}

type writeKey struct {
	ks  kv.Keyspace
	key string
}

// fewWrites is how many writes are searched one by one before an index is made.
const fewWrites = 8

func (t *txn) find(ks kv.Keyspace, key []byte) *write {
	if t.index != nil {
		if i, ok := t.index[writeKey{ks, str(key)}]; ok {
			return &t.writes[i]
		}
		return nil
	}
	for i := range t.writes {
		if w := &t.writes[i]; w.ks == ks && bytes.Equal(w.key, key) {
			return w
		}
	}
	return nil
}

func (t *txn) set(ks kv.Keyspace, key, value []byte, deleted bool) {
	t.sorted = nil // it points into writes
	counted := 1
	if ks.Reserved() {
		counted = 0
	}
	if w := t.find(ks, key); w != nil {
		t.size += counted * (len(value) - len(w.value))
		w.value, w.deleted = value, deleted
		return
	}
	t.size += counted * (len(key) + len(value))
	t.writes = append(t.writes, write{ks, key, value, deleted})
	if n := len(t.writes); t.index != nil {
		t.index[writeKey{ks, str(key)}] = n - 1
	} else if n > fewWrites {
		t.index = make(map[writeKey]int, 4*fewWrites)
		for i := range t.writes {
			t.index[writeKey{t.writes[i].ks, str(t.writes[i].key)}] = i
		}
	}
}

// Put implements kv.Txn.
func (t *txn) Put(ks kv.Keyspace, key, value []byte) {
	if err := kv.CheckPut(ks, key, value); err != nil {
		t.refuse(err)
		return
	}
	t.set(ks, key, value, false)
}

// Delete implements kv.Txn.
func (t *txn) Delete(ks kv.Keyspace, key []byte) {
	if err := kv.CheckKey(ks, key); err != nil {
		t.refuse(err)
		return
	}
	t.set(ks, key, nil, true)
}

func (t *txn) refuse(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Get implements kv.Reader.
func (t *txn) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	if len(t.writes) > 0 {
		if w := t.find(ks, key); w != nil {
			if w.deleted {
				return nil, kv.ErrNotFound
			}
			return w.value, nil
		}
	}
	return t.view.Get(ks, key)
}

// Range implements kv.Reader.
func (t *txn) Range(ks kv.Keyspace, r kv.Range, fn func(key, value []byte) bool) error {
	return t.merge(ks, r, t.own(ks), fn)
}

// own returns the transaction's writes to a keyspace, sorted.
func (t *txn) own(ks kv.Keyspace) []*write {
	if len(t.writes) == 0 {
		return nil
	}
	if own, ok := t.sorted[ks]; ok {
		return own
	}
	var own []*write
	for i := range t.writes {
		if w := &t.writes[i]; w.ks == ks {
			own = append(own, w)
		}
	}
	slices.SortFunc(own, func(a, b *write) int { return strings.Compare(str(a.key), str(b.key)) })
	if t.sorted == nil {
		t.sorted = map[kv.Keyspace][]*write{}
	}
	t.sorted[ks] = own
	return own
}

// Update implements kv.Store.
func (s *Store) Update(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) error {
	_, err := s.UpdateAt(ctx, c, fn)
	return err
}

// evaluate runs fn as the only transaction and sequences what it wrote.
func (s *Store) evaluate(c kv.Commit, fn func(kv.Txn) error) (*epoch, *batch, uint64, error) {
	s.seqMu.Lock()
	defer s.seqMu.Unlock()
	if s.closing.Load() { // Close has waited for everything that was sequenced
		return nil, nil, 0, s.closedError()
	}
	t := new(txn)
	t.writes = t.few[:0]
	if err := t.open(s, false); err != nil {
		return nil, nil, 0, err
	}
	defer t.close()
	if t.epoch == nil {
		return nil, nil, 0, s.notLeader()
	}
	if err := fn(t); err != nil {
		return nil, nil, 0, err
	}
	if t.err != nil {
		return nil, nil, 0, t.err
	}
	if err := kv.CheckBatch(t.size); err != nil {
		return nil, nil, 0, err
	}
	if len(t.writes) == 0 {
		return t.epoch, nil, t.seq, nil
	}
	b, err := s.sequence(t, c)
	return t.epoch, b, 0, err
}

// waitBatch waits until the batch is committed.
func (s *Store) waitBatch(ctx context.Context, b *batch) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return errors.Join(kv.ErrUnknownOutcome, s.explain(ctx.Err()))
	}
}

// waitCommitted waits until everything up to seq is committed, and hurries it.
func (s *Store) waitCommitted(ctx context.Context, e *epoch, seq uint64) error {
	s.mu.Lock()
	if e.committed >= seq {
		s.mu.Unlock()
		return nil
	}
	if e.over.Load() {
		s.mu.Unlock()
		return errors.Join(kv.ErrUnknownOutcome, e.cause)
	}
	b := e.covering(seq)
	b.wanted = true
	s.mu.Unlock()
	s.wake()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return s.explain(ctx.Err())
	}
}

// Epoch identifies the leadership under which this member evaluates transactions now; 0 when it does
// not lead. Ordered updates of one epoch are lost, if at all, only together with the epoch.
func (s *Store) Epoch() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == nil {
		return 0
	}
	return s.epoch.id
}

// SyncSince is Sync for one of several sessions that share this member: epoch is what Epoch returned
// before the session's first Ordered update. It returns an error that matches kv.ErrUnknownOutcome when
// that leadership is over, because some of those updates may be lost.
func (s *Store) SyncSince(ctx context.Context, epoch uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	e, seq := s.epoch, s.seq
	s.mu.Unlock()
	if e == nil || e.id != epoch {
		return fmt.Errorf("%w: the leadership that acknowledged it is over", kv.ErrUnknownOutcome)
	}
	return s.waitCommitted(ctx, e, seq)
}

// Sync implements kv.Store. After this member lost its leadership together with Ordered updates that it
// had acknowledged, the next Sync returns an error that matches kv.ErrUnknownOutcome.
func (s *Store) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	e, seq, lost := s.epoch, s.seq, s.lost
	s.lost = false
	s.mu.Unlock()
	if lost {
		return fmt.Errorf("%w: ordered updates were cut off when this member lost its leadership", kv.ErrUnknownOutcome)
	}
	if e == nil {
		return s.notLeader()
	}
	return s.waitCommitted(ctx, e, seq)
}
