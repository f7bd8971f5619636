package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// TestIndices: what was written, or seen, at an index is seen by every member that has applied it.
func TestIndices(t *testing.T) {
	ctx := withPatience(t)
	c := startCluster(t, 3)
	for i := range 30 {
		key := []byte(fmt.Sprint("k", i))
		var index uint64
		wait(t, "for an update", func() (ok bool) {
			var err error
			index, err = c.must().UpdateAt(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("a", key, key); return nil })
			if err != nil && !isUnavailable(err) {
				t.Fatal(err)
			}
			return err == nil
		})
		if index == 0 {
			t.Fatal("an update has no index")
		}
		seen, err := c.must().ViewAt(ctx, kv.Linearizable, func(r kv.Reader, at uint64) error {
			if _, err := r.Get("a", key); err != nil {
				return err
			}
			if at == 0 {
				return errors.New("the view has no index")
			}
			return nil
		})
		if isUnavailable(err) {
			continue
		}
		if err != nil || seen < index {
			t.Errorf("a view at %d of what was written at %d: %v", seen, index, err)
		}
		read, err := c.must().UpdateAt(ctx, kv.Durable, func(tx kv.Txn) error { _, err := tx.Get("a", key); return err })
		if err != nil && !isUnavailable(err) || err == nil && read < index {
			t.Errorf("an update at %d that only read what was written at %d: %v", read, index, err)
		}
		for n, m := range c.members {
			if err := m.WaitApplied(ctx, seen); err != nil {
				t.Fatal(err)
			}
			at, err := m.ViewAt(ctx, kv.Stale, func(r kv.Reader, _ uint64) error { _, err := r.Get("a", key); return err })
			if err != nil || at < seen || m.AppliedIndex() < at {
				t.Errorf("member %d at %d, waited for %d: %v", n, at, seen, err)
			}
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := c.must().WaitApplied(gone, 1<<40); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for an index without a context: %v", err)
	}
	wait(t, "for all to be fresh", func() bool {
		for _, m := range c.members {
			if m.Age() == raftkv.Unknown {
				return false
			}
		}
		return true
	})
}

// TestIndicesAlone: the same of a member without a network.
func TestIndicesAlone(t *testing.T) {
	ctx := withPatience(t)
	s := open(t, raftkv.Options{Dir: memDir(t)})
	index, err := s.UpdateAt(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("a", []byte("k"), nil); return nil })
	if err != nil || s.AppliedIndex() != index || s.Age() != 0 {
		t.Errorf("written at %d, %v; applied %d, age %v", index, err, s.AppliedIndex(), s.Age())
	}
	if at, err := s.UpdateAt(ctx, kv.Ordered, func(tx kv.Txn) error { tx.Put("a", []byte("k"), nil); return nil }); err != nil || at != 0 {
		t.Errorf("an ordered update at %d, %v", at, err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- s.WaitApplied(ctx, 1<<40) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, kv.ErrClosed) {
		t.Errorf("waiting in a store that is closed: %v", err)
	}
}
