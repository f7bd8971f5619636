package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/fragcache"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
)

const (
	// sliceParallel is how many slices of one call are read at a time.
	sliceParallel = 8
	// sliceSmall is the largest part of a fragment that is asked for together with others: for larger ones the way
	// there and back does not count, and several connections are faster than one.
	sliceSmall = 128 << 10
	// sliceMemory bounds what one call asks for in this way.
	sliceMemory = 16 << 20
	// sliceGap is how far apart parts of a fragment may lie to be read as one.
	sliceGap = 4 << 10
)

// ReadSlices implements objstore.Namespace. What lies on disks that answer many reads at once, those of other machines, is
// asked for together, one call for each disk. Whatever does not come in this way, or not soon, is read as by ReadAt.
func (s *Namespace) ReadSlices(ctx context.Context, slices []objstore.Slice) error {
	var have *supply
	if len(slices) > 1 {
		have = s.together(ctx, slices)
	}
	return objstore.ReadEach(ctx, slices, sliceParallel, func(ctx context.Context, name string, off int64, p []byte) error {
		return s.readAt(ctx, name, off, p, have)
	})
}

// supply has parts of fragments that were read in advance. It does not change once reads use it.
type supply struct {
	parts map[objstore.FragmentKey][]stretch
}

// stretch is a part of a fragment.
type stretch struct {
	off int64
	p   []byte
}

// read fills p from offset off of a fragment, if all of it is there.
func (v *supply) read(k objstore.FragmentKey, off int64, p []byte) bool {
	if v == nil {
		return false
	}
	for _, x := range v.parts[k] {
		if x.off <= off && off+int64(len(p)) <= x.off+int64(len(x.p)) {
			copy(p, x.p[off-x.off:])
			return true
		}
	}
	return false
}

// want is a part of a fragment that a slice needs.
type want struct {
	f        fragment
	off, end int64
}

// order is what one disk is asked for.
type order struct {
	disk  *manager.Disk
	keep  bool // what is read is kept in the cache
	wants []want
	reads []objstore.FragmentRead
	err   error
}

// together asks disks for what slices need of them, and waits for as long as a read waits before it asks other disks.
func (s *Namespace) together(ctx context.Context, list []objstore.Slice) *supply {
	orders := s.orders(list, s.manifests(ctx, list))
	if len(orders) == 0 {
		return nil
	}
	done := make(chan *order, len(orders))
	most := 0
	for _, o := range orders {
		o.merge()
		most = max(most, len(o.wants))
		s.c.ops.run(func() {
			o.err = s.c.readMany(ctx, o)
			done <- o
		})
	}
	have := &supply{parts: make(map[objstore.FragmentKey][]stretch)}
	late := time.NewTimer(s.c.hedgeDelay() * time.Duration(1+most/8))
	defer late.Stop()
	for range orders {
		select {
		case o := <-done:
			have.add(o)
		case <-late.C:
			return have
		case <-ctx.Done():
			return have
		}
	}
	return have
}

// add takes what an order has brought.
func (v *supply) add(o *order) {
	if o.err != nil {
		return
	}
	for _, r := range o.reads {
		if r.Err == nil { // who reads it finds out what is wrong with the others
			v.parts[r.Key] = append(v.parts[r.Key], stretch{r.Off, r.P})
		}
	}
}

// manifests looks the objects up. One that is not found is left out.
func (s *Namespace) manifests(ctx context.Context, list []objstore.Slice) map[string]*manifest.Manifest {
	out := make(map[string]*manifest.Manifest)
	var missing []string
	for _, x := range list {
		if _, seen := out[x.Name]; !seen {
			if out[x.Name] = s.nsm.Known(x.Name); out[x.Name] == nil {
				missing = append(missing, x.Name)
			}
		}
	}
	found := make([]*manifest.Manifest, len(missing))
	var g errgroup.Group
	g.SetLimit(sliceParallel)
	for i, name := range missing {
		g.Go(func() error {
			found[i], _ = s.nsm.Lookup(ctx, name) // who reads it finds out
			return nil
		})
	}
	_ = g.Wait() // there are no errors
	for i, name := range missing {
		out[name] = found[i]
	}
	return out
}

// orders returns what disks are asked for: of those that can answer many reads at once, and of which more than one is wanted.
func (s *Namespace) orders(list []objstore.Slice, manifests map[string]*manifest.Manifest) []*order {
	byDisk := make(map[objstore.DiskID]*order)
	size := int64(0)
	for _, x := range list {
		m := manifests[x.Name]
		if m == nil || x.Off < 0 || x.Off+int64(len(x.P)) > m.Size {
			continue
		}
		s.eachPart(m, x.Off, int64(len(x.P)), func(g *gatherer, i, off, n int) {
			if n > sliceSmall || size > sliceMemory || !g.prefer(i) || g.near(i, off, n) {
				return
			}
			id := g.c.Fragments[i].Disk
			o, known := byDisk[id]
			if !known {
				o = s.c.order(s.c.o.Disks.Disk(id))
				byDisk[id] = o
			}
			if o == nil {
				return
			}
			o.wants = append(o.wants, want{g.fragment(i), int64(off), int64(off + n)})
			size += int64(n)
		})
	}
	var out []*order
	for _, o := range byDisk {
		if o != nil && len(o.wants) > 1 {
			out = append(out, o)
		}
	}
	return out
}

// order returns an empty order for a disk, or nil if it does not answer many reads at once.
func (c *Client) order(d *manager.Disk) *order {
	dev, done, err := d.Use()
	if err != nil {
		return nil
	}
	defer done()
	if _, ok := dev.(objstore.MultiDisk); !ok {
		return nil
	}
	return &order{disk: d, keep: c.o.CacheReads && c.keeps(dev)}
}

// merge makes reads of what is wanted: whole pages where those are kept, and one for parts that lie together.
func (o *order) merge() {
	if o.keep {
		const page = fragcache.PageSize
		for i := range o.wants {
			w := &o.wants[i]
			w.off, w.end = w.off/page*page, min((w.end+page-1)/page*page, int64(w.f.size))
		}
	}
	slices.SortFunc(o.wants, func(a, b want) int {
		return cmp.Or(a.f.Fragment.Compare(b.f.Fragment), cmp.Compare(a.off, b.off))
	})
	var merged []want
	for _, w := range o.wants {
		if n := len(merged) - 1; n >= 0 && merged[n].f == w.f && w.off <= merged[n].end+sliceGap && w.end-merged[n].off <= 2*sliceSmall {
			merged[n].end = max(merged[n].end, w.end)
			continue
		}
		merged = append(merged, w)
	}
	o.wants = merged
}

// readMany asks a disk for an order.
func (c *Client) readMany(ctx context.Context, o *order) error {
	dev, done, err := o.disk.Use()
	if err != nil {
		return err
	}
	defer done()
	many, ok := dev.(objstore.MultiDisk)
	if !ok {
		return errors.ErrUnsupported // it was exchanged for another one meanwhile
	}
	for _, w := range o.wants {
		o.reads = append(o.reads, objstore.FragmentRead{Key: w.f.Fragment, Off: w.off, P: make([]byte, w.end-w.off)})
	}
	err = many.ReadFragments(ctx, o.reads)
	c.o.Disks.Observe(o.disk, err)
	if err != nil || !o.keep {
		return err
	}
	for i, r := range o.reads {
		if r.Err == nil {
			c.o.Fragments.Put(o.wants[i].f.Key, o.wants[i].f.size, r.Off, r.P, nil)
		}
	}
	return nil
}

// eachPart calls fn with the parts of data fragments that hold n bytes from off of an object: n bytes from off of fragment i of
// a chunk. Frames that are decoded already are left out.
func (s *Namespace) eachPart(m *manifest.Manifest, off, n int64, fn func(g *gatherer, i, off, n int)) {
	var start int64
	for i := range m.Chunks {
		g := &gatherer{s: s, m: m, index: i, c: &m.Chunks[i]}
		end := start + int64(g.c.Size)
		if from, to := max(off, start), min(off+n, end); from < to {
			g.eachPart(int(from-start), int(to-start), fn)
		}
		start = end
	}
}

func (g *gatherer) eachPart(from, to int, fn func(g *gatherer, i, off, n int)) {
	if t := g.c.Frames; t != nil {
		first, last := from/frames.Size, (to-1)/frames.Size
		if first == last && g.s.c.cache.get(g.frameKey(first)) != nil {
			return
		}
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
		fn(g, g.direct(from/size, from%size, n), from%size, n)
		from += n
	}
}
