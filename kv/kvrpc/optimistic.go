package kvrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// KV returns the store as a kv.Store whose transactions run here: each reads the remote store, and what it
// has read is asserted when its writes are sent, in one sequence. When an assert does not hold, because
// another client was quicker, the transaction runs again, at most maxAttempts times; then the error
// matches kv.ErrConflict.
//
// That is right for tools and for tests. It costs a round trip per read, and transactions that get in each
// other's way repeat; who has the store for itself is better served by package kvsession.
//
// Views run again likewise, unless everything they have read came in one answer. A Stale view is answered
// like a Linearizable one. Close does not close the client.
func (s *Store) KV() kv.Store {
	o := &optimistic{store: s}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o
}

const (
	maxAttempts = 100
	// pageAhead is how many bytes the transactions of an optimistic store read at once.
	pageAhead = 256 << 10
)

// optimistic is the kv.Store that KV returns.
type optimistic struct {
	store  *Store
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

var _ kv.Store = (*optimistic)(nil)

// enter begins a call: the context it runs with ends with the store too.
func (o *optimistic) enter(ctx context.Context) (context.Context, func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, nil, kv.ErrClosed
	}
	o.calls.Add(1)
	joined, cancel := joinContext(ctx, o.ctx)
	return joined, func() { cancel(); o.calls.Done() }, nil
}

// ended replaces the error of a call that Close has cut off.
func (o *optimistic) ended(ctx context.Context, err error) error {
	if err == nil || o.ctx.Err() == nil || ctx.Err() != nil || !errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, kv.ErrUnknownOutcome) {
		return fmt.Errorf("%w: %w", kv.ErrUnknownOutcome, kv.ErrClosed)
	}
	return kv.ErrClosed
}

// Update implements kv.Store.
func (o *optimistic) Update(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) error {
	inner, leave, err := o.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return o.ended(ctx, o.attempts(inner, func() error {
		t := &optimisticTxn{remote: remote{ctx: inner, store: o.store}}
		ferr := fn(t)
		if t.failed != nil { // fn has not seen the store as it is
			return t.failed
		}
		if ferr == nil {
			ferr = t.err
		}
		if ferr == nil {
			ferr = kv.CheckBatch(t.size)
		}
		if ferr != nil { // it rests on what was read too
			return t.settle(ferr)
		}
		steps := append(t.asserts(), t.steps()...)
		if len(steps) == 0 {
			return nil
		}
		_, err := o.store.Apply(inner, c, steps)
		err = assertion(err)
		if err == nil && len(t.writes) == 0 && c == kv.Durable {
			err = o.store.Sync(inner)
		}
		return err
	}))
}

// View implements kv.Store.
func (o *optimistic) View(ctx context.Context, l kv.Level, fn func(kv.Reader) error) error {
	inner, leave, err := o.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return o.ended(ctx, o.attempts(inner, func() error {
		r := &remote{ctx: inner, store: o.store}
		if l == kv.Pending {
			r.level = kv.Pending
		}
		ferr := fn(r)
		if r.failed != nil {
			return r.failed
		}
		return r.settle(ferr)
	}))
}

// attempts runs a transaction until nobody gets in its way.
func (o *optimistic) attempts(ctx context.Context, run func() error) error {
	for try := 1; ; try++ {
		err := run()
		var again *overtaken
		if !errors.As(err, &again) {
			return err
		}
		if try == maxAttempts {
			return fmt.Errorf("%w: other clients were quicker, %d times", kv.ErrConflict, try)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		o.store.pause(ctx, min(try, 5)-1)
	}
}

// overtaken says that what was read has changed.
type overtaken struct{ error }

// assertion marks the failed assert of a sequence that was made of a transaction.
func assertion(err error) error {
	if errors.Is(err, kv.ErrConflict) {
		return &overtaken{err}
	}
	return err
}

// Sync implements kv.Store.
func (o *optimistic) Sync(ctx context.Context) error {
	inner, leave, err := o.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return o.ended(ctx, o.store.Sync(inner))
}

// Close implements kv.Store. It waits for calls that are under way for a moment, then cuts them off.
func (o *optimistic) Close() error {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return kv.ErrClosed
	}
	o.closed = true
	o.mu.Unlock()
	idle := make(chan struct{})
	go func() { o.calls.Wait(); close(idle) }()
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
	err := o.store.Sync(context.Background())
	o.cancel()
	<-idle
	return err
}

// remote is a kv.Reader over the remote store that remembers everything it has shown: what was read once
// does not change.
type remote struct {
	ctx    context.Context
	store  *Store
	level  kv.Level
	values map[rowKey]Value
	ranges []readRange
	trips  int   // answers that were read from
	failed error // of a read; whatever fn made of it does not count
}

// rowKey is a Key that can be compared.
type rowKey struct {
	ks  kv.Keyspace
	key string
}

// readRange is an interval of a keyspace that was read whole, ascending.
type readRange struct {
	ks      kv.Keyspace
	r       kv.Range // From and To only
	entries []Entry
}

func (r *remote) fail(err error) error {
	if r.failed == nil {
		r.failed = err
	}
	return err
}

// Get implements kv.Reader.
func (r *remote) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	if kv.CheckKey(ks, key) != nil { // it cannot exist
		return nil, kv.ErrNotFound
	}
	k := rowKey{ks, string(key)}
	v, ok := r.values[k]
	if !ok {
		if v, ok = r.known(ks, key); !ok {
			var one [1]Value
			if err := r.store.get(r.ctx, []Key{{ks, key}}, ReadOptions{Level: r.level}, false, one[:]); err != nil {
				return nil, r.fail(err)
			}
			v = one[0]
			r.trips++
			if r.values == nil {
				r.values = map[rowKey]Value{}
			}
			r.values[k] = v
		}
	}
	if !v.Found {
		return nil, kv.ErrNotFound
	}
	return v.Value, nil
}

// known looks for a key in the ranges that were read.
func (r *remote) known(ks kv.Keyspace, key []byte) (Value, bool) {
	for i := range r.ranges {
		if g := &r.ranges[i]; g.ks == ks && within(g.r, key) {
			at, found := slices.BinarySearchFunc(g.entries, key, func(e Entry, key []byte) int { return bytes.Compare(e.Key, key) })
			if found {
				return Value{true, g.entries[at].Value}, true
			}
			return Value{}, true
		}
	}
	return Value{}, false
}

func within(r kv.Range, key []byte) bool {
	return bytes.Compare(key, r.From) >= 0 && (r.To == nil || bytes.Compare(key, r.To) < 0)
}

// Range implements kv.Reader.
func (r *remote) Range(ks kv.Keyspace, rng kv.Range, fn func(key, value []byte) bool) error {
	return r.scan(ks, rng, func(e Entry) bool { return fn(e.Key, e.Value) })
}

// scan reads a range page by page. What has been read before is shown as it was.
func (r *remote) scan(ks kv.Keyspace, rng kv.Range, fn func(Entry) bool) error {
	if len(ks) < 1 || len(ks) > kv.MaxKeyspace {
		return nil
	}
	delivered := 0
	for {
		entries, rest, more, err := r.page(ks, rng)
		if err != nil {
			return r.fail(err)
		}
		for _, e := range entries {
			if v, ok := r.values[rowKey{ks, string(e.Key)}]; ok && (!v.Found || !bytes.Equal(v.Value, e.Value)) {
				return r.fail(&overtaken{errors.New("kvrpc: the key has changed meanwhile")})
			}
			if delivered++; !fn(e) || delivered == rng.Limit {
				return nil
			}
		}
		if !more {
			return nil
		}
		limit := rng.Limit
		rng = rest
		rng.Limit = limit
	}
}

// page returns the next entries of rng and what is left of it, from what was read already or from the
// store.
func (r *remote) page(ks kv.Keyspace, rng kv.Range) (entries []Entry, rest kv.Range, more bool, err error) {
	if rng.To != nil && bytes.Compare(rng.From, rng.To) >= 0 {
		return nil, rng, false, nil
	}
	for i := range r.ranges {
		g := &r.ranges[i]
		if g.ks != ks {
			continue
		}
		if !rng.Reverse && within(g.r, rng.From) {
			if g.r.To == nil || rng.To != nil && bytes.Compare(rng.To, g.r.To) <= 0 {
				return cut(g.entries, rng), rng, false, nil
			}
			rest = kv.Range{From: g.r.To, To: rng.To}
			return cut(g.entries, kv.Range{From: rng.From, To: g.r.To}), rest, true, nil
		}
		if rng.Reverse && reaches(g.r, rng.To) {
			if bytes.Compare(g.r.From, rng.From) <= 0 {
				return reversed(cut(g.entries, rng)), rng, false, nil
			}
			rest = kv.Range{From: rng.From, To: g.r.From, Reverse: true}
			return reversed(cut(g.entries, kv.Range{From: g.r.From, To: rng.To})), rest, true, nil
		}
	}
	p, err := r.store.Range(r.ctx, ks, rng, RangeOptions{ReadOptions: ReadOptions{Level: r.level}, MaxBytes: pageAhead})
	if err != nil {
		return nil, rng, false, err
	}
	r.trips++
	read := readRange{ks: ks, r: kv.Range{From: rng.From, To: rng.To}}
	rest = p.Next(rng)
	if p.More && rng.Reverse {
		read.r.From = rest.To
	} else if p.More {
		read.r.To = rest.From
	}
	if read.entries = p.Entries; rng.Reverse {
		read.entries = reversed(p.Entries)
	}
	r.ranges = append(r.ranges, read)
	return p.Entries, rest, p.More, nil
}

// reaches says whether the keys just below to are in r; a nil to is the end of the keyspace.
func reaches(r kv.Range, to []byte) bool {
	if to == nil {
		return r.To == nil
	}
	return bytes.Compare(to, r.From) > 0 && (r.To == nil || bytes.Compare(to, r.To) <= 0)
}

// cut returns the entries that are in r.
func cut(entries []Entry, r kv.Range) []Entry {
	at := func(bound []byte) int {
		i, _ := slices.BinarySearchFunc(entries, bound, func(e Entry, key []byte) int { return bytes.Compare(e.Key, key) })
		return i
	}
	lo, hi := at(r.From), len(entries)
	if r.To != nil {
		hi = at(r.To)
	}
	return entries[lo:max(lo, hi)]
}

func reversed(entries []Entry) []Entry {
	out := slices.Clone(entries)
	slices.Reverse(out)
	return out
}

// asserts are the steps that hold as long as everything that was read is still so.
func (r *remote) asserts() (steps []kv.Step) {
	for k, v := range r.values {
		st := kv.Step{Op: kv.OpAssert, Keyspace: k.ks, Key: []byte(k.key), Value: v.Value}
		if !v.Found {
			st.Op = kv.OpAssertAbsent
		}
		steps = append(steps, st)
	}
	for _, g := range r.ranges {
		d := kv.NewDigest()
		for _, e := range g.entries {
			d.Add(e.Key, e.Value)
		}
		steps = append(steps, kv.Step{Op: kv.OpAssertRange, Keyspace: g.ks, Key: g.r.From, To: g.r.To, Digest: d.Sum()})
	}
	return steps
}

// settle returns err when what was read belongs together.
func (r *remote) settle(err error) error {
	if r.trips < 2 && r.level != kv.Pending {
		return err
	}
	steps := r.asserts()
	if len(steps) == 0 {
		return err
	}
	if _, aerr := r.store.Apply(r.ctx, kv.Ordered, steps); aerr != nil {
		return assertion(aerr)
	}
	return err
}
