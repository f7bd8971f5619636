package maint

import (
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/manager"
)

// grow adds an empty disk.
func (r *rig) grow(capacity int64) {
	r.disks = append(r.disks, disktest.New(capacity))
	r.attach(len(r.disks) - 1)
}

// rebalance runs passes until there is nothing more to move.
func (r *rig) rebalance() {
	r.t.Helper()
	for more := true; more; {
		var err error
		more, err = r.m.Rebalance(ctx0)
		r.fatal(err)
		for r.m.urgent() {
			r.fatal(r.m.round())
		}
		r.fatal(r.m.DeleteObsolete(ctx0, r.ns.NSM()))
	}
	r.mgr.Measure(ctx0, (*manager.Disk).Readable)
}

// TestRebalance adds empty disks to full ones, of the same size and larger: they fill until the used fractions
// are alike, nothing is less safe on the way, and everything is read back.
func TestRebalance(t *testing.T) {
	const capacity = 4 << 20
	r := &rig{t: t, policies: []objstore.Policy{p42}, grace: time.Minute, capacity: capacity}
	r.begin(6)
	defer func() { r.close() }()
	want := make(map[string][]byte)
	for i := range 60 {
		name := fmt.Sprint("o", i)
		want[name] = noise(20_000 + 1000*i)
		r.put(name, want[name])
	}
	r.rebalance() // there is nothing to do
	if p := r.m.Progress(); p.Moved != 0 {
		t.Fatalf("%d fragments were moved between equals", p.Moved)
	}
	r.grow(capacity)
	r.grow(capacity * 5 / 4) // no larger: it can have one fragment of each chunk
	r.mgr.Measure(ctx0, (*manager.Disk).Readable)
	if f := newFill(r.mgr, 0.03); f.spread() < 0.1 {
		t.Fatalf("the disks are too empty for the test: spread %v", f.spread())
	}
	// One fragment on the way is rotten: it is left to repair, and does not stop the others.
	r.disks[0].Corrupt(r.disks[0].Keys()[0], 3)
	r.rebalance()
	if f := newFill(r.mgr, 0.03); f.spread() > 0.04 {
		for d := range f.used {
			t.Logf("disk %d: %.3f", d, f.of(d))
		}
		t.Fatalf("spread %.3f", f.spread())
	}
	r.fatal(r.m.Scrub(ctx0)) // if it was not met on the way
	for r.m.urgent() {
		r.fatal(r.m.round())
	}
	for name, m := range r.manifests() {
		if spare, full := m.Safety(); spare != full {
			t.Fatalf("%s can lose %d of %d", name, spare, full)
		}
		r.check(name, want[name])
	}
	r.tidy()
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
	moved := r.m.Progress().Moved
	r.rebalance()
	if again := r.m.Progress().Moved; again != moved {
		t.Fatalf("%d fragments were moved to and fro", again-moved)
	}
}

// TestRebalanceKeepsRules: no more than x fragments come to lie on a node, however empty its disks are.
func TestRebalanceKeepsRules(t *testing.T) {
	const capacity = 1 << 20
	r := &rig{t: t, policies: []objstore.Policy{{K: 2, M: 2, C: 3, X: 2}}, grace: time.Minute, capacity: capacity,
		node: func(i int) string { return fmt.Sprint("node", min(i/2, 2)) }}
	r.begin(4)
	defer func() { r.close() }()
	for i := range 20 {
		r.put(fmt.Sprint("o", i), noise(40_000))
	}
	r.grow(capacity)
	r.grow(capacity)
	r.grow(capacity) // three on node 2
	r.rebalance()
	if r.m.Progress().Moved == 0 {
		t.Fatal("nothing was moved")
	}
	for name, m := range r.manifests() {
		for i := range m.Chunks {
			nodes := make(map[string]int)
			for _, f := range m.Chunks[i].Fragments {
				n, _ := r.mgr.Node(f.Disk)
				if nodes[n]++; nodes[n] > 2 {
					t.Fatalf("%s: more than 2 fragments on %s", name, n)
				}
			}
		}
		r.check(name, noise(40_000))
	}
}

// TestWalks scrubs and rewrites in steps, over a restart, and finds rot.
func TestWalks(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := &rig{t: t, policies: []objstore.Policy{p42, p22}, grace: time.Minute, maint: Options{ScrubEvery: time.Hour, Clock: func() time.Time { return now }}}
	r.begin(6)
	defer func() { r.close() }()
	want := make(map[string][]byte)
	for i := range 700 {
		name := fmt.Sprintf("o%03d", i)
		want[name] = noise(10 + i)
		r.put(name, want[name])
	}
	step := func() bool {
		more, err := r.m.walks(ctx0)
		r.fatal(err)
		return more
	}
	if step() {
		t.Fatal("a scrub began before its time")
	}
	now = now.Add(61 * time.Minute)
	if !step() {
		t.Fatal("no scrub began")
	}
	at := func() Walk {
		w, err := r.m.walk(ctx0, r.ns.NSM(), WalkScrub)
		r.fatal(err)
		return w
	}
	first := at()
	if first.Done == 0 || first.Done >= 700 || len(first.Position) == 0 || first.Total != 700 {
		t.Fatalf("%+v", first)
	}
	r.disks[3].Lose(r.disks[3].Keys()[650])
	r.reopen()
	r.m.o.Clock, r.m.o.ScrubEvery = func() time.Time { return now }, time.Hour
	for step() {
		if w := at(); w.Done < first.Done {
			t.Fatalf("it began again: %+v", w)
		}
	}
	if w := at(); w.Active() || w.Done != 700 || w.Changed != 1 || w.Errors != 0 {
		t.Fatalf("%+v", w)
	}
	if step() {
		t.Fatal("it began again at once")
	}
	r.fatal(r.m.round()) // the repair of what was found

	// Another preset: all is coded anew.
	p := r.ns.Preset()
	p.Policies, p.Compression, p.Version = []objstore.Policy{p22}, objstore.CompressNone, p.Version+1
	r.ns.SetPreset(p)
	r.fatal(r.m.BeginWalk(ctx0, r.ns, WalkRewrite))
	for step() {
	}
	for name, m := range r.manifests() {
		if len(m.Chunks) != 1 || m.Chunks[0].K != 2 || m.Chunks[0].M != 2 || m.Chunks[0].Frames != nil {
			t.Fatalf("%s: %+v", name, m)
		}
		r.check(name, want[name])
	}
	if got := r.m.Progress().Rewritten; got != 700 {
		t.Fatalf("%d were rewritten", got)
	}
	r.fatal(r.m.BeginWalk(ctx0, r.ns, WalkRewrite))
	for step() {
	}
	if got := r.m.Progress().Rewritten; got != 700 {
		t.Fatalf("%d were rewritten again", got-700)
	}
	r.tidy()
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
}

// TestRetireDead retires a disk that is gone, once what was on it is elsewhere and not before.
func TestRetireDead(t *testing.T) {
	r := &rig{t: t, policies: []objstore.Policy{p42}, grace: time.Minute, maint: Options{RetireAfter: time.Nanosecond}}
	r.begin(7)
	defer func() { r.close() }()
	for i := range 10 {
		r.put(fmt.Sprint("o", i), noise(9000))
	}
	r.fatal(r.m.retireDead(ctx0))
	if n := len(r.mgr.Disks()); n != 7 {
		t.Fatal("a disk that is well was retired")
	}
	r.down(2)
	r.fatal(r.m.retireDead(ctx0))
	if r.mgr.Disk(3) == nil {
		t.Fatal("a disk was retired that objects refer to")
	}
	r.fatal(r.m.Repair(ctx0))
	r.fatal(r.m.retireDead(ctx0))
	if r.mgr.Disk(3) != nil {
		t.Fatal("a dead disk was not retired")
	}
	_, err := r.mgr.Attach(ctx0, "asd2", "dir2", "here", r.disks[2])
	if err == nil {
		t.Fatal("a retired disk came back")
	}
	for _, m := range r.manifests() {
		if refersTo(m, 3) || !m.Complete() {
			t.Fatalf("%+v", m)
		}
	}
}
