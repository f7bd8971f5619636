package client

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/fragcache"
)

// cached is a rig with a cache that has a folder.
func cached(t *testing.T, how objstore.Compression, reads, writes bool) (*rig, *fragcache.Cache, string) {
	t.Helper()
	dir := t.TempDir()
	c, err := fragcache.Open(fragcache.Options{Dir: dir, Size: fragcache.MinSize, Patience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the client's
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	o := patient
	o.Fragments, o.CacheReads, o.CacheWrites, o.FrameCache = c, reads, writes, -1
	return newRig(t, 6, preset(how, 256<<10, p42), o), c, dir
}

func settled(t *testing.T, c *fragcache.Cache) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := c.Sync(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestCacheOnRead(t *testing.T) {
	for _, how := range []objstore.Compression{objstore.CompressNone, objstore.CompressS2} {
		r, c, _ := cached(t, how, true, false)
		content := map[string][]byte{"noise": noise(1_500_000), "text": text(1_500_000), "tiny": noise(10)}
		for name, p := range content {
			r.put(name, p)
		}
		settled(t, c)
		if s := c.Stat(); s.Pages > 0 {
			t.Fatalf("%d pages of what was only written", s.Pages)
		}
		for name, p := range content {
			r.check(name, p)
		}
		settled(t, c)
		before := r.read()
		for name, p := range content {
			r.check(name, p)
		}
		if n := r.read() - before; n > 0 {
			t.Fatalf("%v: %d bytes were read from the disks, although all are in the cache: %+v", how, n, c.Stat())
		}
		for _, d := range r.mgr.Disks() { // not even the disks are needed
			r.mgr.Detach(d, 1, errors.New("gone"))
		}
		for name, p := range content {
			r.check(name, p)
		}
		if len(r.seen.bad) > 0 {
			t.Fatal(r.seen.bad)
		}
		for name := range content {
			if err := r.ns.Delete(context.Background(), name); err != nil {
				t.Fatal(err)
			}
		}
		if s := c.Stat(); s.Pages > 0 {
			t.Fatalf("%d pages of deleted objects", s.Pages)
		}
	}
}

func TestCacheOnWrite(t *testing.T) {
	r, c, _ := cached(t, objstore.CompressNone, false, true)
	p := noise(900_000)
	r.put("x", p)
	settled(t, c)
	before := r.read()
	r.check("x", p)
	if n := r.read() - before; n > 0 {
		t.Fatalf("%d bytes were read from the disks: %+v", n, c.Stat())
	}
	if want, got := int64(4*(900_000/4+fragcache.PageSize-1)/fragcache.PageSize), c.Stat().Pages; got > want+4 {
		t.Fatalf("%d pages are kept of %d", got, want)
	}
}

// TestCacheReadsPagesOnce: a small read keeps the block that its disk had to read anyway, and no more.
func TestCacheReadsPagesOnce(t *testing.T) {
	r, c, _ := cached(t, objstore.CompressNone, true, false)
	p := noise(1 << 20)
	r.put("x", p)
	b := make([]byte, 4096)
	for i := range int64(16) {
		if err := r.ns.ReadAt(context.Background(), "x", i*4096, b); err != nil || !bytes.Equal(b, p[i*4096:][:4096]) {
			t.Fatal(err)
		}
		settled(t, c)
	}
	if n := r.read(); n != fragcache.PageSize {
		t.Fatalf("%d bytes were read", n)
	}
}

// TestDetourOverCache: what is in the cache counts as a fragment that is there, also when more than m disks are gone.
func TestDetourOverCache(t *testing.T) {
	r, c, _ := cached(t, objstore.CompressNone, true, false)
	p := noise(1 << 20) // fragments of 256 KiB
	r.put("x", p)
	got := make([]byte, 512<<10)
	if err := r.ns.ReadAt(context.Background(), "x", 0, got); err != nil { // fragments 0 and 1
		t.Fatal(err)
	}
	settled(t, c)
	m, _ := r.ns.nsm.Lookup(context.Background(), "x")
	for _, i := range []int{0, 1, 2, 3} {
		r.mgr.Detach(r.mgr.Disk(m.Chunks[0].Fragments[i].Disk), 1, errors.New("gone"))
	}
	r.check("x", p)
}

// TestDamagedCache: what the cache returns is never wrong, and what it cannot is read from the disks.
func TestDamagedCache(t *testing.T) {
	r, c, dir := cached(t, objstore.CompressS2, true, true)
	p := text(2_000_000)
	q := noise(1_000_000)
	r.put("text", p)
	r.put("noise", q)
	settled(t, c)
	list, err := filepath.Glob(filepath.Join(dir, "seg-*"))
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	for _, name := range list {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 100; at < len(raw); at += 30_000 {
			raw[at] ^= 1
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(raw, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	before := r.read()
	r.check("text", p)
	r.check("noise", q)
	if r.read() == before || c.Stat().Damaged == 0 {
		t.Fatalf("nobody has seen the damage: %+v", c.Stat())
	}
	if len(r.seen.bad) > 0 {
		t.Fatal("the fragments on the disks are well", r.seen.bad)
	}
}

// TestSlowDiskInCache: a fragment of a slow disk that the cache has is not asked for elsewhere.
func TestSlowDiskInCache(t *testing.T) {
	r, c, _ := cached(t, objstore.CompressNone, true, true)
	p := noise(1 << 20)
	r.put("x", p)
	settled(t, c)
	for _, d := range r.disks {
		d.Set(disktest.Fault{ReadErr: errors.New("do not ask me")})
	}
	for range 20 {
		r.check("x", p)
	}
}
