package stacked_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
	"github.com/gabionfs/gabion/objstore/stacked"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ctx0  = context.Background()
	owner = asd.ID{1}
)

// lower returns a namespace over disks in memory, and the disks.
func lower(t testing.TB, p objstore.Policy) (stacked.Lower, []*disktest.Disk) {
	t.Helper()
	store := memkv.New()
	mgr, err := manager.Open(ctx0, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	var disks []*disktest.Disk
	for i := range p.K + p.M {
		d := disktest.New(0)
		if _, err := mgr.Attach(ctx0, fmt.Sprint("asd", i), fmt.Sprint("dir", i), "here", d); err != nil {
			t.Fatal(err)
		}
		disks = append(disks, d)
	}
	c := client.New(client.Options{Disks: mgr})
	n := nsm.Open(store, nsm.Options{Name: "low", Number: 1, Policies: []objstore.Policy{p}, Disks: mgr})
	ns := c.Namespace(n, objstore.Preset{Name: "p", Policies: []objstore.Policy{p}, FragmentSize: 8 << 20})
	t.Cleanup(func() {
		c.Close()
		for _, d := range mgr.Disks() {
			d.Shutdown()
		}
		_ = store.Close()
	})
	room := func(context.Context) (objstore.Capacity, error) {
		return objstore.Capacity{Total: 1 << 40, Free: 1 << 40}, nil
	}
	return stacked.Lower{Namespace: ns, Backend: "low", Room: room}, disks
}

func open(t testing.TB, low stacked.Lower) *stacked.Disk {
	t.Helper()
	d, err := stacked.Open(ctx0, low, owner)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func claimed(t testing.TB, p objstore.Policy) (*stacked.Disk, stacked.Lower, []*disktest.Disk) {
	t.Helper()
	low, disks := lower(t, p)
	if _, err := stacked.Claim(ctx0, low, owner); err != nil {
		t.Fatal(err)
	}
	return open(t, low), low, disks
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(p)
	return p
}
