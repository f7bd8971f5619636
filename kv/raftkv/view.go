package raftkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unsafe"

	"github.com/gabionfs/gabion/kv"
)

func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// view is one consistent picture of the store: the state file as of a generation, and the memtables up
// to a sequence number. It implements kv.Reader.
type view struct {
	store    *Store
	gen      *generation
	active   *memtable
	flushing *memtable // or nil
	seq      uint64
	epoch    *epoch // the leadership under which it was opened, or nil
	index    uint64 // everything up to this log entry is in it
	slot     int    // in store.views
}

// open makes v a view of what is sequenced, or only of what is committed.
func (v *view) open(s *Store, committed bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.gen == nil {
		if s.failed.Load() != nil {
			return s.closedError()
		}
		s.genReady.Wait()
	}
	v.attach(s, committed)
	return nil
}

// attach is open where there is a generation. The caller holds mu.
func (v *view) attach(s *Store, committed bool) {
	v.store = s
	s.gen.views++
	v.gen, v.active, v.flushing, v.epoch = s.gen, s.active, s.flushingTable(), s.epoch
	v.seq, v.index = s.seq, s.applied.applied
	if committed {
		v.seq = s.committed
	}
	v.slot = len(s.views)
	s.views = append(s.views, v)
}

func (v *view) close() {
	s := v.store
	s.mu.Lock()
	last := len(s.views) - 1
	s.views[v.slot] = s.views[last]
	s.views[v.slot].slot = v.slot
	s.views[last] = nil
	s.views = s.views[:last]
	unpin := v.gen.leave()
	s.mu.Unlock()
	if unpin {
		v.gen.unpin()
	}
}

// Get implements kv.Reader.
func (v *view) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	ver := v.active.get(ks, key, v.seq)
	if ver == nil && v.flushing != nil {
		ver = v.flushing.get(ks, key, v.seq)
	}
	if ver == nil {
		return v.baseGet(ks, key)
	}
	if ver.sealed == nil {
		return nil, kv.ErrNotFound
	}
	n := len(ver.sealed) - sealSize
	return ver.sealed[:n:n], nil
}

func (v *view) baseGet(ks kv.Keyspace, key []byte) ([]byte, error) {
	var name [1 + kv.MaxKeyspace]byte
	var sealed []byte
	var err error
	if len(key) > maxPlain {
		sealed, err = v.gen.getLong(ks, key)
	} else {
		sealed, err = v.gen.get(appendBucketName(name[:0], ks), key)
	}
	if err != nil {
		return nil, err
	}
	if sealed == nil {
		return nil, kv.ErrNotFound
	}
	return v.verify(ks, key, sealed)
}

func (v *view) verify(ks kv.Keyspace, key, sealed []byte) ([]byte, error) {
	value, err := unseal(ks, key, sealed)
	if err != nil {
		return nil, &kv.CorruptError{What: v.gen.base.path, Err: err}
	}
	return value, nil
}

// Range implements kv.Reader.
func (v *view) Range(ks kv.Keyspace, r kv.Range, fn func(key, value []byte) bool) error {
	return v.merge(ks, r, nil, fn)
}

// keyspaces returns the keyspaces that may have keys in the view, in order.
func (v *view) keyspaces() []kv.Keyspace {
	names := map[kv.Keyspace]bool{}
	for name := range v.gen.tree.buckets {
		if name[0] == 'k' || name[0] == 'l' {
			names[kv.Keyspace(name[1:])] = true
		}
	}
	for _, m := range []*memtable{v.active, v.flushing} {
		if m != nil {
			m.names(names)
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// each calls fn with everything in the view, in order, until ctx is over, the store stops or fn returns
// an error.
func (v *view) each(ctx context.Context, fn func(ks kv.Keyspace, key, value []byte) error) error {
	for _, ks := range v.keyspaces() {
		var cause error
		err := v.Range(ks, kv.Range{}, func(key, value []byte) bool {
			if cause = ctx.Err(); cause == nil {
				cause = fn(ks, key, value)
			}
			if v.store.closing.Load() || v.store.failed.Load() != nil {
				cause = v.store.closedError()
			}
			return cause == nil
		})
		if err := errors.Join(err, cause); err != nil {
			return err
		}
	}
	return nil
}

// merge walks the layers side by side, newest first: own writes, active, flushing, base. A key is taken
// from the first layer that has it.
func (v *view) merge(ks kv.Keyspace, r kv.Range, own []*write, fn func(key, value []byte) bool) error {
	if r.To != nil && bytes.Compare(r.From, r.To) >= 0 {
		return nil
	}
	var layers [5]cursor
	n := 0
	if len(own) > 0 {
		layers[n] = newOwnCursor(own, r)
		n++
	}
	for _, m := range []*memtable{v.active, v.flushing} {
		if m != nil && !m.empty(ks) {
			layers[n] = newMemCursor(m, ks, v.seq, r)
			n++
		}
	}
	base, err := v.baseCursor(ks, r)
	if err != nil {
		return err
	}
	if base != nil {
		layers[n] = base
		n++
	}
	long, err := v.longCursor(ks, r)
	if err != nil {
		return err
	}
	if long != nil {
		layers[n] = long
		n++
	}
	return mergeLayers(layers[:n], ks, r, fn)
}

func mergeLayers(layers []cursor, ks kv.Keyspace, r kv.Range, fn func(key, value []byte) bool) error {
	for delivered := 0; ; {
		first := -1
		var head entry
		for i, l := range layers {
			e, ok := l.peek()
			if !ok {
				continue
			}
			if first >= 0 {
				c := bytes.Compare(e.key, head.key)
				if c == 0 {
					l.next() // hidden by a newer layer
					if err := l.err(); err != nil {
						return err
					}
					continue
				}
				if r.Reverse == (c < 0) {
					continue
				}
			}
			// A layer before this one that shows the same key was seen first and hides it; one that
			// shows a later key stays where it is.
			first, head = i, e
		}
		if first < 0 {
			return nil
		}
		if !inside(&r, head.key) {
			return nil
		}
		if !head.deleted {
			value, err := layers[first].value(ks)
			if err != nil {
				return err
			}
			if delivered++; !fn(head.key, value) || delivered == r.Limit {
				return nil
			}
		}
		layers[first].next()
		if err := layers[first].err(); err != nil {
			return err
		}
	}
}

// View implements kv.Store.
func (s *Store) View(ctx context.Context, l kv.Level, fn func(kv.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	var v view
	return s.view(ctx, &v, l, fn)
}

// view evaluates fn over v, which it opens and closes.
func (s *Store) view(ctx context.Context, v *view, l kv.Level, fn func(kv.Reader) error) error {
	switch l {
	case kv.Stale:
		return v.run(s, true, fn)
	case kv.Pending:
		if err := v.run(s, false, fn); err != nil {
			return err
		}
		return s.stillLeads(v)
	case kv.Linearizable:
		return s.linearizable(ctx, v, fn)
	}
	return fmt.Errorf("raftkv: unknown read level %d", l)
}

// run opens the view, evaluates fn and closes it.
func (v *view) run(s *Store, committed bool, fn func(kv.Reader) error) error {
	if err := v.open(s, committed); err != nil {
		return err
	}
	defer v.close()
	if !committed && v.epoch == nil {
		return s.notLeader()
	}
	return fn(v)
}

// stillLeads returns an error when the leadership that the view was opened under is over: what it
// showed may have been discarded meanwhile.
func (s *Store) stillLeads(v *view) error {
	if v.epoch.over.Load() {
		return s.notLeader()
	}
	return nil
}

// linearizable evaluates fn, then waits until what it showed is committed and a leadership that was
// verified after the view began still stands.
func (s *Store) linearizable(ctx context.Context, v *view, fn func(kv.Reader) error) error {
	var verified func(context.Context) error
	err := v.run(s, false, func(r kv.Reader) error {
		verified = s.verifyLeader(v.epoch)
		return fn(r)
	})
	if v.epoch == nil {
		return err
	}
	// An error of fn rests on what it read too: it is only told when the picture was true.
	if werr := s.waitCommitted(ctx, v.epoch, v.seq); werr != nil {
		return werr
	}
	if verr := verified(ctx); verr != nil {
		return verr
	}
	return err
}

// Verify reads the whole state file and compares every page and every value with its checksum. It
// returns how many bytes of keys and values it has read; damage is a *kv.CorruptError.
func (s *Store) Verify(ctx context.Context) (int64, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	var v view
	if err := v.open(s, true); err != nil {
		return 0, err
	}
	defer v.close()
	return v.gen.verify(ctx)
}
