package client

import (
	"context"

	"github.com/gabionfs/gabion/objstore"
)

var _ objstore.Prefetcher = (*Namespace)(nil)

// Prefetch implements objstore.Prefetcher: the disks start to read what the range needs of the data
// fragments. Whatever goes wrong shows when the range is read.
func (s *Namespace) Prefetch(ctx context.Context, name string, off, n int64) {
	m, err := s.nsm.Lookup(ctx, name)
	if err != nil || off < 0 {
		return
	}
	s.eachPart(m, off, n, func(g *gatherer, i, off, n int) {
		if g.prefer(i) {
			s.prefetchFragment(ctx, g, i, off, n)
		}
	})
}

func (s *Namespace) prefetchFragment(ctx context.Context, g *gatherer, fragment, off, n int) {
	dev, done, err := s.c.o.Disks.Disk(g.c.Fragments[fragment].Disk).Use()
	if err != nil {
		return
	}
	defer done()
	if cached, ok := dev.(objstore.CachedDisk); ok {
		cached.Prefetch(ctx, g.m.Key(s.nsm.Number(), g.index, fragment), int64(off), n)
	}
}
