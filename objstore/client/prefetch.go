package client

import (
	"context"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/manifest"
)

var _ objstore.Prefetcher = (*Namespace)(nil)

// Prefetch implements objstore.Prefetcher: the disks start to read what the range needs of the data
// fragments. Whatever goes wrong shows when the range is read.
func (s *Namespace) Prefetch(ctx context.Context, name string, off, n int64) {
	m, err := s.nsm.Lookup(ctx, name)
	if err != nil || off < 0 {
		return
	}
	var start int64
	for i := range m.Chunks {
		c := &m.Chunks[i]
		end := start + int64(c.Size)
		from, to := max(off, start), min(off+n, end)
		if from < to {
			s.prefetchChunk(ctx, m, i, int(from-start), int(to-start))
		}
		start = end
	}
}

// prefetchChunk is Prefetch for [from, to) of a chunk as the user gave it.
func (s *Namespace) prefetchChunk(ctx context.Context, m *manifest.Manifest, i, from, to int) {
	g := gatherer{s: s, m: m, index: i, c: &m.Chunks[i]}
	if t := g.c.Frames; t != nil {
		first, last := from/frames.Size, (to-1)/frames.Size
		from, to = 0, 0
		for j, l := range t.Lens[:last+1] {
			if j < first {
				from += int(l)
			}
			to += int(l)
		}
	}
	size := g.c.FragmentLen()
	for from < to {
		n := min(to-from, size-from%size)
		if g.prefer(from / size) {
			s.prefetchFragment(ctx, &g, from/size, from%size, n)
		}
		from += n
	}
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
