package maint

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/internal/testclock"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// TestPurge: what disks hold of a namespace that was deleted goes away, with its label, from those that are away when
// they are back, and again until no upload can be left; a disk that is retired is not waited for.
func TestPurge(t *testing.T) {
	now := time.Now()
	r := &rig{t: t, policies: []objstore.Policy{p42}, grace: time.Minute, maint: Options{Clock: func() time.Time { return now }}}
	r.begin(7)
	defer func() { r.close() }()
	r.fatal(r.mgr.PutPreset(ctx0, objstore.Preset{Name: "p", Policies: []objstore.Policy{{K: 4, M: 2, C: 5, X: 6}}, FragmentSize: 8 << 10}))
	var all []*client.Namespace
	for i := range 2 {
		rec, err := r.mgr.Namespace(ctx0, fmt.Sprint("n", i), "p")
		r.fatal(err)
		n := nsm.Open(r.store, nsm.Options{Name: rec.Name, Number: rec.Number, Policies: r.policies, Disks: r.mgr})
		all = append(all, r.c.Namespace(n, r.ns.Preset()))
		for j := range 5 {
			_, err := all[i].Put(ctx0, fmt.Sprint("o", j), noise(30_000))
			r.fatal(err)
		}
	}
	r.fatal(r.m.Label(ctx0))
	r.down(2)
	r.down(5)
	// of counts what a disk holds of the first namespace.
	of := func(disk int) (n int) {
		for _, k := range r.disks[disk].Keys() {
			if k.Namespace == 1 || k == labelKey(1) {
				n++
			}
		}
		return n
	}
	if _, err := r.mgr.Delete(ctx0, "n0"); err != nil {
		t.Fatal(err)
	}
	purge := func(waiting int) {
		t.Helper()
		r.fatal(r.m.Purge(ctx0))
		list, err := r.mgr.Purges(ctx0)
		if err != nil || len(list) != waiting {
			t.Fatal(list, err)
		}
	}
	purge(7)
	for i := range r.disks {
		if (of(i) > 0) != (i == 2 || i == 5) {
			t.Errorf("disk %d has %d", i+1, of(i))
		}
	}
	r.attach(2)
	purge(7)
	if of(2) > 0 {
		t.Error("what came back was not purged")
	}
	// A late writer is done, in time.
	r.fatal(r.disks[0].PutFragment(ctx0, objstore.FragmentKey{Namespace: 1, Object: 1 << 40}, nil, nil, nil))
	now = now.Add(time.Hour)
	purge(1)
	if of(0) > 0 {
		t.Error("a late fragment was not purged")
	}
	r.fatal(r.m.Retire(ctx0, 6))
	purge(0)
	for j := range 5 {
		got := make([]byte, 30_000)
		r.fatal(all[1].ReadAt(ctx0, fmt.Sprint("o", j), 0, got))
	}
}

// TestLeasesMove: agents share the namespaces of two stores, and the lease on a namespace moves with it.
func TestLeasesMove(t *testing.T) {
	r := newRig(t, 6, p42)
	defer func() { r.close() }()
	far := memkv.New(memkv.Rerun())
	hosts := []*nsm.Host{nsm.NewHost(r.store), nsm.NewHost(far)}
	stores := func() []kv.Store { return []kv.Store{r.store, far} }
	for i, h := range hosts {
		_, err := h.Claim(ctx0, fmt.Sprint("owner", i), true, true)
		r.fatal(err)
	}
	const namespaces = 8
	at := map[uint32]kv.Store{}
	for ns := uint32(1); ns <= namespaces; ns++ {
		at[ns] = stores()[ns%2]
		r.fatal(hosts[ns%2].Obey(ctx0, nsm.Message{Number: uint64(ns+1) / 2, Kind: nsm.KindCreate, Namespace: ns}))
	}
	ck := testclock.New(time.Unix(1000, 0))
	var agents []*agent
	for i := range 2 {
		a := r.newAgent(fmt.Sprint("agent", i), ck, 0)
		a.m.o.Stores = stores
		for ns := uint32(1); ns <= namespaces; ns++ {
			n := nsm.Open(at[ns], nsm.Options{Name: fmt.Sprint("test", ns), Number: ns, Policies: r.policies, Disks: r.mgr,
				Home: func(context.Context) (kv.Store, error) { return at[ns], nil }})
			a.ns = append(a.ns, a.c.Namespace(n, r.ns.Preset()))
		}
		agents = append(agents, a)
		defer a.close()
	}
	beat := func() {
		for range 3 {
			for _, a := range agents {
				r.fatal(a.m.Beat(ctx0))
			}
			ck.Add(2 * time.Second)
		}
	}
	// held returns the token of the one agent that has a namespace.
	held := func(ns uint32) (token uint64, holder string) {
		t.Helper()
		for _, a := range agents {
			if ctx, ok := a.m.under(ctx0, ns); ok {
				if holder != "" {
					t.Fatal("two have namespace", ns)
				}
				holder, token = a.m.o.Agent, uint64(nsm.NextVersion(ctx, 0))
			}
		}
		return token, holder
	}
	beat()
	for ns := range at {
		if _, who := held(ns); who == "" {
			t.Fatal("nobody has namespace", ns)
		}
	}
	token, who := held(2)
	r.fatal(hosts[1].Obey(ctx0, nsm.Message{Number: namespaces/2 + 1, Kind: nsm.KindImport, Namespace: 2}))
	move := nsm.Transfer{From: hosts[0], To: hosts[1], Namespace: 2}
	r.fatal(move.Copy(ctx0))
	beat()
	if _, who := held(2); who != "" {
		t.Fatal("namespace 2 has a lease while it moves, of", who)
	}
	r.fatal(move.Freeze(ctx0))
	r.fatal(hosts[0].Obey(ctx0, nsm.Message{Number: namespaces/2 + 1, Kind: nsm.KindDrop, Namespace: 2}))
	r.fatal(hosts[1].Obey(ctx0, nsm.Message{Number: namespaces/2 + 2, Kind: nsm.KindOpen, Namespace: 2}))
	at[2] = far
	for _, a := range agents { // each finds out by using it
		if _, err := a.ns[1].NSM().Counters(ctx0); err != nil {
			t.Fatal(err)
		}
	}
	beat()
	if now, whoNow := held(2); whoNow != who || now < token {
		t.Fatalf("namespace 2 was %s's with %d, and is %s's with %d", who, token, whoNow, now)
	}
}
