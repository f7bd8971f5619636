package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// vault is a rig whose namespace is encrypted.
type vault struct {
	*rig
	keys *crypt.Keys
}

func newVault(t testing.TB, disks int, p objstore.Preset, o Options) *vault {
	t.Helper()
	p.Encryption = objstore.EncryptAES
	v := &vault{rig: newRig(t, disks, p, o)}
	var err error
	if v.keys, err = crypt.NewKeys(crypt.Secret{Kind: crypt.KeyFile, Bytes: bytes.Repeat([]byte("k"), 32)}); err != nil {
		t.Fatal(err)
	}
	v.keys = v.keys.Add(1)
	v.unlock()
	return v
}

func (v *vault) unlock() {
	v.t.Helper()
	n, err := v.keys.Namespace(1)
	if err != nil {
		v.t.Fatal(err)
	}
	v.ns.SetKeys(n)
}

// everything returns all that lies on the disks, beside it, and in the store.
func (v *vault) everything() []byte {
	v.t.Helper()
	var out []byte
	for _, d := range v.disks {
		for _, k := range d.Keys() {
			out = append(out, v.raw(d, k)...)
			info, err := d.ReadRecovery(context.Background(), k)
			if err != nil {
				v.t.Fatal(err)
			}
			out = append(out, info...)
		}
	}
	err := v.store.View(context.Background(), kv.Pending, func(r kv.Reader) error {
		return r.Range("obj/manifest", kv.Range{}, func(key, value []byte) bool {
			out = append(out, value...)
			return true
		})
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// raw returns a fragment as it lies on a disk.
func (v *vault) raw(d *disktest.Disk, k objstore.FragmentKey) []byte {
	v.t.Helper()
	size := int64(-1)
	if err := d.Range(context.Background(), k, k.Next(), func(f objstore.FragmentInfo) bool { size = f.Size; return false }); err != nil || size < 0 {
		v.t.Fatal(k, err)
	}
	p := make([]byte, size)
	if err := d.ReadFragment(context.Background(), k, 0, p); err != nil {
		v.t.Fatal(err)
	}
	return p
}

// overwrite puts other data in the place of a fragment, with the checksums that go with it.
func (v *vault) overwrite(d *disktest.Disk, k objstore.FragmentKey, p []byte) {
	v.t.Helper()
	if err := d.PutFragment(context.Background(), k, nil, p, crc.Blocks(nil, p)); err != nil {
		v.t.Fatal(err)
	}
}

// refused reads an object and wants its frames not to open.
func (v *vault) refused(why, name string, n int) {
	v.t.Helper()
	p := make([]byte, n)
	var corrupt *objstore.CorruptError
	if err := v.ns.ReadAt(context.Background(), name, 0, p); !errors.As(err, &corrupt) {
		v.t.Fatalf("%s: %v", why, err)
	}
}

func TestSealedPutAndRead(t *testing.T) {
	const marker = "all work and no play"
	for _, how := range []objstore.Compression{objstore.CompressNone, objstore.CompressS2, objstore.CompressZstd} {
		p := preset(how, 128<<10, p42)
		p.Checksum = objstore.ChecksumBLAKE3
		v := newVault(t, 6, p, patient)
		for _, n := range []int{0, 1, 100, 4096, 65536, 128 << 10, 300_000, 512 << 10, 512<<10 + 1, 2_000_000} {
			for kind, p := range map[string][]byte{"noise": noise(n), "text": text(n)} {
				name := fmt.Sprint(kind, n)
				if info := v.put(name, p); info.Size != int64(n) {
					t.Fatal(info)
				}
				v.check(name, p)
				if _, err := v.ns.PutFrom(context.Background(), name+"s", io.MultiReader(bytes.NewReader(p)), int64(n)); err != nil {
					t.Fatal(err)
				}
				v.check(name+"s", p)
				m, err := v.ns.nsm.Fetch(context.Background(), name)
				if err != nil || (m.Seal == nil) != (n == 0) || m.Sum != 0 {
					t.Fatalf("%v %+v", err, m)
				}
			}
		}
		all := v.everything()
		if bytes.Contains(all, []byte(marker)) {
			t.Fatalf("%v: content lies there in the clear", how)
		}
		// The same content, twice, has nothing in common.
		probe := all[:64]
		if bytes.Count(all, probe) > 1 && !bytes.Equal(probe, make([]byte, 64)) {
			t.Fatal("the same bytes lie there twice")
		}
		v.recount()
	}
}

// TestSealedChangesAreNoticed flips every bit of a sealed frame, where the disk's own checksums would not tell.
func TestSealedChangesAreNoticed(t *testing.T) {
	one := objstore.Policy{K: 1, C: 1, X: 1}
	v := newVault(t, 1, preset(objstore.CompressS2, 0, one), Options{FrameCache: -1})
	p := noise(40)
	v.put("x", p)
	d, k := v.disks[0], v.disks[0].Keys()[0]
	was := v.raw(d, k)
	for i := range len(p) + frames.Overhead {
		for bit := range 8 {
			bad := bytes.Clone(was)
			bad[i] ^= 1 << bit
			v.overwrite(d, k, bad)
			v.refused(fmt.Sprintf("byte %d bit %d", i, bit), "x", len(p))
		}
	}
	v.overwrite(d, k, was)
	v.check("x", p)
}

// TestSealedFramesDoNotMove swaps frames between objects, within one, and between versions of one name.
func TestSealedFramesDoNotMove(t *testing.T) {
	one := objstore.Policy{K: 1, C: 1, X: 1}
	v := newVault(t, 1, preset(objstore.CompressNone, 0, one), Options{FrameCache: -1})
	d := v.disks[0]
	key := func(name string) objstore.FragmentKey {
		m, err := v.ns.nsm.Fetch(context.Background(), name)
		if err != nil {
			t.Fatal(err)
		}
		return m.Key(1, 0, 0)
	}
	p := noise(2 * frames.Size)
	v.put("a", p)
	v.put("b", p)
	a, b := v.raw(d, key("a")), v.raw(d, key("b"))
	v.overwrite(d, key("a"), b)
	v.refused("the same content of another object", "a", len(p))
	const sealed = frames.Size + frames.Overhead
	swapped := bytes.Clone(a)
	copy(swapped, a[sealed:2*sealed])
	copy(swapped[sealed:], a[:sealed])
	v.overwrite(d, key("a"), swapped)
	v.refused("the frames of one object, swapped", "a", len(p))
	twice := bytes.Clone(a)
	copy(twice[sealed:], a[:sealed])
	v.overwrite(d, key("a"), twice)
	v.refused("one frame in two places", "a", len(p))
	v.overwrite(d, key("a"), a)
	v.check("a", p)
	if err := v.ns.Delete(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	v.put("a", p)
	v.overwrite(d, key("a"), a)
	v.refused("what the name used to be", "a", len(p))
}

// TestLocked: without keys nothing is read or written, but what lost a disk is healed, and deleted.
func TestLocked(t *testing.T) {
	ctx := context.Background()
	v := newVault(t, 7, preset(objstore.CompressS2, 64<<10, p42), patient)
	want := make(map[string][]byte)
	for i, n := range []int{1, 5000, 300_000, 1_000_000} {
		name := fmt.Sprint(i)
		want[name] = append(text(n/2), noise(n-n/2)...)
		v.put(name, want[name])
	}
	v.ns.SetKeys(nil)
	if _, err := v.ns.Put(ctx, "new", []byte("x")); !errors.Is(err, objstore.ErrLocked) {
		t.Fatal(err)
	}
	if err := v.ns.ReadAt(ctx, "0", 0, make([]byte, 1)); !errors.Is(err, objstore.ErrLocked) {
		t.Fatal(err)
	}
	if _, ok := v.ns.Secret("x"); ok {
		t.Fatal("a locked namespace has a secret")
	}
	if _, err := v.ns.Rewrap(ctx, nil); !errors.Is(err, objstore.ErrLocked) {
		t.Fatal(err)
	}
	v.mgr.Detach(v.mgr.Disk(1), manager.Failed, errors.New("test"))
	v.mgr.Detach(v.mgr.Disk(2), manager.Failed, errors.New("test"))
	for name := range want {
		if h, err := v.ns.Heal(ctx, name, HealOptions{Rewrite: true}); err != nil || h.Rewritten {
			t.Fatalf("%+v, %v", h, err)
		}
	}
	v.mgr.Detach(v.mgr.Disk(3), manager.Failed, errors.New("test"))
	v.unlock()
	for name, p := range want {
		v.check(name, p)
	}
	if err := v.ns.Delete(ctx, "0"); err != nil {
		t.Fatal(err)
	}
	v.recount()
}

// TestRotation rewraps the data keys, is cut off and gone on with, and touches no fragment.
func TestRotation(t *testing.T) {
	ctx := context.Background()
	v := newVault(t, 6, preset(objstore.CompressS2, 0, p42), patient)
	for i := range 20 {
		v.put(fmt.Sprint(i), noise(1000+i))
	}
	fragments := func() (n int) {
		for _, d := range v.disks {
			for _, k := range d.Keys() {
				n += int(k.Version) + 1
			}
		}
		return n
	}
	before := fragments()
	old := v.keys
	var err error
	if v.keys, err = v.keys.Rotate(1); err != nil {
		t.Fatal(err)
	}
	v.unlock()
	v.put("between", noise(77))
	cut, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := v.ns.Rewrap(cut, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// Half of them, as when the process is killed.
	n, err := v.keys.Namespace(1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 7 {
		m, err := v.ns.nsm.Fetch(ctx, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := v.ns.rewrapOne(ctx, n, fmt.Sprint(i), m.ID); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		v.check(fmt.Sprint(i), noise(1000+i))
	}
	if r, err := v.ns.Rewrap(ctx, nil); err != nil || r.Objects != 21 || r.Changed != 13 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := v.ns.Rewrap(ctx, nil); err != nil || r.Changed != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	for i := range 20 {
		v.check(fmt.Sprint(i), noise(1000+i))
		m, err := v.ns.nsm.Fetch(ctx, fmt.Sprint(i))
		if err != nil || m.Seal.Key != 2 {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	if now := fragments(); now != before+6 {
		t.Fatalf("%d fragments before and %d after: content was written", before, now)
	}
	// The old keys are of no use for what was rewrapped.
	first, err := old.Namespace(1)
	if err != nil {
		t.Fatal(err)
	}
	v.ns.SetKeys(first)
	if err := v.ns.ReadAt(ctx, "0", 0, make([]byte, 10)); !errors.Is(err, objstore.ErrWrongKey) {
		t.Fatal(err)
	}
}

// TestNoNonceTwice: when disks fail and chunks are coded again, smaller, every encoding has a number of its own.
func TestNoNonceTwice(t *testing.T) {
	ctx := context.Background()
	policies := []objstore.Policy{p42, {K: 2, M: 1, C: 3, X: 3}, {K: 1, M: 0, C: 1, X: 1}}
	again := 0
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 1))
		v := newVault(t, 6, preset(objstore.CompressS2, 128<<10, policies...), patient)
		for range 1 + rng.IntN(4) {
			v.disks[rng.IntN(6)].Set(disktest.Fault{WriteErr: errors.New("test")})
		}
		p := append(text(600_000), noise(900_000+rng.IntN(1000))...)
		if _, err := v.ns.Put(ctx, "x", p); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		m, err := v.ns.nsm.Fetch(ctx, "x")
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[uint32]bool)
		for i := range m.Chunks {
			e := m.Chunks[i].Encoding
			if seen[e] || e == 0 {
				t.Fatalf("seed %d: encoding %d twice", seed, e)
			}
			seen[e] = true
			if int(e) > len(m.Chunks) {
				again++
			}
		}
		v.check("x", p)
	}
	if again == 0 {
		t.Fatal("nothing was coded again: the test shows nothing")
	}
}

// TestDigest: what the disk's checksums do not notice, the digest of the chunk does.
func TestDigest(t *testing.T) {
	for _, content := range [][]byte{noise(200_000), text(200_000)} {
		p := preset(objstore.CompressS2, 0, objstore.Policy{K: 1, C: 1, X: 1})
		p.Checksum = objstore.ChecksumBLAKE3
		v := &vault{rig: newRig(t, 1, p, Options{FrameCache: -1})}
		v.put("x", content)
		v.check("x", content)
		d, k := v.disks[0], v.disks[0].Keys()[0]
		bad := v.raw(d, k)
		bad[len(bad)/3] ^= 1
		v.overwrite(d, k, bad)
		v.refused("a changed byte", "x", len(content))
		info, err := d.ReadRecovery(context.Background(), k)
		if err == nil && len(info) > 0 {
			t.Fatal("the test has replaced the recovery information")
		}
	}
}

// TestSealedRecovery: the recovery information beside a fragment has all that is needed to read it again.
func TestSealedRecovery(t *testing.T) {
	ctx := context.Background()
	v := newVault(t, 6, preset(objstore.CompressS2, 64<<10, p42), patient)
	v.put("x", text(500_000))
	m, err := v.ns.nsm.Fetch(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range v.disks {
		for _, k := range d.Keys() {
			b, err := d.ReadRecovery(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			rec, err := manifest.DecodeRecovery(b)
			if err != nil {
				t.Fatal(err)
			}
			c := m.Chunks[0]
			for _, o := range m.Chunks {
				if o.Number == k.Chunk {
					c = o
				}
			}
			if rec.Seal == nil || *rec.Seal != *m.Seal || *rec.Manifest().Seal != *m.Seal || rec.Chunk.Encoding != c.Encoding || fmt.Sprint(rec.Chunk.Frames.Lens) != fmt.Sprint(c.Frames.Lens) {
				t.Fatalf("%+v", rec)
			}
		}
	}
}

// TestSealedRewrite: an object that is coded anew is sealed anew.
func TestSealedRewrite(t *testing.T) {
	ctx := context.Background()
	v := newVault(t, 6, preset(objstore.CompressS2, 0, objstore.Policy{K: 4, M: 2, C: 4, X: 6}, objstore.Policy{K: 2, M: 1, C: 3, X: 3}), patient)
	p := strings.Repeat("secret ", 40_000)
	v.put("x", []byte(p))
	was, err := v.ns.nsm.Fetch(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	for id := range objstore.DiskID(2) {
		v.mgr.Detach(v.mgr.Disk(id+1), manager.Failed, errors.New("test"))
	}
	h, err := v.ns.Heal(ctx, "x", HealOptions{Rewrite: true})
	if err != nil || !h.Rewritten {
		t.Fatalf("%+v, %v", h, err)
	}
	now, err := v.ns.nsm.Fetch(ctx, "x")
	if err != nil || now.Seal.Box == was.Seal.Box || now.ID == was.ID {
		t.Fatal("the same key as before", err)
	}
	v.check("x", []byte(p))
	v.recount()
}
