package client

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/manager"
)

// sized is a disk of a size.
type sized struct {
	*disktest.Disk
	free int64
}

func (s sized) Stat(ctx context.Context) (objstore.DiskStat, error) {
	st, err := s.Disk.Stat(ctx)
	st.Total, st.Free = 100<<30, s.free
	return st, err
}

// place attaches disks that have so much free, on nodes of two disks each.
func placeRig(t *testing.T, free ...int64) []*manager.Disk {
	t.Helper()
	ctx := context.Background()
	store := memkv.New(memkv.Rerun())
	m, err := manager.Open(ctx, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range m.Disks() {
			d.Shutdown()
		}
		_ = store.Close()
	})
	for i, n := range free {
		d, err := m.Attach(ctx, fmt.Sprint("asd", i), fmt.Sprint("dir", i), fmt.Sprint("node", i/2), sized{disktest.New(0), n << 30})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return m.Disks()
}

func ids(disks []*manager.Disk) (out []objstore.DiskID) {
	for _, d := range disks {
		out = append(out, d.ID())
	}
	return out
}

// TestPlacementFollowsFromTheSeed: the same disks and the same seed give the same places, in this run and in
// every other.
func TestPlacementFollowsFromTheSeed(t *testing.T) {
	p := objstore.Policy{K: 2, M: 1, C: 2, X: 1}
	a, b := placeRig(t, 50, 50, 50, 50, 50, 50, 50, 50), placeRig(t, 50, 50, 50, 50, 50, 50, 50, 50)
	got := ""
	for seed := range uint64(1000) {
		x, _ := choose(a, p, seed)
		y, _ := choose(b, p, seed)
		if fmt.Sprint(ids(x)) != fmt.Sprint(ids(y)) {
			t.Fatalf("seed %d: %v and %v", seed, ids(x), ids(y))
		}
		if seed < 4 {
			got += fmt.Sprint(ids(x))
		}
		nodes := make(map[string]bool)
		for _, d := range x {
			nodes[d.Node()] = true
		}
		if len(x) != 3 || len(nodes) != 3 {
			t.Fatalf("seed %d: %v on %d nodes", seed, ids(x), len(nodes))
		}
	}
	if want := placesOfSeeds; got != want {
		t.Fatalf("seeds 0 to 3 gave %s, they used to give %s", got, want)
	}
}

// TestPlacementSpreads: disks get fragments in proportion to what they have free, and fewer when they are busy.
func TestPlacementSpreads(t *testing.T) {
	one := objstore.Policy{K: 1, C: 1, X: 1}
	disks := placeRig(t, 10, 20, 30, 40)
	share := func() (n [4]float64) {
		const rounds = 20000
		for seed := range uint64(rounds) {
			x, spare := choose(disks, one, seed)
			if len(x) != 1 || len(spare) != 3 {
				t.Fatal(ids(x), ids(spare))
			}
			n[x[0].ID()-1] += 1.0 / rounds
		}
		return n
	}
	near := func(got [4]float64, want ...float64) {
		t.Helper()
		for i := range want {
			if math.Abs(got[i]-want[i]) > 0.02 {
				t.Fatalf("shares %.3f, want about %.3f", got, want)
			}
		}
	}
	near(share(), 0.1, 0.2, 0.3, 0.4)
	disks[3].Writing.Add(3) // a quarter of the weight
	near(share(), 1.0/7, 2.0/7, 3.0/7, 1.0/7)
}

// TestPresetListsDisks: nothing is put on, or healed to, a disk that the preset does not list, and a preset that
// changes does so for the next put.
func TestPresetListsDisks(t *testing.T) {
	ctx := context.Background()
	p := preset(objstore.CompressNone, 0, objstore.Policy{K: 2, M: 1, C: 3, X: 3})
	p.Version, p.Disks = 1, []objstore.DiskID{2, 4, 6}
	r := newRig(t, 6, p, patient)
	on := func(name string) map[objstore.DiskID]bool {
		m, err := r.ns.NSM().Fetch(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		out := make(map[objstore.DiskID]bool)
		for _, f := range m.Chunks[0].Fragments {
			out[f.Disk] = true
		}
		return out
	}
	for i := range 20 {
		name := fmt.Sprint(i)
		r.put(name, noise(5000))
		if at := on(name); !at[2] || !at[4] || !at[6] {
			t.Fatal(at)
		}
	}
	r.mgr.Detach(r.mgr.Disk(4), manager.Failed, fmt.Errorf("test"))
	if h, err := r.ns.Heal(ctx, "0", HealOptions{}); err != nil || h.NoPlace != 1 {
		t.Fatalf("%+v, %v", h, err)
	}
	p.Version, p.Disks = 2, []objstore.DiskID{1, 2, 6}
	r.ns.SetPreset(p)
	if h, err := r.ns.Heal(ctx, "0", HealOptions{}); err != nil || h.Rebuilt != 1 {
		t.Fatalf("%+v, %v", h, err)
	}
	if at := on("0"); !at[1] {
		t.Fatal(at)
	}
	r.put("new", noise(5000))
	if at := on("new"); !at[1] || !at[2] || !at[6] {
		t.Fatal(at)
	}
	r.check("0", noise(5000))
}

// placesOfSeeds was computed once.
const placesOfSeeds = "[5 3 7][1 5 3][4 1 8][3 2 6]"

// TestHealBesideAnother: a repair that another one overtakes takes what that has done for granted.
func TestHealBesideAnother(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, preset(objstore.CompressNone, 64<<10, p42), patient)
	want := noise(50_000)
	r.put("x", want)
	m, err := r.ns.nsm.Fetch(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	bad := map[objstore.FragmentKey]bool{m.Key(1, 0, 1): true, m.Key(1, 0, 2): true}
	overtake := sync.OnceFunc(func() {
		if h, err := r.ns.Heal(ctx, "x", HealOptions{Bad: map[objstore.FragmentKey]bool{m.Key(1, 0, 1): true}}); err != nil || h.Rebuilt != 1 {
			t.Errorf("%+v, %v", h, err)
		}
	})
	h, err := r.ns.Heal(ctx, "x", HealOptions{Bad: bad, Spend: func(context.Context, int) error { overtake(); return nil }})
	if err != nil || h.Rebuilt != 1 || h.Spare != 2 {
		t.Fatalf("%+v, %v", h, err)
	}
	r.check("x", want)
}

// TestHealOfOneWithoutPlace: a fragment that is lost and has no place leaves that of a bad one to it.
func TestHealOfOneWithoutPlace(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, preset(objstore.CompressNone, 64<<10, p42), patient)
	want := noise(50_000)
	r.put("x", want)
	m, err := r.ns.nsm.Fetch(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.mgr.SetAdmin(ctx, m.Chunks[0].Fragments[0].Disk, manager.Disabled); err != nil {
		t.Fatal(err)
	}
	h, err := r.ns.Heal(ctx, "x", HealOptions{Bad: map[objstore.FragmentKey]bool{m.Key(1, 0, 4): true}})
	if err != nil || h.Rebuilt != 1 || h.NoPlace != 1 || h.Spare != 1 {
		t.Fatalf("%+v, %v", h, err)
	}
	r.check("x", want)
}
