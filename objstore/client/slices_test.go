package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/fragcache"
	"github.com/gabionfs/gabion/objstore/nstest"
)

// manyDisk is a disk that answers many reads at once.
type manyDisk struct {
	*disktest.Disk
	calls, single *atomic.Int64
	fail          *atomic.Pointer[error]
}

func (d manyDisk) Node() string { return "there" }

func (d manyDisk) ReadFragment(ctx context.Context, k objstore.FragmentKey, off int64, p []byte) error {
	d.single.Add(1)
	return d.Disk.ReadFragment(ctx, k, off, p)
}

func (d manyDisk) ReadFragments(ctx context.Context, reads []objstore.FragmentRead) error {
	d.calls.Add(1)
	if err := d.fail.Load(); err != nil {
		return *err
	}
	for i := range reads {
		r := &reads[i]
		if r.Err = d.Disk.ReadFragment(ctx, r.Key, r.Off, r.P); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// manyRig has six such disks.
type manyRig struct {
	*rig
	calls, single atomic.Int64
	fail          atomic.Pointer[error]
}

func newManyRig(t testing.TB, p objstore.Preset, o Options) *manyRig {
	r := &manyRig{}
	r.rig = newRigOf(t, 6, p, o, func(d *disktest.Disk) objstore.Disk { return manyDisk{d, &r.calls, &r.single, &r.fail} })
	return r
}

func TestContract(t *testing.T) {
	for _, how := range []objstore.Compression{objstore.CompressNone, objstore.CompressS2} {
		p := preset(how, 128<<10, p42)
		t.Run("one by one/"+how.String(), func(t *testing.T) {
			nstest.Run(t, func(t testing.TB) objstore.Namespace { return newRig(t, 6, p, patient).ns })
		})
		t.Run("many/"+how.String(), func(t *testing.T) {
			nstest.Run(t, func(t testing.TB) objstore.Namespace { return newManyRig(t, p, patient).ns })
		})
		t.Run("cached/"+how.String(), func(t *testing.T) {
			nstest.Run(t, func(t testing.TB) objstore.Namespace {
				o := patient
				c, err := fragcache.Open(fragcache.Options{Memory: 1 << 20})
				if err != nil {
					t.Fatal(err)
				}
				o.Fragments, o.CacheReads, o.CacheWrites = c, true, true
				return newManyRig(t, p, o).ns
			})
		})
	}
}

// fill puts objects and returns slices of them, the content that they should have, and a check.
func (r *manyRig) fill(objects, size int, content func(int) []byte) (list []objstore.Slice, check func()) {
	all := make([][]byte, objects)
	for i := range all {
		all[i] = content(size + i)
		r.put(fmt.Sprint(i), all[i])
		for j := range 4 {
			list = append(list, objstore.Slice{Name: fmt.Sprint(i), Off: int64(j * size / 4), P: make([]byte, 1000)})
		}
	}
	return list, func() {
		r.t.Helper()
		for i := range list {
			clear(list[i].P)
		}
		if err := r.ns.ReadSlices(context.Background(), list); err != nil {
			r.t.Fatal(err)
		}
		for i, s := range list {
			if !bytes.Equal(s.P, all[i/4][s.Off:][:1000]) {
				r.t.Fatalf("slice %d is wrong", i)
			}
		}
	}
}

// TestSlicesGoTogether: however many slices there are, a disk is asked once.
func TestSlicesGoTogether(t *testing.T) {
	for name, content := range map[string]func(int) []byte{"noise": noise, "text": text} {
		r := newManyRig(t, preset(objstore.CompressS2, 0, p42), patient)
		_, check := r.fill(40, 300_000, content)
		before := r.read()
		check()
		if r.calls.Load() > 6 || r.single.Load() > 0 {
			t.Fatalf("%s: %d calls and %d reads for 160 slices", name, r.calls.Load(), r.single.Load())
		}
		if n := r.read() - before; name == "noise" && n > 40*4*2*64<<10 {
			t.Fatalf("%d bytes were read for 160,000", n)
		}
	}
}

// TestSlicesSurvive: what the common call does not bring is read as always.
func TestSlicesSurvive(t *testing.T) {
	r := newManyRig(t, preset(objstore.CompressNone, 0, p42), Options{HedgeMin: 5 * time.Millisecond, Grace: time.Minute})
	_, check := r.fill(20, 100_000, noise)
	for i := range 20 {
		m, err := r.ns.nsm.Lookup(context.Background(), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		r.damage(m, 0, 1<<(i%6)|1<<((i+2)%6))
	}
	check()
	failure := errors.New("the call fails")
	r.fail.Store(&failure)
	r.calls.Store(0)
	check()
	if r.calls.Load() == 0 {
		t.Fatal("nobody has tried")
	}
	r.fail.Store(nil)
	s := r.seen
	s.mu.Lock()
	bad := len(s.bad)
	s.mu.Unlock()
	if bad == 0 {
		t.Fatal("nobody was told of the damage")
	}
	good := newManyRig(t, preset(objstore.CompressNone, 0, p42), Options{HedgeMin: 5 * time.Millisecond, Grace: time.Minute})
	_, check = good.fill(20, 100_000, noise)
	hanging := good.disks[2].Hang()
	defer hanging()
	check()
	if len(good.seen.bad) > 0 {
		t.Fatal("being late is no damage")
	}
}

// TestSlicesOfCached: what is in the cache is not asked for, and what was asked for is in the cache.
func TestSlicesOfCached(t *testing.T) {
	c, err := fragcache.Open(fragcache.Options{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	o := patient
	o.Fragments, o.CacheReads = c, true
	r := newManyRig(t, preset(objstore.CompressNone, 0, p42), o)
	_, check := r.fill(20, 300_000, noise)
	check()
	if n := r.calls.Load(); n == 0 || n > 6 || r.single.Load() > 0 {
		t.Fatalf("%d calls, %d reads", n, r.single.Load())
	}
	r.calls.Store(0)
	check()
	if r.calls.Load() > 0 || r.single.Load() > 0 {
		t.Fatalf("%d calls, %d reads of what is in the cache", r.calls.Load(), r.single.Load())
	}
}

var _ objstore.MultiDisk = manyDisk{}
