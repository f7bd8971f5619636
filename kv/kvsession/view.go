package kvsession

import (
	"bytes"
	"context"
	"fmt"

	"github.com/gabionfs/gabion/kv"
)

// view is one consistent picture of the store: what the server had before this session's unacknowledged
// writes, and of these the ones up to a sequence number. It implements kv.Reader.
//
// What the server has moves on while the view is open, but only by this session's own batches, and the
// table keeps what a row was before them for as long as a view may ask (see Session.settleBlind). So the
// view may ask the server at any time.
type view struct {
	s    *Session
	ctx  context.Context
	seq  uint64
	slot int // in Session.views
	// lock is held while the view belongs to a transaction that is being evaluated.
	lock *turn
}

// open makes v a view of everything that is sequenced.
func (v *view) open(s *Session, ctx context.Context) {
	v.s, v.ctx = s, ctx
	s.mu.Lock()
	defer s.mu.Unlock()
	v.seq = s.seq
	v.slot = len(s.views)
	s.views = append(s.views, v)
}

func (v *view) close() {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.views) - 1
	s.views[v.slot] = s.views[last]
	s.views[v.slot].slot = v.slot
	s.views[last] = nil
	s.views = s.views[:last]
	if s.waiting {
		wake(s.kick)
	}
}

// Get implements kv.Reader.
func (v *view) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	if len(key) == 0 || len(key) > kv.MaxKey {
		return nil, kv.ErrNotFound
	}
	for {
		value, known := v.s.table.get(ks, key, v.seq)
		if known {
			if value == nil {
				return nil, kv.ErrNotFound
			}
			return value, nil
		}
		if err := v.fetch(probe{ks: ks, key: string(key), point: true}, 0); err != nil {
			return nil, err
		}
	}
}

// Range implements kv.Reader.
func (v *view) Range(ks kv.Keyspace, r kv.Range, fn func(key, value []byte) bool) error {
	return v.merge(newWalk(ks, r), r.Limit, nil, fn)
}

// Runs of rows that are copied out of the table at once begin small, because most ranges are, and grow.
const (
	firstRun = 16
	lastRun  = 512
)

// merge walks the table and, hiding what it has, a transaction's own writes side by side.
func (v *view) merge(w walk, limit int, own []*write, fn func(key, value []byte) bool) error {
	delivered := 0
	deliver := func(key, value []byte) bool {
		delivered++
		return fn(key, value) && delivered != limit
	}
	size, fetched := firstRun, 0
	if limit > 0 {
		size = min(size, limit)
	}
	var run []row
	for done := w.empty(); !done; {
		var miss *probe
		run, done, miss = v.s.table.scan(run[:0], w, v.seq, size)
		for i := range run {
			key := bytesOf(run[i].key)
			for hidden := false; len(own) > 0 && !hidden; {
				c := bytes.Compare(own[0].key, key)
				if w.reverse {
					c = -c
				}
				if c > 0 {
					break
				}
				o := own[0]
				own = own[1:]
				if hidden = c == 0; hidden {
					key = nil
				}
				if o.value != nil && !deliver(o.key, o.value) {
					return nil
				}
			}
			if key != nil && !deliver(key, run[i].value) {
				return nil
			}
		}
		if len(run) > 0 {
			w.past(run[len(run)-1].key)
			size = min(4*size, lastRun)
		}
		if miss != nil && !w.empty() {
			if err := v.fetch(*miss, fetched); err != nil {
				return err
			}
			fetched++
		}
		done = done || w.empty()
	}
	for _, o := range own {
		if o.value != nil && !deliver(o.key, o.value) {
			return nil
		}
	}
	return nil
}

// fetch asks the server for what a probe is about. A transaction lets others go first meanwhile.
func (v *view) fetch(p probe, before int) error {
	if p.ks.Reserved() || len(p.ks) == 0 || len(p.ks) > kv.MaxKeyspace {
		return v.outside(p.ks)
	}
	if v.lock == nil {
		return v.s.fetch(v.ctx, p, before)
	}
	v.lock.release()
	err := v.s.fetch(v.ctx, p, before)
	v.lock.regain()
	return err
}

// outside answers a read of a keyspace that a session cannot have: nothing is ever in one with a name
// outside the limits.
func (v *view) outside(ks kv.Keyspace) error {
	if ks.Reserved() {
		return &ReservedError{ks}
	}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	v.s.table.mu.Lock()
	defer v.s.table.mu.Unlock()
	v.s.table.fill(&page{ks: ks, end: true}, v.s.sent)
	return nil
}

// ReservedError reports the use of a keyspace that belongs to the machinery of the store.
type ReservedError struct{ Keyspace kv.Keyspace }

func (e *ReservedError) Error() string {
	return fmt.Sprintf("kvsession: keyspace %q is reserved", e.Keyspace)
}

// View implements kv.Store.
//
// A Pending view and a Stale one are of everything that is sequenced, and do not wait for it to become
// durable. Pending and Linearizable views wait while it is not sure that the session still has the store.
func (s *Session) View(ctx context.Context, l kv.Level, fn func(kv.Reader) error) error {
	if l > kv.Stale {
		return fmt.Errorf("kvsession: unknown read level %d", l)
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	if l != kv.Stale {
		if err := s.holds(ctx); err != nil {
			return err
		}
	}
	var v view
	err := v.run(s, ctx, fn)
	if l != kv.Linearizable {
		return err
	}
	// An error of fn rests on what it read too: it is only told when the picture was true.
	if werr := s.waitDurable(ctx, v.seq); werr != nil {
		return werr
	}
	if herr := s.holds(ctx); herr != nil {
		return herr
	}
	return err
}

func (v *view) run(s *Session, ctx context.Context, fn func(kv.Reader) error) error {
	v.open(s, ctx)
	defer v.close()
	return fn(v)
}
