package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
)

func TestLateFragmentIsConfirmedLater(t *testing.T) {
	r := newRig(t, 6, preset(objstore.CompressNone, 0, p42), Options{})
	release := r.disks[4].Hang()
	p := noise(300_000)
	r.put("x", p)
	m, _ := r.ns.nsm.Fetch(context.Background(), "x")
	if m.Complete() || m.Chunks[0].Present() != 5 || r.seen.degraded["x"] != 0 {
		t.Fatalf("%+v", m)
	}
	release()
	r.waitFor(func() bool {
		m, err := r.ns.nsm.Fetch(context.Background(), "x")
		return err == nil && m.Complete()
	})
	r.recount()
	// The same when it fails in the end.
	release = r.disks[4].Hang()
	r.put("y", p)
	r.disks[4].Set(disktest.Fault{WriteErr: errors.New("sorry")})
	release()
	r.waitFor(func() bool {
		m, err := r.ns.nsm.Fetch(context.Background(), "y")
		i := r.ns.has(t, "y", 5)
		return err == nil && i < 0 && m.Chunks[0].Present() == 5
	})
	r.waitFor(func() bool {
		r.seen.mu.Lock()
		defer r.seen.mu.Unlock()
		return r.seen.degraded["y"] == 1
	})
	r.recount()
}

// TestDeletedWhileLate: the fragment that lands after the deletion is queued again.
func TestDeletedWhileLate(t *testing.T) {
	r := newRig(t, 6, preset(objstore.CompressNone, 0, p42), Options{})
	ctx := context.Background()
	release := r.disks[0].Hang()
	r.put("x", noise(1000))
	if err := r.ns.Delete(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	queue, err := r.ns.nsm.Obsoletes(ctx, 0, 10)
	if err != nil || len(queue) != 1 || len(queue[0].At) != 6 {
		t.Fatal(queue, err)
	}
	if err := r.ns.nsm.Settle(ctx, queue, nil); err != nil {
		t.Fatal(err)
	}
	release()
	r.waitFor(func() bool {
		queue, err := r.ns.nsm.Obsoletes(ctx, 0, 10)
		return err == nil && len(queue) == 1 && len(queue[0].At) == 1 && queue[0].At[0].Disk == 1
	})
}

func TestDiskFailsWhileWriting(t *testing.T) {
	policies := []objstore.Policy{p42, {K: 2, M: 2, C: 3, X: 4}, {K: 1, M: 1, C: 2, X: 2}}
	broken := disktest.Fault{WriteErr: errors.New("I/O error")}
	for fail, want := range map[int]string{1: "(4,2) 5", 2: "(2,2) 4", 3: "(2,2) 3", 4: "(1,1) 2"} {
		r := newRig(t, 6, preset(objstore.CompressNone, 64<<10, policies...), patient)
		for _, d := range r.disks[:fail] {
			d.Set(broken)
		}
		p := noise(600_000) // three chunks at (4,2), more when coded again
		r.put("x", p)
		m, _ := r.ns.nsm.Fetch(context.Background(), "x")
		for i := range m.Chunks {
			c := &m.Chunks[i]
			if got := fmt.Sprintf("(%d,%d) %d", c.K, c.M, c.Present()); got != want {
				t.Errorf("%d disks fail: chunk %d is written as %s, want %s", fail, i, got, want)
			}
			if c.FragmentLen() > 64<<10 {
				t.Errorf("fragment of %d bytes", c.FragmentLen())
			}
		}
		r.check("x", p)
		r.recount()
		if _, err := r.ns.PutFrom(context.Background(), "y", io.MultiReader(bytes.NewReader(p)), int64(len(p))); err != nil {
			t.Fatal(err)
		}
		r.check("y", p)
	}
	r := newRig(t, 6, preset(objstore.CompressNone, 64<<10, policies...), Options{})
	for _, d := range r.disks[:5] {
		d.Set(broken)
	}
	if _, err := r.ns.Put(context.Background(), "x", noise(1000)); !errors.Is(err, objstore.ErrNoQuorum) {
		t.Fatal(err)
	}
	if _, err := r.ns.Stat(context.Background(), "x"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestSpareDiskTakesOver(t *testing.T) {
	r := newRig(t, 8, preset(objstore.CompressNone, 0, p42), patient)
	r.disks[1].Set(disktest.Fault{WriteErr: errors.New("I/O error")})
	r.disks[2].Set(disktest.Fault{WriteErr: errors.New("I/O error")})
	for i := range 20 {
		name := fmt.Sprint(i)
		r.put(name, noise(10000+i))
		if m, _ := r.ns.nsm.Fetch(context.Background(), name); !m.Complete() {
			t.Fatalf("object %d is degraded although there are spare disks", i)
		}
	}
	if d := r.mgr.Disk(2); d.Writable() {
		t.Fatal("a disk that fails all the time is still in use")
	}
}

func TestFull(t *testing.T) {
	r := newRig(t, 6, preset(objstore.CompressNone, 0, p42, objstore.Policy{K: 1, M: 0, C: 1, X: 1}), Options{})
	for _, d := range r.disks {
		d.Resize(100 << 10)
	}
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = r.ns.Put(context.Background(), fmt.Sprint(i), noise(50_000))
	}
	if !errors.Is(err, objstore.ErrFull) {
		t.Fatal(err)
	}
	if err := r.ns.Delete(context.Background(), "0"); err != nil {
		t.Fatal(err)
	}
	r.recount()
}
