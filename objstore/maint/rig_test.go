package maint

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fataler is what testing.T and rapid.T have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// rig is a backend over disks in memory that outlive it, as disks do.
type rig struct {
	t        fataler
	policies []objstore.Policy
	grace    time.Duration
	capacity int64
	fragment int                   // 0: 8 KiB
	node     func(disk int) string // nil: all on one
	maint    Options               // what differs from those of tests
	noCache  bool                  // every read goes to the disks
	disks    []*disktest.Disk      // disk number i+1
	store    *memkv.Store

	mgr *manager.Manager
	c   *client.Client
	ns  *client.Namespace
	m   *Maint
}

var (
	p42 = objstore.Policy{K: 4, M: 2, C: 5, X: 16}
	p22 = objstore.Policy{K: 2, M: 2, C: 3, X: 16}
	p11 = objstore.Policy{K: 1, M: 1, C: 2, X: 16}
)

// newRig returns a rig that waits for what is late only because others have the processors.
func newRig(t fataler, disks int, policies ...objstore.Policy) *rig {
	t.Helper()
	return newRigWith(t, time.Minute, disks, policies...)
}

func newRigWith(t fataler, grace time.Duration, disks int, policies ...objstore.Policy) *rig {
	t.Helper()
	r := &rig{t: t, policies: policies, grace: grace}
	r.begin(disks)
	return r
}

// begin makes the disks and opens everything.
func (r *rig) begin(disks int) {
	r.t.Helper()
	r.store = memkv.New(memkv.Rerun())
	for range disks {
		r.disks = append(r.disks, disktest.New(r.capacity))
	}
	r.open()
}

func (r *rig) fatal(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) open() {
	r.t.Helper()
	ctx := context.Background()
	var err error
	r.mgr, err = manager.Open(ctx, r.store, nil)
	r.fatal(err)
	for i := range r.disks {
		r.attach(i)
	}
	o := r.maint
	o.KV, o.Disks, o.Namespaces = r.store, r.mgr, func() []*client.Namespace { return []*client.Namespace{r.ns} }
	o.Rate, o.RepairDelay, o.CollectEvery, o.UploadGrace = -1, -1, -1, 10*time.Second
	if o.ScrubEvery == 0 {
		o.ScrubEvery = -1
	}
	r.m = New(o)
	co := client.Options{Disks: r.mgr, Trouble: r.m, HedgeMin: time.Second, Grace: r.grace}
	if r.noCache {
		co.FrameCache = -1
	}
	r.c = client.New(co)
	n := nsm.Open(r.store, nsm.Options{Name: "test", Number: 1, Policies: r.policies, Disks: r.mgr, Highest: Highest(r.mgr)})
	r.ns = r.c.Namespace(n, objstore.Preset{Name: "p", Policies: r.policies, FragmentSize: cmp.Or(r.fragment, 8<<10), Compression: objstore.CompressS2})
}

func (r *rig) attach(i int) {
	r.t.Helper()
	r.disks[i].Reopen()
	node := "here"
	if r.node != nil {
		node = r.node(i)
	}
	_, err := r.mgr.Attach(context.Background(), fmt.Sprint("asd", i), fmt.Sprint("dir", i), node, r.disks[i])
	r.fatal(err)
}

// down takes disk i away, as if its folder had vanished.
func (r *rig) down(i int) {
	d := r.mgr.Disk(objstore.DiskID(i + 1))
	d.Shutdown()
	d.MarkDown(manager.Missing, fmt.Errorf("taken away"))
}

func (r *rig) close() {
	r.m.Close()
	r.c.Close()
	for _, d := range r.mgr.Disks() {
		d.Shutdown()
	}
	_ = r.store.Close()
}

// crash loses what the store had not made durable, as rng decides, and everything in memory.
func (r *rig) crash(rng *rand.Rand) {
	r.t.Helper()
	next := r.store.CrashPrefix(rng)
	r.close()
	r.store = next
	r.open()
}

func (r *rig) put(name string, p []byte) {
	r.t.Helper()
	_, err := r.ns.Put(context.Background(), name, p)
	r.fatal(err)
}

func (r *rig) check(name string, want []byte) {
	r.t.Helper()
	got := make([]byte, len(want))
	if err := r.ns.ReadAt(context.Background(), name, 0, got); err != nil || !bytes.Equal(got, want) {
		r.t.Fatalf("%s: %v, equal %v", name, err, bytes.Equal(got, want))
	}
}

// problems returns what a full check finds that is at least so bad.
func (r *rig) problems(least Severity) (out []Problem) {
	r.t.Helper()
	_, err := r.m.Check(context.Background(), CheckOptions{Full: true}, func(p Problem) {
		if p.Severity >= least {
			out = append(out, p)
		}
	})
	r.fatal(err)
	return out
}

// fragments counts what is on all disks.
func (r *rig) fragments() (n int) {
	for _, d := range r.disks {
		n += len(d.Keys())
	}
	return n
}

func (r *rig) tidy() {
	r.t.Helper()
	ctx := context.Background()
	r.fatal(r.m.unpark(ctx))
	r.fatal(r.m.Repair(ctx))
	r.fatal(r.m.DeleteObsolete(ctx, r.ns.NSM()))
	_, err := r.m.Collect(ctx)
	r.fatal(err)
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(p)
	return p
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}
