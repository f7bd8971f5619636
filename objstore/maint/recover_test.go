package maint

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// forget loses all rows of the namespace.
func (r *rig) forget() {
	r.t.Helper()
	r.fatal(r.store.Update(ctx0, kv.Durable, func(tx kv.Txn) error {
		for _, ks := range []kv.Keyspace{"obj/manifest", "obj/count", "obj/degraded", "obj/obsolete", "obj/parked", "obj/alloc", "obj/hold"} {
			var keys [][]byte
			if err := tx.Range(ks, kv.Range{}, func(k, _ []byte) bool { keys = append(keys, append([]byte(nil), k...)); return true }); err != nil {
				return err
			}
			for _, k := range keys {
				tx.Delete(ks, k)
			}
		}
		return nil
	}))
}

func (r *rig) reopen() {
	r.t.Helper()
	r.fatal(r.store.Sync(ctx0))
	r.crash(rand.New(rand.NewPCG(1, 1)))
}

func (r *rig) recover(o RecoverOptions) Recovered {
	r.t.Helper()
	out, err := r.m.Recover(ctx0, r.ns, o)
	r.fatal(err)
	return out
}

func (r *rig) absent(name string) {
	r.t.Helper()
	if _, err := r.ns.Stat(ctx0, name); !errors.Is(err, objstore.ErrNotFound) {
		r.t.Fatalf("%s is there: %v", name, err)
	}
}

// TestRecover loses every row, two disks, and some fragments, after objects were deleted, put again, healed
// and coded anew; what exists comes back as it was and what does not exist does not.
func TestRecover(t *testing.T) {
	r := newRig(t, 8, p42, p22)
	defer func() { r.close() }()
	want := make(map[string][]byte)
	put := func(name string, p []byte) {
		r.put(name, p)
		want[name] = p
	}
	for i, n := range []int{1, 63, 900, 20_000, 70_000, 300_000} {
		put(fmt.Sprint("noise", i), noise(n))
		put(fmt.Sprint("zeros", i), make([]byte, n))
	}
	for _, name := range []string{"noise4", "zeros5", "noise0"} { // gone, or there again
		r.fatal(r.ns.Delete(ctx0, name))
		delete(want, name)
	}
	put("noise4", noise(50_000))
	put("noise0", noise(2))
	// Two disks lost and rebuilt: fragments move and versions rise.
	r.down(6)
	r.down(7)
	r.fatal(r.m.Repair(ctx0))
	r.attach(6)
	r.attach(7)
	put("new", noise(40_000))
	r.tidy()
	before := r.manifests()

	r.forget()
	r.reopen()
	r.down(2)
	hurt := 0
	for _, d := range []int{0} {
		for n, k := range r.disks[d].Keys() {
			switch n % 3 {
			case 0:
				r.disks[d].Corrupt(k, 7)
				hurt++
			case 1:
				r.disks[d].Shorten(k, 3)
				hurt++
			}
		}
	}
	var seen Recovered
	got := r.recover(RecoverOptions{Progress: func(p Recovered) { seen = p }})
	if got.Adopted != int64(len(want)) || got.Incomplete != 0 || got.Damaged != int64(hurt) || len(got.Absent) != 1 || got.Degraded == 0 || seen.Adopted != got.Adopted {
		t.Fatalf("%+v, %d objects, %d hurt", got, len(want), hurt)
	}
	for name, p := range want {
		r.check(name, p)
	}
	r.absent("zeros5")
	if problems, err := r.ns.NSM().Recount(ctx0); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	// A second run changes nothing, and repair makes all as it was.
	if again := r.recover(RecoverOptions{Everything: true}); again.Unchanged != got.Adopted || again.Adopted+again.Corrected+again.Incomplete != 0 {
		t.Fatalf("%+v", again)
	}
	r.put("after", noise(999))
	r.attach(2)
	r.recover(RecoverOptions{Everything: true})
	r.tidy()
	for name, m := range r.manifests() {
		if b := before[name]; b != nil && (!m.Complete() || m.Sum != b.Sum || m.Size != b.Size) {
			t.Fatalf("%s:\n%+v\nbefore\n%+v", name, m, b)
		}
	}
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
}

func (r *rig) manifests() map[string]*manifest.Manifest {
	r.t.Helper()
	out := make(map[string]*manifest.Manifest)
	r.fatal(r.ns.NSM().List(ctx0, "", "", func(name string, m *manifest.Manifest) bool { out[name] = m; return true }))
	return out
}

// TestRecoverIsExact: with all disks there and whole, every manifest comes back to the last bit.
func TestRecoverIsExact(t *testing.T) {
	r := newRig(t, 8, p42, p22)
	defer func() { r.close() }()
	for i, n := range []int{1, 5000, 33_000, 200_000} {
		r.put(fmt.Sprint("noise", i), noise(n))
		r.put(fmt.Sprint("zeros", i), make([]byte, n))
	}
	r.down(3)
	r.fatal(r.m.Repair(ctx0))
	r.attach(3)
	r.tidy()
	before := r.manifests()
	r.forget()
	r.reopen()
	r.recover(RecoverOptions{})
	after := r.manifests()
	if len(after) != len(before) {
		t.Fatalf("%d objects, %d before", len(after), len(before))
	}
	for name, m := range before {
		if string(m.Encode(nil)) != string(after[name].Encode(nil)) {
			t.Errorf("%s:\n%+v\nbefore\n%+v", name, after[name], m)
		}
	}
}

// TestOldStore restores a store to what it was a while ago. New uploads must not take the ids of those that
// it does not know of, nor may these be collected, until Recover has looked at them.
func TestOldStore(t *testing.T) {
	r := newRig(t, 7, p42)
	defer func() { r.close() }()
	r.put("old", noise(20_000))
	r.put("dead", noise(9_000))
	r.fatal(r.store.Sync(ctx0))
	backup := r.store.CrashPrefix(rand.New(rand.NewPCG(1, 1)))
	r.reopen() // ids are fetched anew
	r.put("lost", noise(30_000))
	r.put("young", noise(7))
	r.fatal(r.ns.Delete(ctx0, "young", "dead"))
	r.tidy()
	ids := r.manifests()["lost"].ID

	r.close()
	r.store = backup
	r.open()
	r.absent("lost")
	r.put("new", noise(10_000))
	if id := r.manifests()["new"].ID; id <= ids {
		t.Fatalf("a new upload has id %d, there is one on disks with %d", id, ids)
	}
	if _, err := r.m.Collect(ctx0); err != nil {
		t.Fatal(err)
	}
	unknown := 0
	for _, p := range r.problems(Warning) {
		if p.Kind == "unknown" {
			unknown++
		}
	}
	if unknown == 0 {
		t.Fatal("the check does not tell of fragments that the store does not know of")
	}
	got := r.recover(RecoverOptions{})
	if got.Adopted != 1 || got.Known == 0 {
		t.Fatalf("%+v", got)
	}
	for name, p := range map[string][]byte{"old": noise(20_000), "lost": noise(30_000), "new": noise(10_000)} {
		r.check(name, p)
	}
	r.absent("young")
	if h, err := r.ns.NSM().Held(ctx0); err != nil || h.To != 0 {
		t.Fatal(h, err)
	}
	// The backup remembers an object that was deleted since, of which nothing is left.
	_ = r.m.Repair(ctx0)
	r.fatal(r.ns.Delete(ctx0, "dead"))
	r.tidy()
	if p := r.problems(Note); len(p) > 0 {
		t.Fatal(p)
	}
}

// TestRecoverFails when a disk fails meanwhile, rather than to give up objects that are whole.
func TestRecoverFails(t *testing.T) {
	r := newRig(t, 6, p42)
	defer func() { r.close() }()
	r.put("x", noise(20_000))
	r.forget()
	r.disks[2].Set(disktest.Fault{ReadErr: errors.New("I/O error")})
	if got, err := r.m.Recover(ctx0, r.ns, RecoverOptions{}); err == nil {
		t.Fatalf("%+v", got)
	}
	r.disks[2].Set(disktest.Fault{})
	if got := r.recover(RecoverOptions{}); got.Adopted+got.Unchanged != 1 {
		t.Fatalf("%+v", got)
	}
	r.check("x", noise(20_000))
}

// TestRecoverModel: after any history, a loss of all rows and of up to m disks, Recover brings back what
// exists, and nothing that was deleted and whose fragments were deleted.
func TestRecoverModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t, 7, p42, p22)
		defer func() { r.close() }()
		want := make(map[string][]byte)
		for i := range rapid.IntRange(1, 14).Draw(t, "steps") {
			name := fmt.Sprint("o", rapid.IntRange(0, 4).Draw(t, "name"))
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0, 1, 2:
				if want[name] == nil {
					want[name] = noise(rapid.SampledFrom([]int{1, 900, 20_000, 70_000}).Draw(t, "size") + i)
					r.put(name, want[name])
				}
			case 3:
				r.fatal(r.ns.Delete(ctx0, name))
				r.fatal(r.m.DeleteObsolete(ctx0, r.ns.NSM()))
				delete(want, name)
			case 4:
				d := rapid.IntRange(0, 6).Draw(t, "disk")
				r.down(d)
				r.fatal(r.m.Repair(ctx0))
				r.attach(d)
				r.fatal(r.m.unpark(ctx0))
			case 5: // an upload that is never registered
				u, err := r.ns.NSM().Begin(ctx0)
				r.fatal(err)
				r.ns.NSM().End(u)
			case 6:
				r.tidy()
			}
		}
		r.fatal(r.m.DeleteObsolete(ctx0, r.ns.NSM()))
		r.forget()
		r.reopen()
		for range rapid.IntRange(0, 2).Draw(t, "lost") {
			if d := rapid.IntRange(0, 6).Draw(t, "disk"); r.mgr.Disk(objstore.DiskID(d + 1)).Readable() {
				r.down(d)
			}
		}
		r.recover(RecoverOptions{})
		have := r.manifests()
		for name, p := range want {
			r.check(name, p)
			delete(have, name)
		}
		if len(have) > 0 {
			t.Fatalf("came back: %v", have)
		}
		if problems, err := r.ns.NSM().Recount(context.Background()); err != nil || len(problems) > 0 {
			t.Fatal(problems, err)
		}
	})
}

// TestRecoverCompressed loses every row and a disk under objects of many frames, whose sums lie behind them in the
// data, some of them across two fragments.
func TestRecoverCompressed(t *testing.T) {
	r := &rig{t: t, policies: []objstore.Policy{p22}, grace: time.Minute, fragment: 256 << 10}
	r.begin(5)
	defer func() { r.close() }()
	rng := rand.New(rand.NewPCG(1, 2))
	want := make(map[string][]byte)
	for i := range 6 {
		p := noise(900_000 + i)
		for f := 0; f < len(p); f += objstore.FrameSize { // frames of all lengths
			frame := p[f:min(len(p), f+objstore.FrameSize)]
			clear(frame[:rng.IntN(len(frame))])
		}
		name := fmt.Sprint("o", i)
		r.put(name, p)
		want[name] = p
	}
	r.tidy()
	before := r.manifests()
	r.forget()
	r.reopen()
	r.down(1)
	if got := r.recover(RecoverOptions{}); got.Adopted != int64(len(want)) || got.Incomplete != 0 {
		t.Fatalf("%+v", got)
	}
	after := r.manifests()
	for name, p := range want {
		r.check(name, p)
		m := after[name]
		if m == nil || m.Sum != crc.Sum(p) || m.Sum != before[name].Sum || len(m.Chunks) != 2 || !m.Chunks[0].Frames.Summed {
			t.Fatalf("%s: %+v", name, m)
		}
	}
}
