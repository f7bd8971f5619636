package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/manager"
)

// counted counts the reads of a disk, which may be of another machine.
type counted struct {
	*disktest.Disk
	reads *atomic.Int64
}

func (d counted) ReadFragment(ctx context.Context, k objstore.FragmentKey, off int64, p []byte) error {
	d.reads.Add(1)
	return d.Disk.ReadFragment(ctx, k, off, p)
}

type far struct{ counted }

func (far) Node() string { return "there" }

// distantRig has disks of which all but the last near are of another machine.
func distantRig(t *testing.T, disks, near int, p objstore.Policy) (*rig, []*atomic.Int64) {
	var reads []*atomic.Int64
	return newRigOf(t, disks, preset(objstore.CompressNone, 0, p), patient, func(d *disktest.Disk) objstore.Disk {
		reads = append(reads, new(atomic.Int64))
		c := counted{d, reads[len(reads)-1]}
		if len(reads) <= disks-near {
			return far{c}
		}
		return c
	}), reads
}

// TestNearestReplica: of several replicas the one on this machine is read, of equals the one on a fast disk.
func TestNearestReplica(t *testing.T) {
	r, reads := distantRig(t, 3, 1, objstore.Policy{K: 1, M: 2, C: 3, X: 3})
	p := noise(100_000)
	for i := range 10 {
		r.put(fmt.Sprint(i), p)
	}
	for i := range 10 {
		r.check(fmt.Sprint(i), p)
	}
	if reads[0].Load()+reads[1].Load() > 0 || reads[2].Load() == 0 {
		t.Fatalf("%d and %d reads of another machine, %d of this one", reads[0].Load(), reads[1].Load(), reads[2].Load())
	}
	r.mgr.Detach(r.mgr.Disk(3), manager.Missing, errors.New("gone"))
	for range 100 {
		r.mgr.Disk(1).Reads.Add(10 * time.Millisecond)
		r.mgr.Disk(2).Reads.Add(time.Millisecond)
	}
	for i := range 10 {
		r.check(fmt.Sprint(i), p)
	}
	if reads[0].Load() > 0 || reads[1].Load() == 0 {
		t.Fatalf("%d reads of the slower disk, %d of the faster", reads[0].Load(), reads[1].Load())
	}
	r.disks[1].Set(disktest.Fault{ReadErr: errors.New("sorry")}) // and when it fails, the other
	r.check("0", p)
}

// TestDetourTakesNearDisks: what is missing is computed from what is near, as far as there is a choice.
func TestDetourTakesNearDisks(t *testing.T) {
	r, reads := distantRig(t, 6, 5, objstore.Policy{K: 2, M: 4, C: 6, X: 6})
	p := noise(100_000)
	lost := 0
	for i := range 12 {
		name := fmt.Sprint(i)
		r.put(name, p)
		m, err := r.ns.nsm.Lookup(context.Background(), name)
		if err != nil {
			t.Fatal(err)
		}
		if m.Chunks[0].Fragments[0].Disk == 1 || m.Chunks[0].Fragments[1].Disk == 1 {
			continue // it lies there and is read there
		}
		lost++
		r.damage(m, 0, 1)
		r.check(name, p)
	}
	if lost == 0 || reads[0].Load() > 0 {
		t.Fatalf("%d reads of another machine for %d objects", reads[0].Load(), lost)
	}
	told := make(map[objstore.FragmentKey]bool)
	for _, k := range r.seen.bad {
		told[k] = true
	}
	if len(told) != lost {
		t.Fatalf("%d fragments are bad, maintenance was told of %d", lost, len(told))
	}
}

// TestSlowDisksAreLeftAlone: a disk that was judged to be slow is not asked while others can be, and is when they cannot.
func TestSlowDisksAreLeftAlone(t *testing.T) {
	r, reads := distantRig(t, 6, 6, p42)
	p := noise(400_000)
	r.put("x", p)
	for range 100 {
		for i, d := range r.mgr.Disks() {
			d.Reads.Add(time.Millisecond)
			if i < 2 {
				d.Reads.Add(time.Second)
			}
		}
	}
	manager.JudgeReads(r.mgr.Disks())
	r.check("x", p)
	if n := reads[0].Load() + reads[1].Load(); n > 0 {
		t.Fatalf("%d reads of slow disks", n)
	}
	r.mgr.Detach(r.mgr.Disk(6), manager.Missing, errors.New("gone"))
	r.check("x", p)
	if reads[0].Load()+reads[1].Load() == 0 {
		t.Fatal("it cannot have been read from three disks")
	}
}
