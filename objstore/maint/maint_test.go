package maint

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

func TestDegradedWriteIsCompleted(t *testing.T) {
	r := newRig(t, 6, p42)
	defer r.close()
	r.down(2)
	r.put("x", noise(100_000))
	if p := r.problems(Note); len(p) < 2 || p[1].Kind != "safety" {
		t.Fatalf("the check does not see the degraded write: %v", p)
	}
	r.m.Start()
	r.attach(2)
	r.m.DisksChanged()
	waitFor(t, "the write to be completed", func() bool {
		m, err := r.ns.NSM().Fetch(context.Background(), "x")
		return err == nil && m.Complete()
	})
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
}

func TestLostDiskIsRebuiltLeastSafeFirst(t *testing.T) {
	r := newRig(t, 8, p42)
	defer r.close()
	for i := range 20 {
		r.put(fmt.Sprint(i), noise(20_000+i))
	}
	r.down(0)
	r.down(1)
	v, err := r.m.survey(context.Background(), true)
	r.fatal(err)
	last := -100
	for _, o := range v.order() {
		m, err := r.ns.NSM().Fetch(context.Background(), o.name)
		r.fatal(err)
		spare := 6 - 4
		for _, f := range m.Chunks[0].Fragments {
			if f.Disk <= 2 {
				spare--
			}
		}
		if spare < last {
			t.Fatalf("an object that can lose %d comes after one that can lose %d", spare, last)
		}
		last = spare
	}
	r.fatal(r.m.Repair(context.Background()))
	for i := range 20 {
		r.check(fmt.Sprint(i), noise(20_000+i))
	}
	s, err := r.m.Safety(context.Background())
	if err != nil || len(s) != 1 || s[0].Spare != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	// What the lost disks still have is deleted when they come back.
	r.fatal(r.m.DeleteObsolete(context.Background(), r.ns.NSM()))
	r.attach(0)
	r.attach(1)
	r.fatal(r.m.unpark(context.Background()))
	if n := r.fragments(); n != 20*6 {
		t.Fatalf("%d fragments on the disks, want %d", n, 20*6)
	}
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
}

func TestObjectsAtTheBrinkAreCodedAnew(t *testing.T) {
	r := newRig(t, 6, p42, p22, p11)
	defer r.close()
	for i := range 5 {
		r.put(fmt.Sprint(i), noise(150_000+i))
	}
	r.down(3)
	r.fatal(r.m.Repair(context.Background()))
	if p := r.m.Progress(); p.Rewritten != 0 || p.NoPlace == 0 {
		t.Fatalf("one disk lost: %+v", p)
	}
	r.down(4)
	r.fatal(r.m.Repair(context.Background()))
	if p := r.m.Progress(); p.Rewritten != 5 {
		t.Fatalf("two disks lost: %+v", p)
	}
	r.down(0)
	r.down(1) // as much as (2,2) bears
	for i := range 5 {
		r.check(fmt.Sprint(i), noise(150_000+i))
	}
}

func TestObsoleteFragmentsGo(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, p42)
	defer r.close()
	for i := range 10 {
		r.put(fmt.Sprint(i), noise(50_000))
	}
	r.down(5)
	for i := range 10 {
		r.fatal(r.ns.Delete(ctx, fmt.Sprint(i)))
	}
	r.fatal(r.m.DeleteObsolete(ctx, r.ns.NSM()))
	if n := r.store.Unsynced(); n > 2 {
		t.Fatalf("%d updates were not durable when fragments were deleted", n)
	}
	if n := r.fragments(); n != len(r.disks[5].Keys()) {
		t.Fatalf("%d fragments are left", n)
	}
	r.attach(5)
	r.fatal(r.m.unpark(ctx))
	if n := r.fragments(); n != 0 {
		t.Fatalf("%d fragments are left on the disk that was away", n)
	}
}

func TestCollect(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, p42)
	defer r.close()
	r.put("x", noise(100_000))
	m, err := r.ns.NSM().Fetch(ctx, "x")
	r.fatal(err)
	before := r.fragments()
	old, err := r.ns.NSM().Begin(ctx)
	r.fatal(err)
	data := noise(100)
	litter := []objstore.FragmentKey{
		{Namespace: 1, Object: old.ID},                      // of an upload that never ended
		{Namespace: 1, Object: m.ID, Version: 9},            // of a repair that was cut off
		m.Key(1, 0, int(5-m.Chunks[0].Fragments[0].Disk%2)), // on a disk that the manifest does not name
	}
	for i, k := range litter {
		disk := i
		if i == 2 { // any disk but its own
			disk = int(m.Chunks[0].Fragments[k.Fragment].Disk) % 6
		}
		r.fatal(r.disks[disk].PutFragment(ctx, k, nil, data, crc.Blocks(nil, data)))
	}
	r.disks[0].Set(disktest.Fault{})
	checked, err := r.m.Check(ctx, CheckOptions{}, func(Problem) {})
	if err != nil || checked.Garbage != 3 {
		t.Fatalf("the check finds %+v, %v", checked, err)
	}
	r.ns.NSM().End(old)
	n, err := r.m.Collect(ctx)
	if err != nil || n != 3 || r.fragments() != before {
		t.Fatalf("collected %d of 3, %v; %d fragments, %d before", n, err, r.fragments(), before)
	}
	if err := r.ns.NSM().Register(ctx, old, "late", m.Clone()); err == nil {
		t.Fatal("an expired upload was registered")
	}
	r.check("x", noise(100_000))
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
}

// TestCollectWaitsForUploads: a put that is under way when collection begins is not harmed.
func TestCollectWaitsForUploads(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, p42)
	defer r.close()
	release := r.disks[0].Hang()
	release2 := r.disks[1].Hang()
	put := make(chan error)
	go func() {
		_, err := r.ns.Put(ctx, "x", noise(1000))
		put <- err
	}()
	waitFor(t, "the put to begin", func() bool { return r.fragments() == 4 })
	collected := make(chan error)
	go func() {
		n, err := r.m.Collect(ctx)
		collected <- errors.Join(err, errIf(n > 0, "collected %d fragments", n))
	}()
	select {
	case err := <-collected:
		t.Fatalf("collection did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	release2()
	r.fatal(<-put)
	r.fatal(<-collected)
	r.check("x", noise(1000))
}

func errIf(cond bool, format string, args ...any) error {
	if cond {
		return fmt.Errorf(format, args...)
	}
	return nil
}

func TestWindowsAreComplete(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, p42)
	defer r.close()
	var all []nsm.Location
	for i := range 30 {
		name := fmt.Sprint(i * 7 % 30)
		r.put(name, noise(100))
		m, err := r.ns.NSM().Fetch(ctx, name)
		r.fatal(err)
		all = append(all, nsm.Locations(1, m)...)
	}
	found := 0
	for lo := uint64(0); lo < 1000; {
		w, err := newWindowOf(ctx, r.ns.NSM(), lo, 1000, 20)
		r.fatal(err)
		for _, l := range all {
			in := l.Key.Object >= w.lo && l.Key.Object < w.hi
			if in != w.has(l) {
				t.Fatalf("%v in window %d-%d: %v", l, w.lo, w.hi, w.has(l))
			}
			if in {
				found++
			}
		}
		lo = w.hi
	}
	if found != len(all) {
		t.Fatalf("%d of %d fragments were in a window", found, len(all))
	}
}

func TestScrubHealsRot(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, p42)
	defer r.close()
	for i := range 5 {
		r.put(fmt.Sprint(i), noise(30_000+i))
	}
	for i := range 2 {
		for _, k := range r.disks[i].Keys() {
			r.disks[i].Corrupt(k, 77)
		}
	}
	r.m.Start()
	r.fatal(r.m.Scrub(ctx))
	waitFor(t, "the rot to be healed", func() bool { return r.m.Progress().Rebuilt == 2*r.chunks() })
	r.fatal(r.m.DeleteObsolete(ctx, r.ns.NSM()))
	if p := r.problems(Warning); len(p) > 0 {
		t.Fatal(p)
	}
}

// chunks counts the chunks of all objects.
func (r *rig) chunks() (n int64) {
	r.fatal(r.ns.List(context.Background(), "", "", func(i objstore.Info) bool {
		m, err := r.ns.NSM().Lookup(context.Background(), i.Name)
		r.fatal(err)
		n += int64(len(m.Chunks))
		return true
	}))
	return n
}

func TestDrainedDiskRetires(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 7, p42)
	defer r.close()
	for i := range 10 {
		r.put(fmt.Sprint(i), noise(30_000+i))
	}
	r.fatal(r.mgr.SetAdmin(ctx, 4, manager.Draining))
	r.fatal(r.m.Repair(ctx))
	if r.mgr.Disk(4) != nil {
		t.Fatal("the disk is not retired")
	}
	r.down(0)
	r.down(1)
	for i := range 10 {
		r.check(fmt.Sprint(i), noise(30_000+i))
	}
}

func TestLimiter(t *testing.T) {
	l := newLimiter(1 << 20)
	begin := time.Now()
	for range 8 {
		if err := l.spend(context.Background(), 64<<10); err != nil {
			t.Fatal(err)
		}
	}
	// Half a megabyte at one per second, a quarter of which is free.
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Fatalf("half a megabyte took %v", took)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.spend(ctx, 1<<30); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
