package client

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Move moves fragments of an object from one disk to others, by the same steps as Heal: each is read, compared
// with the manifest, written under a version of its own, and only then does the manifest change; so the object
// is never less safe than before. to chooses a disk for a fragment of a size, among those that may have it, and
// returns nil to leave it. Objects that are gone, and fragments that cannot be read, are no error.
func (s *Namespace) Move(ctx context.Context, name string, from objstore.DiskID, to func(size int64, allowed []*manager.Disk) *manager.Disk, o HealOptions) (Healed, error) {
	var h Healed
	m, err := s.nsm.Fetch(ctx, name)
	if err != nil {
		return h, ignoreNotFound(err)
	}
	if o.Spend == nil {
		o.Spend = func(context.Context, int) error { return nil }
	}
	var errs []error
	var wrote []nsm.Location
	for i := range m.Chunks {
		c := &chunkHeal{s: s, o: o, h: &h, wrote: &wrote, name: name, m: m, index: i, c: &m.Chunks[i]}
		errs = append(errs, c.move(ctx, from, to))
	}
	if err := errors.Join(errs...); err != nil {
		if gone, err := s.discardGone(ctx, name, m.ID, wrote); gone {
			return h, err
		}
		return h, s.wrap("move", name, err)
	}
	return h, nil
}

// move moves the chunk's fragment that is on a disk, if there is one and it has a place.
func (c *chunkHeal) move(ctx context.Context, from objstore.DiskID, to func(int64, []*manager.Disk) *manager.Disk) error {
	index := -1
	for i, f := range c.c.Fragments {
		if f.Disk == from && f.Present() {
			index = i
		}
	}
	if index < 0 {
		return nil
	}
	size := c.c.FragmentLen()
	d := to(int64(size), c.allowed(index))
	if d == nil {
		return nil
	}
	b := c.s.c.pool.Get(size)
	c.bufs = []*bufpool.Buf{b}
	defer func() {
		if !c.hung.Load() {
			b.Release()
		}
	}()
	if err := c.read(ctx, index, b.B); err != nil {
		var corrupt *objstore.CorruptError
		if errors.Is(err, objstore.ErrNoFragment) || errors.As(err, &corrupt) {
			c.s.c.o.Trouble.Bad(c.s.nsm, c.name, c.key(index), from, err)
			return nil
		}
		return err
	}
	c.shards = make([][]byte, len(c.c.Fragments))
	c.shards[index] = b.B
	f, err := c.write(ctx, index, d)
	if err != nil {
		return err
	}
	return c.replace(ctx, map[int]manifest.Fragment{index: f})
}

// allowed returns the disks that may have a fragment of the chunk instead of the one that has it now.
func (c *chunkHeal) allowed(index int) []*manager.Disk {
	used := make(map[objstore.DiskID]bool)
	perNode := make(map[string]int)
	for i, f := range c.c.Fragments {
		used[f.Disk] = true
		if d := c.s.c.o.Disks.Disk(f.Disk); d != nil && i != index {
			perNode[d.Node()]++
		}
	}
	preset := c.s.Preset()
	x := len(c.c.Fragments)
	for _, p := range preset.Policies {
		if p.K == c.c.K && p.M == c.c.M {
			x = p.X
		}
	}
	home := ""
	if d := c.s.c.o.Disks.Disk(c.c.Fragments[index].Disk); d != nil {
		home = d.Node()
	}
	var out []*manager.Disk
	for _, d := range c.s.c.o.Disks.Disks() {
		if d.Writable() && !used[d.ID()] && preset.Has(d.ID()) && (perNode[d.Node()] < x || d.Node() == home) {
			out = append(out, d)
		}
	}
	return out
}
