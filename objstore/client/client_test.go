package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a client over disks in memory.
type rig struct {
	t     testing.TB
	store *memkv.Store
	mgr   *manager.Manager
	c     *Client
	ns    *Namespace
	disks []*disktest.Disk // disk number i+1
	seen  *troubles
}

// troubles collects what the client reports.
type troubles struct {
	mu       sync.Mutex
	degraded map[string]int
	bad      []objstore.FragmentKey
}

func (s *troubles) Degraded(_ *nsm.Manager, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.degraded[name]++
}
func (s *troubles) Bad(_ *nsm.Manager, _ string, k objstore.FragmentKey, _ objstore.DiskID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = append(s.bad, k)
}
func (s *troubles) Obsolete(*nsm.Manager) {}

func newRig(t testing.TB, disks int, preset objstore.Preset, o Options) *rig {
	t.Helper()
	return newRigOf(t, disks, preset, o, func(d *disktest.Disk) objstore.Disk { return d })
}

// newRigOf is newRig with disks that wrap makes of those in memory.
func newRigOf(t testing.TB, disks int, preset objstore.Preset, o Options, wrap func(*disktest.Disk) objstore.Disk) *rig {
	t.Helper()
	ctx := context.Background()
	r := &rig{t: t, store: memkv.New(memkv.Rerun()), seen: &troubles{degraded: map[string]int{}}}
	var err error
	if r.mgr, err = manager.Open(ctx, r.store, nil); err != nil {
		t.Fatal(err)
	}
	for i := range disks {
		d := disktest.New(0)
		if _, err := r.mgr.Attach(ctx, fmt.Sprint("asd", i), fmt.Sprint("dir", i), "here", wrap(d)); err != nil {
			t.Fatal(err)
		}
		r.disks = append(r.disks, d)
	}
	o.Disks, o.Trouble = r.mgr, r.seen
	r.c = New(o)
	preset.Name = "p"
	n := nsm.Open(r.store, nsm.Options{Name: "test", Number: 1, Policies: preset.Policies, Disks: r.mgr})
	r.ns = r.c.Namespace(n, preset)
	t.Cleanup(func() {
		r.c.Close()
		for _, d := range r.mgr.Disks() {
			d.Shutdown()
		}
		_ = r.store.Close()
	})
	return r
}

func (r *rig) put(name string, p []byte) objstore.Info {
	r.t.Helper()
	info, err := r.ns.Put(context.Background(), name, p)
	if err != nil {
		r.t.Fatal(err)
	}
	return info
}

// check reads an object whole and in random parts and compares.
func (r *rig) check(name string, want []byte) {
	r.t.Helper()
	ctx := context.Background()
	got := make([]byte, len(want))
	if err := r.ns.ReadAt(ctx, name, 0, got); err != nil || !bytes.Equal(got, want) {
		r.t.Fatalf("%s: %v, equal %v", name, err, bytes.Equal(got, want))
	}
	for range 5 {
		if len(want) == 0 {
			break
		}
		off := rand.IntN(len(want))
		n := rand.IntN(min(len(want)-off, 70000) + 1)
		if err := r.ns.ReadAt(ctx, name, int64(off), got[:n]); err != nil || !bytes.Equal(got[:n], want[off:off+n]) {
			r.t.Fatalf("%s: %d at %d: %v", name, n, off, err)
		}
	}
}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(p)
	return p
}

func text(n int) []byte {
	return []byte(strings.Repeat("all work and no play makes jack a dull boy\n", n/43+1))[:n]
}

func preset(how objstore.Compression, fragment int, policies ...objstore.Policy) objstore.Preset {
	return objstore.Preset{Policies: policies, FragmentSize: fragment, Compression: how}
}

// patient is for tests that want what is not slow to be waited for, also where there are few processors for many
// tests.
var patient = Options{Grace: time.Minute, HedgeMin: time.Minute}

var p42 = objstore.Policy{K: 4, M: 2, C: 5, X: 6}

func TestPutAndRead(t *testing.T) {
	for _, how := range []objstore.Compression{objstore.CompressNone, objstore.CompressS2, objstore.CompressZstd} {
		r := newRig(t, 6, preset(how, 128<<10, p42), patient)
		for _, n := range []int{0, 1, 100, 4096, 65536, 300_000, 512 << 10, 512<<10 + 1, 3_000_000} {
			for kind, p := range map[string][]byte{"noise": noise(n), "text": text(n)} {
				name := fmt.Sprint(kind, n)
				info := r.put(name, p)
				if info.Size != int64(n) {
					t.Fatal(info)
				}
				r.check(name, p)
				streamed, err := r.ns.PutFrom(context.Background(), name+"s", io.MultiReader(bytes.NewReader(p)), int64(n))
				if err != nil || streamed.Size != int64(n) || streamed.Stored != info.Stored {
					t.Fatalf("%s: %+v, %v, want like %+v", name, streamed, err, info)
				}
				r.check(name+"s", p)
				m, _ := r.ns.nsm.Fetch(context.Background(), name)
				ms, _ := r.ns.nsm.Fetch(context.Background(), name+"s")
				if m.Sum != sumOf(p) || ms.Sum != sumOf(p) {
					t.Fatalf("%s: sum %08x and %08x, want %08x", name, m.Sum, ms.Sum, sumOf(p))
				}
			}
		}
		if len(r.seen.degraded)+len(r.seen.bad) > 0 {
			t.Fatalf("trouble without cause: %+v", r.seen)
		}
		r.waitFor(func() bool { // late ones are confirmed
			names, _, err := r.ns.nsm.Degraded(context.Background(), 0, 1)
			return err == nil && len(names) == 0
		})
	}
}

func TestNamesAndErrors(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, preset(objstore.CompressNone, 0, p42), Options{})
	p := noise(10000)
	r.put("a", p)
	if _, err := r.ns.Put(ctx, "a", p); !errors.Is(err, objstore.ErrExists) {
		t.Fatal(err)
	}
	for _, bad := range []string{"", strings.Repeat("x", objstore.MaxName+1)} {
		if _, err := r.ns.Put(ctx, bad, p); err == nil {
			t.Fatalf("put of a name of %d bytes", len(bad))
		}
	}
	if err := r.ns.ReadAt(ctx, "a", 9999, make([]byte, 2)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if err := r.ns.ReadAt(ctx, "a", 10000, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.ns.ReadAt(ctx, "a", -1, make([]byte, 2)); err == nil {
		t.Fatal("negative offset")
	}
	if err := r.ns.ReadAt(ctx, "b", 0, nil); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := r.ns.PutFrom(ctx, "short", io.MultiReader(bytes.NewReader(p)), 20000); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	r.put("b", p)
	one, two := make([]byte, 10), make([]byte, 5000)
	if err := r.ns.ReadSlices(ctx, []objstore.Slice{{Name: "a", Off: 5, P: one}, {Name: "b", Off: 5000, P: two}}); err != nil ||
		!bytes.Equal(one, p[5:15]) || !bytes.Equal(two, p[5000:]) {
		t.Fatal(err)
	}
	var names []string
	if err := r.ns.List(ctx, "", "", func(i objstore.Info) bool { names = append(names, i.Name); return true }); err != nil || fmt.Sprint(names) != "[a b]" {
		t.Fatal(names, err)
	}
	if err := r.ns.Delete(ctx, "a", "absent"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ns.Stat(ctx, "a"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
}

// TestEveryLossAndCorruption damages every set of up to m fragments in each way and reads.
func TestEveryLossAndCorruption(t *testing.T) {
	for _, p := range []objstore.Policy{{K: 2, M: 1, C: 3, X: 3}, {K: 4, M: 2, C: 6, X: 6}, {K: 8, M: 3, C: 11, X: 11}} {
		t.Run(p.String(), func(t *testing.T) {
			n := p.K + p.M
			// One rig with objects that are damaged in turn; each loss gets an object of its own.
			r := newRig(t, n, preset(objstore.CompressS2, 64<<10, p), Options{})
			ctx := context.Background()
			for lost := 1; lost < 1<<n; lost++ {
				if bits.OnesCount(uint(lost)) > p.M {
					continue
				}
				p := text(90_000)
				if lost%2 == 0 {
					p = noise(90_000)
				}
				name := fmt.Sprint(lost)
				r.put(name, p)
				m, err := r.ns.nsm.Lookup(ctx, name)
				if err != nil {
					t.Fatal(err)
				}
				r.damage(m, 0, lost)
				r.check(name, p)
				if err := r.ns.Delete(ctx, name); err != nil {
					t.Fatal(err)
				}
			}
			whole := noise(90_000)
			r.put("lost", whole)
			m, _ := r.ns.nsm.Lookup(ctx, "lost")
			r.damage(m, 0, 1<<(p.M+1)-1)
			var lost *objstore.LostError
			if err := r.ns.ReadAt(ctx, "lost", 0, make([]byte, len(whole))); !errors.As(err, &lost) || lost.Intact != p.K-1 {
				t.Fatal(err)
			}
		})
	}
}

// damage hurts the fragments in the set, each in another way.
func (r *rig) damage(m *manifest.Manifest, chunk, set int) {
	for i, f := range m.Chunks[chunk].Fragments {
		if set>>i&1 == 0 {
			continue
		}
		d, key := r.disks[f.Disk-1], m.Key(1, chunk, i)
		switch (i + set) % 3 {
		case 0:
			d.Lose(key)
		case 1:
			for at := 0; at < m.Chunks[chunk].FragmentLen(); at += 4096 {
				d.Corrupt(key, at)
			}
		case 2:
			d.Shorten(key, 1)
		}
	}
}

func TestSmallReadTouchesOneBlock(t *testing.T) {
	r := newRig(t, 6, preset(objstore.CompressS2, 0, p42), patient)
	p := noise(4 << 20)
	r.put("x", p)
	before := r.read()
	b := make([]byte, 4096)
	if err := r.ns.ReadAt(context.Background(), "x", 1<<20+12*4096, b); err != nil || !bytes.Equal(b, p[1<<20+12*4096:][:4096]) {
		t.Fatal(err)
	}
	if n := r.read() - before; n != 64<<10 {
		t.Fatalf("%d bytes were read for 4 KiB", n)
	}
	// Of a compressed object one frame, and the second time none.
	r.put("t", text(4<<20))
	for i, most := range []int64{128 << 10, 0} {
		before = r.read()
		if err := r.ns.ReadAt(context.Background(), "t", 1<<20+int64(i)*4096, b); err != nil {
			t.Fatal(err)
		}
		if n := r.read() - before; n > most {
			t.Fatalf("%d bytes were read for 4 KiB of text", n)
		}
	}
}

func (r *rig) read() (n int64) {
	for _, d := range r.disks {
		n += d.BytesRead()
	}
	return n
}

func TestSlowDiskIsOvertaken(t *testing.T) {
	r := newRig(t, 6, preset(objstore.CompressNone, 0, p42), Options{HedgeMin: time.Millisecond})
	p := noise(400_000)
	r.put("x", p)
	release := r.disks[2].Hang()
	defer release()
	r.check("x", p)
	if len(r.seen.bad)+len(r.seen.degraded) > 0 {
		t.Fatalf("being late is no damage: %+v", r.seen)
	}
}

// has returns which fragment of the object's first chunk is on a disk.
func (s *Namespace) has(t testing.TB, name string, disk objstore.DiskID) int {
	m, err := s.nsm.Lookup(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range m.Chunks[0].Fragments {
		if f.Disk == disk {
			return i
		}
	}
	return -1
}

func (r *rig) waitFor(cond func() bool) {
	r.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal("it does not come")
		}
	}
}

func (r *rig) recount() {
	r.t.Helper()
	if problems, err := r.ns.nsm.Recount(context.Background()); err != nil || len(problems) > 0 {
		r.t.Fatal(problems, err)
	}
}

func TestCancelledPutLeavesNothing(t *testing.T) {
	r := newRig(t, 6, preset(objstore.CompressNone, 0, p42), Options{})
	ctx, cancel := context.WithCancel(context.Background())
	var releases []func()
	for _, d := range r.disks[:3] {
		releases = append(releases, d.Hang())
	}
	done := make(chan error)
	go func() {
		_, err := r.ns.Put(ctx, "x", noise(1000))
		done <- err
	}()
	r.waitFor(func() bool { return len(r.disks[5].Keys()) == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for _, f := range releases {
		f()
	}
	r.waitFor(func() bool {
		queue, err := r.ns.nsm.Obsoletes(context.Background(), 0, 10)
		return err == nil && len(queue) == 1 && len(queue[0].At) == 6
	})
	r.put("x", noise(1000))
}

func TestParallel(t *testing.T) {
	r := newRig(t, 6, preset(objstore.CompressS2, 64<<10, p42), Options{WriteMemory: 1 << 20, PoolMemory: 1 << 20})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				p := noise(rand.IntN(600_000))
				name := fmt.Sprint(w, "/", i)
				var err error
				if i%2 == 0 {
					_, err = r.ns.Put(context.Background(), name, p)
				} else {
					_, err = r.ns.PutFrom(context.Background(), name, io.MultiReader(bytes.NewReader(p)), int64(len(p)))
				}
				if err != nil {
					t.Error(err)
					return
				}
				r.check(name, p)
				if i%3 == 0 {
					if err := r.ns.Delete(context.Background(), name); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	r.recount()
}

func sumOf(p []byte) uint32 { return crc.Sum(p) }

// TestRoomIsNoticedAtOnce: disks that refused a write are asked again before the next one is refused, however
// long ago they were looked at.
func TestRoomIsNoticedAtOnce(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, preset(objstore.CompressNone, 256<<10, p42), patient)
	r.put("kept", noise(100_000))
	for _, d := range r.disks {
		d.Resize(64 << 10)
	}
	for range 2 {
		if _, err := r.ns.Put(ctx, "more", noise(300_000)); !errors.Is(err, objstore.ErrFull) {
			t.Fatalf("put on full disks: %v", err)
		}
	}
	for _, d := range r.disks {
		d.Resize(1 << 20)
	}
	r.put("more", noise(300_000))
	r.check("more", noise(300_000))
	if len(r.seen.degraded) > 0 {
		t.Fatalf("not all disks were used: %v", r.seen.degraded)
	}
}
