package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// TestRecoveryInformationIsEnough rebuilds manifests from nothing but what lies on the disks, after writes
// that went well, that were coded again in the middle, and repairs, and compares them with the store's.
func TestRecoveryInformationIsEnough(t *testing.T) {
	ctx := context.Background()
	policies := []objstore.Policy{p42, {K: 2, M: 2, C: 3, X: 4}}
	r := newRig(t, 6, preset(objstore.CompressS2, 64<<10, policies...), patient)
	r.put("noise", noise(600_000))
	r.put("text", text(900_000))
	r.put("healed", noise(50_000))
	m, err := r.ns.nsm.Fetch(ctx, "healed")
	if err != nil {
		t.Fatal(err)
	}
	bad := m.Key(1, 0, 2)
	if _, err := r.ns.Heal(ctx, "healed", HealOptions{Bad: map[objstore.FragmentKey]bool{bad: true}}); err != nil {
		t.Fatal(err)
	}
	r.disks[m.Chunks[0].Fragments[2].Disk-1].Lose(bad) // as maintenance would
	for _, d := range r.disks[:2] {
		d.Set(disktest.Fault{WriteErr: errors.New("I/O error"), FailWriteAfter: 1})
	}
	r.put("coded again", noise(600_000))
	for _, d := range r.disks[:2] { // their shutdown must not overtake
		r.waitFor(func() bool { return errors.Is(d.Probe(ctx), objstore.ErrClosed) })
		d.Reopen()
	}
	for _, name := range []string{"noise", "text", "healed", "coded again"} {
		want, err := r.ns.nsm.Fetch(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		got := r.rebuild(want.ID)
		// What attempts that were given up have left is garbage, which rebuilding may take along in
		// place of nothing; so it must have all that the manifest has.
		for i := range want.Chunks {
			for j, f := range want.Chunks[i].Fragments {
				if f.Disk == 0 {
					want.Chunks[i].Fragments[j], got.Chunks[i].Fragments[j] = manifest.Fragment{}, manifest.Fragment{}
				}
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

// rebuild makes the manifest of an upload from the disks.
func (r *rig) rebuild(id uint64) *manifest.Manifest {
	r.t.Helper()
	type part struct {
		off int64
		c   manifest.Chunk
	}
	out := &manifest.Manifest{ID: id}
	parts := make(map[string]*part) // by number and code: a chunk that was coded again is another one
	for i, d := range r.disks {
		for _, k := range d.Keys() {
			if k.Object != id {
				continue
			}
			info, err := d.ReadRecovery(context.Background(), k)
			if err != nil {
				r.t.Fatal(err)
			}
			rec, err := manifest.DecodeRecovery(info)
			if err != nil {
				r.t.Fatal(err)
			}
			out.Size, out.Compression = rec.Size, rec.Compression
			at := fmt.Sprint(k.Chunk, rec.Chunk.K, rec.Chunk.M, rec.Chunk.Size)
			p := parts[at]
			if p == nil {
				p = &part{rec.Offset, rec.Chunk}
				p.c.Number = k.Chunk
				p.c.Fragments = make([]manifest.Fragment, p.c.K+p.c.M)
				parts[at] = p
			}
			data := make([]byte, p.c.FragmentLen())
			if err := d.ReadFragment(context.Background(), k, 0, data); err != nil {
				r.t.Fatal(err)
			}
			p.c.Fragments[k.Fragment] = manifest.Fragment{Disk: objstore.DiskID(i + 1), Version: k.Version, Sum: crc.Sum(data)}
		}
	}
	var all []*part
	for _, p := range parts {
		if p.c.Present() >= p.c.K+1 { // fewer than any quorum: an attempt that was given up
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *part) int { return cmp.Compare(a.off, b.off) })
	for _, p := range all {
		sum := r.chunkSum(out, p.off, p.c)
		out.Sum = crc.Combine(out.Sum, sum, int64(p.c.Size))
		out.Chunks = append(out.Chunks, p.c)
	}
	return out
}

// chunkSum returns the sum of a chunk's content, by decoding it.
func (r *rig) chunkSum(m *manifest.Manifest, off int64, c manifest.Chunk) uint32 {
	r.t.Helper()
	p := make([]byte, c.Size)
	one := &manifest.Manifest{ID: m.ID, Size: m.Size, Compression: m.Compression, Chunks: []manifest.Chunk{c}}
	g := gatherer{s: r.ns, name: "rebuilt", m: one, c: &c, offset: off}
	if err := g.readChunk(context.Background(), 0, p); err != nil {
		r.t.Fatal(err)
	}
	return crc.Sum(p)
}
