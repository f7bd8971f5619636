package stacked_test

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/stacked"
)

var (
	p10 = objstore.Policy{K: 1, M: 0, C: 1, X: 1}
	p21 = objstore.Policy{K: 2, M: 1, C: 3, X: 3}
)

func TestContract(t *testing.T) {
	for name, p := range map[string]objstore.Policy{"1,0": p10, "2,1": p21} {
		t.Run(name, func(t *testing.T) {
			disktest.Run(t, func(t testing.TB) objstore.Disk {
				d, _, _ := claimed(t, p)
				return d
			})
		})
	}
}

func TestClaim(t *testing.T) {
	low, _ := lower(t, p21)
	if _, err := stacked.Open(ctx0, low, owner); !errors.Is(err, asd.ErrMissing) {
		t.Fatal(err)
	}
	// Of many one succeeds.
	var won atomic.Int32
	var winner asd.ID
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			who := asd.ID{byte(i + 1)}
			switch _, err := stacked.Claim(ctx0, low, who); {
			case err == nil:
				won.Add(1)
				winner = who
			case !errors.Is(err, asd.ErrClaimed):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d claims", won.Load())
	}
	d, err := stacked.Open(ctx0, low, winner)
	if err != nil {
		t.Fatal(err)
	}
	again, err := stacked.Open(ctx0, low, winner)
	if err != nil || again.ID() != d.ID() || d.ID().IsZero() {
		t.Fatal(err)
	}
	if _, err := stacked.Open(ctx0, low, asd.ID{99}); !errors.Is(err, asd.ErrClaimed) {
		t.Fatal(err)
	}
	used, _ := lower(t, p10)
	if _, err := used.Namespace.Put(ctx0, "somebody's", []byte("object")); err != nil {
		t.Fatal(err)
	}
	if _, err := stacked.Claim(ctx0, used, owner); !errors.Is(err, asd.ErrNotEmpty) {
		t.Fatal(err)
	}
}

var key1 = objstore.FragmentKey{Namespace: 3, Object: 1 << 40, Chunk: 2, Fragment: 255, Version: 300}

func put(t *testing.T, d objstore.Disk, k objstore.FragmentKey, info string, p []byte) {
	t.Helper()
	if err := d.PutFragment(ctx0, k, []byte(info), p, crc.Blocks(nil, p)); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, d objstore.Disk, k objstore.FragmentKey, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := d.ReadFragment(ctx0, k, 0, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v: equal %v", err, bytes.Equal(got, want))
	}
}

// TestBelowHeals damages what lies below: with parity nobody notices, without the fragment is damaged.
func TestBelowHeals(t *testing.T) {
	for _, p := range []objstore.Policy{p21, p10} {
		d, low, disks := claimed(t, p)
		data := noise(300_000)
		put(t, d, key1, "info", data)
		for _, k := range disks[0].Keys() {
			disks[0].Corrupt(k, 7)
		}
		d = open(t, low) // which remembers nothing
		if p.M > 0 {
			check(t, d, key1, data)
			continue
		}
		var corrupt *objstore.CorruptError
		if err := d.ReadFragment(ctx0, key1, 0, make([]byte, len(data))); !errors.As(err, &corrupt) {
			t.Fatal(err)
		}
		if has, err := d.HasFragments(ctx0, []objstore.FragmentKey{key1}); err != nil || !has[0] {
			t.Fatal(has, err)
		}
		put(t, d, key1, "info", data) // putting it again cures it
		check(t, d, key1, data)
	}
}

// TestWrongChecksumsAreRefused: what is damaged already is not stored.
func TestWrongChecksumsAreRefused(t *testing.T) {
	d, low, _ := claimed(t, p10)
	data := noise(100_000)
	sums := crc.Blocks(nil, data)
	sums[1]++
	var corrupt *objstore.CorruptError
	if err := d.PutFragment(ctx0, key1, nil, data, sums); !errors.As(err, &corrupt) {
		t.Fatal(err)
	}
	if n := objects(t, low); n != 2 {
		t.Fatalf("%d objects, the claim has 2", n)
	}
}

func objects(t *testing.T, low stacked.Lower) (n int) {
	t.Helper()
	if err := low.Namespace.List(ctx0, "", "", func(objstore.Info) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTwoOpeners put, exchange and delete one fragment through two values, as two processes would: neither reads what
// it remembers, and there is one object in the end.
func TestTwoOpeners(t *testing.T) {
	a, low, _ := claimed(t, p21)
	b := open(t, low)
	for i, n := range []int{100_000, 99_990, 10, 200_000, 200_000} {
		w, r := a, b
		if i%2 == 1 {
			w, r = b, a
		}
		data := disktest.Bytes(i, n)
		put(t, w, key1, "info", data)
		check(t, r, key1, data)
		got := make([]byte, 10)
		if err := r.ReadFragment(ctx0, key1, int64(n-10), got); err != nil || !bytes.Equal(got, data[n-10:]) {
			t.Fatal(err)
		}
		if info, err := r.ReadRecovery(ctx0, key1); err != nil || string(info) != "info" {
			t.Fatal(string(info), err)
		}
		if n := objects(t, low); n != 3 {
			t.Fatalf("%d objects", n)
		}
	}
	var wg sync.WaitGroup
	for i, d := range []*stacked.Disk{a, b, a, b} {
		wg.Go(func() { put(t, d, key1, "x", disktest.Bytes(i, 50_000)) })
	}
	wg.Wait()
	seen := 0
	err := a.Range(ctx0, objstore.FragmentKey{}, objstore.FragmentKey{Namespace: 9}, func(f objstore.FragmentInfo) bool {
		seen++
		return f.Key == key1 && f.Size == 50_000
	})
	if err != nil || seen != 1 {
		t.Fatal(seen, err)
	}
	if err := a.DeleteFragments(ctx0, []objstore.FragmentKey{key1}); err != nil {
		t.Fatal(err)
	}
	if err := b.ReadFragment(ctx0, key1, 0, make([]byte, 1)); !errors.Is(err, objstore.ErrNoFragment) {
		t.Fatal(err)
	}
	if n := objects(t, low); n != 2 {
		t.Fatalf("%d objects", n)
	}
}
