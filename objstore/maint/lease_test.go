package maint

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/internal/testclock"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// agent is another process that maintains the same backend.
type agent struct {
	m  *Maint
	c  *client.Client
	ns []*client.Namespace
}

// newAgent returns an agent that beats when it is told to.
func (r *rig) newAgent(name string, clock *testclock.Clock, namespaces int) *agent {
	a := &agent{}
	a.m = New(Options{KV: r.store, Disks: r.mgr, Rate: -1, RepairDelay: -1, CollectEvery: -1, ScrubEvery: -1, UploadGrace: 10 * time.Second,
		Agent: name, LeaseTime: 10 * time.Second, Namespaces: func() []*client.Namespace { return a.ns }})
	a.m.agency.now = clock.Now
	a.c = client.New(client.Options{Disks: r.mgr, Trouble: a.m, HedgeMin: time.Second, Grace: r.grace})
	for i := range namespaces {
		n := nsm.Open(r.store, nsm.Options{Name: fmt.Sprint("test", i+1), Number: uint32(i + 1), Policies: r.policies, Disks: r.mgr, Highest: Highest(r.mgr)})
		a.ns = append(a.ns, a.c.Namespace(n, r.ns.Preset()))
	}
	return a
}

func (a *agent) close() {
	a.m.Close()
	a.c.Close()
}

// TestAgentsShare: every namespace has one agent among those that live, new ones get their share, and what a dead
// one had is taken over.
func TestAgentsShare(t *testing.T) {
	r := newRig(t, 6, p42)
	defer func() { r.close() }()
	const namespaces = 24
	ck := testclock.New(time.Unix(1000, 0))
	var agents []*agent
	for i := range 3 {
		a := r.newAgent(fmt.Sprint("agent", i), ck, namespaces)
		agents = append(agents, a)
		defer a.close()
	}
	beat := func(which ...*agent) {
		for range 3 { // one to be seen, one to give up, one to take
			for _, a := range which {
				r.fatal(a.m.Beat(ctx0))
			}
			ck.Add(2 * time.Second)
		}
	}
	shares := func(which ...*agent) (out []int) {
		t.Helper()
		out = make([]int, len(which))
		for ns := uint32(0); ns <= namespaces; ns++ {
			n := 0
			for i, a := range which {
				if a.m.ours(ns) {
					out[i]++
					n++
				}
			}
			if n != 1 {
				t.Fatalf("namespace %d has %d agents", ns, n)
			}
		}
		return out
	}
	beat(agents[0])
	shares(agents[0])
	beat(agents...)
	for i, n := range shares(agents...) {
		if n == 0 || n == namespaces+1 {
			t.Fatalf("agent %d maintains %d namespaces", i, n)
		}
	}
	// One is silent. For a while it keeps what it has, then the others have all.
	beat(agents[1:]...)
	beat(agents[1:]...)
	beat(agents[1:]...)
	shares(agents[1:]...)
	for ns := uint32(0); ns <= namespaces; ns++ {
		if agents[0].m.ours(ns) {
			t.Fatal("an agent that could not beat thinks that it has a lease")
		}
	}
	// One ends, and says so: the other need not wait.
	agents[1].m.Close()
	beat(agents[2])
	shares(agents[2])
	// A process with a name that is in use takes it over, and the old one notices.
	again := r.newAgent("agent2", ck, namespaces)
	defer again.close()
	for range 3 {
		beat(again) // it must first see that the dead one does nothing
	}
	shares(again)
	if err := agents[2].m.Beat(ctx0); !errors.Is(err, errSuperseded) {
		t.Fatal(err)
	}
	shares(again, agents[2])
}

// TestPausedAgent pauses an agent in the middle of a repair and of a collection, for longer than its lease
// lasts. Another takes over and does the work. When the first wakes up it changes nothing, and what it deletes
// is not what the other has written.
func TestPausedAgent(t *testing.T) {
	for _, what := range []string{"repair", "collect", "obsolete", "rebalance"} {
		t.Run(what, func(t *testing.T) { pause(t, what) })
	}
}

func pause(t *testing.T, what string) {
	r := newRig(t, 7, p42)
	defer func() { r.close() }()
	ck := testclock.New(time.Unix(1000, 0))
	a, b := r.newAgent("a", ck, 1), r.newAgent("b", ck, 1)
	defer a.close()
	defer b.close()
	r.ns = a.ns[0]
	want := make(map[string][]byte)
	for i := range 8 {
		name := fmt.Sprint("o", i)
		want[name] = noise(9000 + i)
		r.put(name, want[name])
	}
	r.fatal(a.m.Beat(ctx0))
	if !a.m.ours(1) {
		t.Fatal("the only agent has no lease")
	}
	r.ns = b.ns[0]
	// There is something for each kind of work: rot, garbage where a repair will write, deletions.
	gone := r.disks[0].Keys()
	for _, k := range gone {
		r.disks[0].Lose(k)
	}
	for _, d := range r.disks {
		for _, k := range d.Keys() {
			k.Version++ // what a repair of an agent without leases would write
			if err := d.PutFragment(ctx0, k, nil, []byte{}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if what == "obsolete" {
		r.fatal(a.ns[0].Delete(ctx0, "o7"))
		delete(want, "o7")
	}
	if what == "rebalance" {
		a.m.o.BalanceWithin = 1e-9
	}
	for _, d := range r.mgr.Disks() {
		r.fatal(d.Refresh(ctx0))
	}
	var release []func()
	for _, d := range r.disks {
		release = append(release, d.HangWrites())
	}
	done := make(chan error, 1)
	go func() {
		switch what {
		case "repair":
			_ = a.m.Scrub(ctx0)
			done <- a.m.round()
		case "collect":
			_, err := a.m.Collect(ctx0)
			done <- err
		case "obsolete":
			done <- a.m.DeleteObsolete(ctx0, a.ns[0].NSM())
		case "rebalance":
			_, err := a.m.Rebalance(ctx0)
			done <- err
		}
	}()
	// It is in the middle of it when a write or a deletion hangs.
	waitFor(t, "the agent to hang", func() bool {
		n := 0
		for _, d := range r.disks {
			n += d.Hanging()
		}
		return n > 0
	})
	for range 8 {
		ck.Add(2 * time.Second)
		r.fatal(b.m.Beat(ctx0))
	}
	if a.m.ours(1) || !b.m.ours(1) {
		t.Fatal("the lease was not taken over")
	}
	before := r.manifests()
	for _, fn := range release {
		fn()
	}
	<-done // whatever it says
	if after := r.manifests(); what != "obsolete" {
		for name, m := range before {
			if string(m.Encode(nil)) != string(after[name].Encode(nil)) {
				t.Fatalf("an agent without a lease has changed %s", name)
			}
		}
	}
	b.m.o.BalanceWithin = -1
	r.fatal(b.m.Scrub(ctx0))
	for b.m.urgent() {
		r.fatal(b.m.round())
	}
	r.m = b.m
	r.tidy()
	for name, p := range want {
		r.check(name, p)
	}
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
}

// TestWakingCollector has an agent that has lost its lease delete what it took for garbage while another repairs:
// what the other writes has other keys.
func TestWakingCollector(t *testing.T) {
	r := newRig(t, 6, p42)
	defer func() { r.close() }()
	ck := testclock.New(time.Unix(1000, 0))
	a, b := r.newAgent("a", ck, 1), r.newAgent("b", ck, 1)
	defer a.close()
	defer b.close()
	r.ns = a.ns[0]
	r.put("x", noise(9000))
	r.fatal(a.m.Beat(ctx0))
	// The first writes a fragment anew and is cut off before the manifest names it: that is garbage.
	lost := r.disks[2].Keys()[0]
	r.disks[2].Lose(lost)
	ctx, _ := a.m.under(ctx0, 1)
	again := lost
	again.Version = nsm.NextVersion(ctx, lost.Version)
	r.fatal(r.disks[2].PutFragment(ctx0, again, nil, []byte{}, nil))
	w, err := newWindow(ctx0, a.ns[0].NSM(), 0, 1<<63)
	r.fatal(err)
	var garbage []objstore.FragmentKey
	d := r.mgr.Disk(3)
	garbage, err = garbageOn(ctx0, d, w, objstore.FragmentKey{Namespace: 1}, objstore.FragmentKey{Namespace: 2})
	r.fatal(err)
	if len(garbage) != 1 || garbage[0] != again {
		t.Fatal(garbage)
	}
	for range 8 {
		ck.Add(2 * time.Second)
		r.fatal(b.m.Beat(ctx0))
	}
	r.fatal(b.m.heal(ctx0, object{b.ns[0].NSM(), "x"}, map[objstore.FragmentKey]bool{lost: true}))
	r.fatal(r.disks[2].DeleteFragments(ctx0, garbage))
	r.ns, r.m = b.ns[0], b.m
	if m := r.manifests()["x"]; m.Key(1, 0, int(lost.Fragment)).Version <= again.Version {
		t.Fatalf("%+v", m)
	}
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
	_, err = a.ns[0].Heal(ctx, "x", client.HealOptions{Bad: map[objstore.FragmentKey]bool{r.manifests()["x"].Key(1, 0, 0): true}})
	if !errors.Is(err, nsm.ErrFenced) {
		t.Fatalf("an agent without a lease repairs: %v", err)
	}
}

// TestOneAgent starts and ends maintenance with leases, in the background.
func TestOneAgent(t *testing.T) {
	r := &rig{t: t, policies: []objstore.Policy{p42}, grace: time.Minute, maint: Options{Agent: "me"}}
	r.begin(7)
	defer func() { r.close() }()
	r.put("x", noise(9000))
	r.m.Start()
	r.down(1)
	r.m.DisksChanged()
	waitFor(t, "the repair", func() bool {
		m := r.manifests()["x"]
		return m.Complete() && !refersTo(m, 2)
	})
	l, err := r.m.Leases(ctx0)
	if err != nil || len(l) != 1 || l[0].Agent != "me" || l[0].Token == 0 {
		t.Fatal(l, err)
	}
	r.m.Close()
	if l, err = r.m.Leases(context.Background()); err != nil || l[0].Agent != "" {
		t.Fatal(l, err)
	}
}
