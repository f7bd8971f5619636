package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// TestTwoDisksHangForEver: a put that cannot reach its quorum is done by the next policy.
func TestTwoDisksHangForEver(t *testing.T) {
	r := newRig(t, 6, preset(objstore.CompressNone, 0, p42, objstore.Policy{K: 2, M: 2, C: 3, X: 4}), Options{WriteTimeout: 500 * time.Millisecond})
	for _, d := range r.disks[:2] {
		defer d.Hang()()
	}
	for i := range 6 {
		name := fmt.Sprint(i)
		r.put(name, noise(5000))
		if m, _ := r.ns.nsm.Fetch(context.Background(), name); m.Chunks[0].K != 2 {
			t.Fatalf("%+v", m)
		}
		r.check(name, noise(5000))
	}
	r.recount()
}

// cutOff is a store whose updates happen and are reported as unknown.
type cutOff struct {
	kv.Store
	on atomic.Bool
}

func (s *cutOff) Update(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) error {
	err := s.Store.Update(ctx, c, fn)
	if err == nil && s.on.Load() {
		err = kv.ErrUnknownOutcome
	}
	return err
}

// TestUnknownOutcomeDeletesNothing: the manifest may be there, and then its fragments must.
func TestUnknownOutcomeDeletesNothing(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, preset(objstore.CompressNone, 0, p42), Options{})
	store := &cutOff{Store: r.store}
	n := nsm.Open(store, nsm.Options{Name: "test", Number: 1, Policies: r.ns.Preset().Policies, Disks: r.mgr})
	ns := r.c.Namespace(n, r.ns.Preset())
	if _, err := ns.Put(ctx, "first", noise(100)); err != nil { // fetches the ids
		t.Fatal(err)
	}
	store.on.Store(true)
	if _, err := ns.Put(ctx, "x", noise(5000)); !errors.Is(err, kv.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	store.on.Store(false)
	if queue, err := n.Obsoletes(ctx, 0, 10); err != nil || len(queue) > 0 {
		t.Fatalf("fragments of an object that may exist are to be deleted: %v, %v", queue, err)
	}
	r.check("x", noise(5000))
}
