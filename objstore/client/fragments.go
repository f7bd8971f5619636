package client

import (
	"context"
	"errors"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/fragcache"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// fragment is one as the cache and its disk know it.
type fragment struct {
	fragcache.Key
	size int
}

func (g *gatherer) fragment(i int) fragment { return fragmentOf(g.m, g.s.nsm.Number(), g.index, i) }

func fragmentOf(m *manifest.Manifest, ns uint32, chunk, i int) fragment {
	c := &m.Chunks[chunk]
	return fragment{fragcache.Key{Fragment: m.Key(ns, chunk, i), Sum: c.Fragments[i].Sum}, c.FragmentLen()}
}

// keeps tells whether fragments of a disk are kept in the cache: if it has a folder, those of all disks; memory alone is for
// disks of other machines, as the kernel keeps what was read of those of this one.
func (c *Client) keeps(dev objstore.Disk) bool {
	if c.o.Fragments == nil {
		return false
	}
	_, remote := dev.(objstore.RemoteDisk)
	return remote || c.o.Fragments.HasFolder()
}

// near tells whether a range of a fragment is in the cache, as far as is known.
func (g *gatherer) near(i, off, n int) bool {
	cache := g.s.c.o.Fragments
	return cache != nil && !g.missed[i] && g.c.Fragments[i].Disk != 0 && cache.Has(g.fragment(i).Key, int64(off), n)
}

// errNotNear: the cache does not have it after all.
var errNotNear = errors.New("not in the cache")

// readFragment reads from the cache, and unless near from the disk, and takes note of how that did.
func (c *Client) readFragment(ctx context.Context, d *manager.Disk, f fragment, near bool, off int64, p []byte) error {
	if c.o.Fragments != nil && !objstore.IsBackground(ctx) && c.o.Fragments.Get(ctx, f.Key, off, p) {
		return nil
	}
	if near {
		return errNotNear
	}
	dev, done, err := d.Use() // d is nil when it was retired meanwhile
	if err != nil {
		return err
	}
	defer done()
	begin := time.Now()
	if c.o.CacheReads && c.keeps(dev) && !objstore.IsBackground(ctx) {
		err = c.readThrough(ctx, dev, f, off, p)
	} else {
		err = dev.ReadFragment(ctx, f.Fragment, off, p)
	}
	if err == nil {
		d.Reads.Add(time.Since(begin))
	}
	c.o.Disks.Observe(d, err)
	return err
}

// readThrough reads the pages that p touches, and keeps them.
func (c *Client) readThrough(ctx context.Context, dev objstore.Disk, f fragment, off int64, p []byte) error {
	const page = fragcache.PageSize
	from, to := off/page*page, min((off+int64(len(p))+page-1)/page*page, int64(f.size))
	if n := to - from; n > int64(len(p)) {
		buf := c.pool.Get(int(n))
		defer buf.Release()
		if err := dev.ReadFragment(ctx, f.Fragment, from, buf.B); err != nil {
			return err
		}
		copy(p, buf.B[off-from:])
		c.o.Fragments.Put(f.Key, f.size, from, buf.B, nil)
		return nil
	}
	if err := dev.ReadFragment(ctx, f.Fragment, off, p); err != nil {
		return err
	}
	c.o.Fragments.Put(f.Key, f.size, off, p, nil)
	return nil
}

// cachedOf returns the manifests of objects that are about to be deleted, as far as that costs nothing.
func (s *Namespace) cachedOf(names []string) (out []*manifest.Manifest) {
	if s.c.o.Fragments == nil {
		return nil
	}
	for _, name := range names {
		if m := s.nsm.Known(name); m != nil {
			out = append(out, m)
		}
	}
	return out
}

// forget drops what the cache has of objects that are gone. What stays there by mistake is not asked for again.
func (s *Namespace) forget(gone []*manifest.Manifest) {
	for _, m := range gone {
		for i := range m.Chunks {
			for j := range m.Chunks[i].K {
				f := fragmentOf(m, s.nsm.Number(), i, j)
				s.c.o.Fragments.Drop(f.Key, f.size)
			}
		}
	}
}

// miss takes note that a fragment is not in the cache.
func (g *gatherer) miss(fragment int) {
	if g.missed == nil {
		g.missed = make(map[int]bool)
	}
	g.missed[fragment] = true
}
