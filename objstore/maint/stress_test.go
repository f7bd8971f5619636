package maint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
)

// TestStress puts, reads and deletes from several goroutines while disks come and go, fail and rot, and
// everything that maintenance does runs beside it. In the end nothing may be lost and nothing left over.
func TestStress(t *testing.T) {
	const seconds = 1500 * time.Millisecond
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := newRigWith(t, 0, 7, p42, p22, p11)
	defer r.close()
	r.m.Start()
	ctx, cancel := context.WithTimeout(context.Background(), seconds)
	defer cancel()
	var wg sync.WaitGroup
	kept := make([]map[string][]byte, 4)
	for w := range kept {
		kept[w] = make(map[string][]byte)
		wg.Go(func() { user(ctx, t, r, w, rand.New(rand.NewPCG(seed, uint64(w))), kept[w]) })
	}
	wg.Go(func() { trouble(ctx, r, rand.New(rand.NewPCG(seed, 99))) })
	for _, fn := range []func() error{
		func() error { return r.m.Repair(ctx) },
		func() error { _, err := r.m.Collect(ctx); return err },
		func() error { return r.m.Scrub(ctx) },
		func() error { return r.m.DeleteObsolete(ctx, r.ns.NSM()) },
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = fn() // it may fail while disks are away; what counts is the end
				time.Sleep(3 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	for i := range r.disks {
		r.disks[i].Set(disktest.Fault{})
		if !r.mgr.Disk(objstore.DiskID(i + 1)).Readable() {
			r.attach(i)
		}
	}
	r.m.Close() // from here on only by hand
	r.m.ctx = context.Background()
	for range 3 {
		r.fatal(r.m.Scrub(ctx0))
		r.fatal(r.m.retry())
		r.fatal(r.m.round())
	}
	r.tidy()
	for _, m := range kept {
		for name, p := range m {
			r.check(name, p)
		}
	}
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p[:min(len(p), 10)])
	}
}

var ctx0 = context.Background()

// user puts, reads back and deletes, and remembers what must be there.
func user(ctx context.Context, t *testing.T, r *rig, w int, rng *rand.Rand, kept map[string][]byte) {
	for i := 0; ctx.Err() == nil; i++ {
		name, p := fmt.Sprintf("%d-%d", w, i), noise(rng.IntN(60_000))
		_, err := r.ns.Put(ctx0, name, p)
		if errors.Is(err, objstore.ErrNoQuorum) {
			continue
		}
		if err != nil {
			t.Errorf("put %s: %v", name, err)
			return
		}
		kept[name] = p
		for old, want := range kept { // any one
			got := make([]byte, len(want))
			if err := r.ns.ReadAt(ctx0, old, 0, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("get %s: %v", old, err)
				return
			}
			if rng.IntN(2) == 0 {
				if err := r.ns.Delete(ctx0, old); err != nil {
					t.Errorf("delete %s: %v", old, err)
					return
				}
				delete(kept, old)
			}
			break
		}
	}
}

// trouble hurts one disk at a time and waits until everything is whole again.
func trouble(ctx context.Context, r *rig, rng *rand.Rand) {
	for ctx.Err() == nil {
		i := rng.IntN(len(r.disks))
		d := r.disks[i]
		switch rng.IntN(4) {
		case 0:
			r.down(i)
			r.m.DisksChanged()
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			r.attach(i)
			r.m.DisksChanged()
		case 1:
			for n, k := range d.Keys() {
				if n%3 == 0 {
					d.Lose(k)
				}
			}
		case 2:
			release := d.Hang()
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			release()
		case 3:
			d.Set(disktest.Fault{WriteErr: errors.New("I/O error"), FailWriteAfter: rng.IntN(5)})
			time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
			d.Set(disktest.Fault{})
			if !r.mgr.Disk(objstore.DiskID(i + 1)).Readable() {
				time.Sleep(time.Millisecond)
				r.attach(i)
			}
		}
		whole(ctx, r)
	}
}

// whole waits until every object has a fragment to spare again, those included that were being written
// when the last harm was done.
func whole(ctx context.Context, r *rig) {
	n := r.ns.NSM()
	e, err := n.Advance(ctx)
	if err != nil || n.Quiesce(ctx, e) != nil {
		return
	}
	for ctx.Err() == nil {
		_ = r.m.Scrub(ctx)
		hurt := 0
		_, err := r.m.Check(ctx, CheckOptions{Full: true}, func(p Problem) {
			if p.Kind == "fragment" || p.Kind == "safety" && p.Severity == Error {
				hurt++
			}
		})
		s, serr := r.m.Safety(ctx)
		if err == nil && serr == nil && hurt == 0 && (len(s) == 0 || s[0].Spare > 0) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
