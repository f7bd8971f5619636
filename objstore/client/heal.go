package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// HealOptions say what to heal, and how fast.
type HealOptions struct {
	// Bad are fragments that are known to be unreadable, although their disk is up.
	Bad map[objstore.FragmentKey]bool
	// Rewrite codes the object anew, by a later policy, when a chunk has no fragment to spare and
	// cannot get one back for lack of disks.
	Rewrite bool
	// Spend is called before bytes are read or written; it may wait. nil: no limit.
	Spend func(ctx context.Context, bytes int) error
}

// Healed says what Heal did.
type Healed struct {
	Confirmed int   // fragments that were there after all
	Rebuilt   int   // fragments written anew
	NoPlace   int   // fragments that no disk could take
	Rewritten bool  // the whole object was coded anew
	Bytes     int64 // written
	Spare     int   // fragments that the weakest chunk can lose now
}

// Heal brings an object as near to full redundancy as the disks allow: it writes every fragment anew
// that is missing, bad, or on a disk that is down or to be emptied. Objects that are gone are no error.
func (s *Namespace) Heal(ctx context.Context, name string, o HealOptions) (Healed, error) {
	var h Healed
	m, err := s.nsm.Fetch(ctx, name)
	if errors.Is(err, objstore.ErrNotFound) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	if o.Spend == nil {
		o.Spend = func(context.Context, int) error { return nil }
	}
	var errs []error
	var wrote []nsm.Location
	for i := range m.Chunks {
		errs = append(errs, s.healChunk(ctx, name, m, i, o, &h, &wrote))
	}
	if err := errors.Join(errs...); err != nil {
		if gone, err := s.discardGone(ctx, name, m.ID, wrote); gone {
			return h, err
		}
		return h, s.wrap("heal", name, err)
	}
	if m, err = s.nsm.Fetch(ctx, name); err != nil {
		return h, ignoreNotFound(err)
	}
	h.Spare = s.spare(m)
	if o.Rewrite && h.Spare == 0 && h.NoPlace > 0 && s.readable(m) {
		return h, s.rewrite(ctx, name, m, o, &h)
	}
	return h, nil
}

// healChunk heals one chunk of an object. When that fails and somebody else has changed the chunk meanwhile, be it
// another repair, a move, or a fragment that landed late, then what is there now decides.
func (s *Namespace) healChunk(ctx context.Context, name string, m *manifest.Manifest, index int, o HealOptions, h *Healed, wrote *[]nsm.Location) error {
	for noPlace := h.NoPlace; ; h.NoPlace = noPlace {
		c := &chunkHeal{s: s, o: o, h: h, wrote: wrote, name: name, m: m, index: index, c: &m.Chunks[index]}
		err := c.run(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		now, gone := s.nsm.Fetch(ctx, name)
		if gone != nil || now.ID != m.ID || index >= len(now.Chunks) || slices.Equal(now.Chunks[index].Fragments, c.c.Fragments) {
			return err
		}
		m = now
	}
}

// discardGone tells whether an object is gone. What was written for it meanwhile is queued for deletion then: the
// deletion of the object did not know of it, and k such fragments would bring the object back in a recovery.
func (s *Namespace) discardGone(ctx context.Context, name string, id uint64, wrote []nsm.Location) (gone bool, err error) {
	now, err := s.nsm.Fetch(ctx, name)
	if !errors.Is(err, objstore.ErrNotFound) && (err != nil || now.ID == id) {
		return false, nil
	}
	if err := s.nsm.Abandon(context.WithoutCancel(ctx), nsm.Upload{ID: id}, wrote); err != nil {
		return true, s.wrap("discard fragments of", name, err)
	}
	s.c.o.Trouble.Obsolete(s.nsm)
	return true, nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, objstore.ErrNotFound) {
		return nil
	}
	return err
}

// readable tells whether the content of an object can be had: whether the keys are there if it is sealed.
func (s *Namespace) readable(m *manifest.Manifest) bool { return m.Seal == nil || s.keys.Load() != nil }

// spare returns how many fragments the weakest chunk can lose, as the disks are now.
func (s *Namespace) spare(m *manifest.Manifest) int {
	spare, _ := EffectiveSafety(s.c.o.Disks, m)
	return spare
}

// EffectiveSafety is Manifest.Safety that counts only fragments on disks that are up and kept.
func EffectiveSafety(disks *manager.Manager, m *manifest.Manifest) (spare, full int) {
	for i := range m.Chunks {
		c := &m.Chunks[i]
		n := -c.K
		for _, f := range c.Fragments {
			if d := disks.Disk(f.Disk); f.Present() && d != nil && d.Kept() {
				n++
			}
		}
		if i == 0 || n < spare || n == spare && c.M > full {
			spare, full = n, c.M
		}
	}
	return spare, full
}

// chunkHeal heals one chunk.
type chunkHeal struct {
	s     *Namespace
	o     HealOptions
	h     *Healed
	wrote *[]nsm.Location // fragments that were written, or may have been
	name  string
	m     *manifest.Manifest
	index int
	c     *manifest.Chunk

	shards [][]byte // what was read, or rebuilt
	bufs   []*bufpool.Buf
	hung   atomic.Bool // a disk may still be using a buffer: none goes back to the pool
}

func (c *chunkHeal) run(ctx context.Context) error {
	var wanted []int
	for i, f := range c.c.Fragments {
		switch ok, err := c.good(ctx, i, f); {
		case err != nil:
			return err
		case !ok:
			wanted = append(wanted, i)
		}
	}
	defer func() {
		for _, b := range c.bufs {
			if !c.hung.Load() {
				b.Release()
			}
		}
	}()
	if len(wanted) > 0 {
		share, err := c.s.c.acquireHeal(ctx, (c.c.K+len(wanted))*c.c.FragmentLen())
		if err != nil {
			return err
		}
		defer c.s.c.heals.Release(share)
	}
	places := c.places(wanted)
	c.h.NoPlace += len(wanted) - len(places)
	if len(places) == 0 {
		return nil
	}
	if err := c.gather(ctx, places); err != nil {
		return err
	}
	// All changes go into the manifest at once.
	to := make(map[int]manifest.Fragment)
	var errs []error
	for i, d := range places {
		f, err := c.write(ctx, i, d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		to[i] = f
	}
	if len(to) > 0 {
		errs = append(errs, c.replace(ctx, to))
	}
	return errors.Join(errs...)
}

// acquireHeal waits for memory to heal with, which puts have no share of, nor the other way round. One chunk may always
// go, however large.
func (c *Client) acquireHeal(ctx context.Context, n int) (int64, error) {
	size := int64(min(n, c.o.HealMemory))
	return size, c.heals.Acquire(ctx, size)
}

// replace makes the manifest name the fragments that were written anew.
func (c *chunkHeal) replace(ctx context.Context, to map[int]manifest.Fragment) error {
	if err := c.change(ctx, to); err != nil {
		return err
	}
	c.h.Rebuilt += len(to)
	c.h.Bytes += int64(len(to) * c.c.FragmentLen())
	c.s.c.o.Trouble.Obsolete(c.s.nsm)
	return nil
}

// good tells whether a fragment needs nothing. One that was never confirmed is looked at.
func (c *chunkHeal) good(ctx context.Context, i int, f manifest.Fragment) (bool, error) {
	d := c.s.c.o.Disks.Disk(f.Disk)
	if f.Disk == 0 || d == nil || !d.Kept() || c.o.Bad[c.key(i)] {
		return false, nil
	}
	if !f.Unconfirmed || c.s.c.isLate(c.key(i)) {
		return true, nil
	}
	if err := c.read(ctx, i, make([]byte, c.c.FragmentLen())); err != nil {
		return false, nil // it never landed: write it anew
	}
	err := c.change(ctx, map[int]manifest.Fragment{i: {Disk: f.Disk, Version: f.Version, Sum: f.Sum}})
	if err == nil {
		c.h.Confirmed++
	}
	return true, err
}

func (c *chunkHeal) key(i int) objstore.FragmentKey { return c.m.Key(c.s.nsm.Number(), c.index, i) }

// read reads a whole fragment and compares it with the manifest's sum, which a read of the user does
// not need but a repair should: it would spread what is wrong.
func (c *chunkHeal) read(ctx context.Context, i int, p []byte) error {
	f := c.c.Fragments[i]
	d := c.s.c.o.Disks.Disk(f.Disk)
	if d == nil {
		return objstore.ErrNoFragment
	}
	if err := c.o.Spend(ctx, len(p)); err != nil {
		return err
	}
	err := c.do(ctx, d, func(dev objstore.Disk) error { return dev.ReadFragment(ctx, c.key(i), 0, p) })
	if err != nil {
		return err
	}
	if got := crc.Sum(p); got != f.Sum {
		return &objstore.CorruptError{What: "fragment " + c.key(i).String(), Err: fmt.Errorf("checksum %08x, the manifest says %08x", got, f.Sum)}
	}
	return nil
}

// places chooses a disk for each fragment that is wanted and can have one.
func (c *chunkHeal) places(wanted []int) map[int]*manager.Disk {
	used := make(map[objstore.DiskID]bool)
	perNode, had := make(map[string]int), make(map[string]int)
	take := func(d *manager.Disk) {
		used[d.ID()] = true
		perNode[d.Node()]++
	}
	bad := make(map[int]bool)
	for _, i := range wanted {
		bad[i] = true
	}
	for i, f := range c.c.Fragments {
		if d := c.s.c.o.Disks.Disk(f.Disk); d != nil {
			had[d.Node()]++
			if !bad[i] {
				take(d)
			}
		}
	}
	x := len(c.c.Fragments)
	preset := c.s.Preset()
	for _, p := range preset.Policies {
		if p.K == c.c.K && p.M == c.c.M {
			x = p.X
		}
	}
	// A preset that has become stricter does not keep a fragment from being where one was.
	room := func(d *manager.Disk) bool {
		return !used[d.ID()] && perNode[d.Node()] < max(x, had[d.Node()])
	}
	var usable []*manager.Disk
	for _, d := range c.s.c.o.Disks.Disks() {
		if d.Writable() && !used[d.ID()] && preset.Has(d.ID()) {
			usable = append(usable, d)
		}
	}
	order, _ := choose(usable, objstore.Policy{K: max(1, len(usable)), X: max(1, len(usable))}, c.m.ID)
	out := make(map[int]*manager.Disk)
	// A fragment that is bad on a disk that is well stays there.
	for _, i := range wanted {
		if d := c.s.c.o.Disks.Disk(c.c.Fragments[i].Disk); d != nil && d.Writable() && room(d) {
			out[i] = d
			take(d)
		}
	}
	// The manifest names the others where they are until they have another place, and they may not get one.
	for _, i := range wanted {
		used[c.c.Fragments[i].Disk] = true
	}
	for _, i := range wanted {
		if out[i] != nil {
			continue
		}
		for _, d := range order {
			if room(d) {
				out[i] = d
				take(d)
				break
			}
		}
	}
	return out
}

// gather reads k fragments and rebuilds those that places names.
func (c *chunkHeal) gather(ctx context.Context, places map[int]*manager.Disk) error {
	n := c.c.FragmentLen()
	c.shards = make([][]byte, len(c.c.Fragments))
	have := 0
	var errs []error
	for sources := c.sources(); have < c.c.K && len(sources) > 0; {
		some := sources[:min(c.c.K-have, len(sources))]
		sources = sources[len(some):]
		for j, err := range c.readAll(ctx, some) {
			if err != nil {
				errs = append(errs, err)
				continue
			}
			c.shards[some[j]] = c.bufs[len(c.bufs)-len(some)+j].B
			have++
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if have < c.c.K {
		return &objstore.LostError{Namespace: c.s.nsm.Name(), Name: c.name, Chunk: c.index, Intact: have, Need: c.c.K, Err: errors.Join(errs...)}
	}
	wanted := make([]bool, len(c.shards))
	for i := range places {
		if c.shards[i] == nil {
			b := c.s.c.pool.Get(n)
			c.bufs = append(c.bufs, b)
			c.shards[i], wanted[i] = b.B[:0:n], true
		}
	}
	code, err := c.s.c.codes.Get(c.c.K, c.c.M)
	if err != nil {
		return err
	}
	return code.Reconstruct(c.shards, wanted)
}

// readAll reads fragments at the same time, into the newest of the buffers.
func (c *chunkHeal) readAll(ctx context.Context, fragments []int) []error {
	errs := make([]error, len(fragments))
	var wg sync.WaitGroup
	for j, i := range fragments {
		b := c.s.c.pool.Get(c.c.FragmentLen())
		c.bufs = append(c.bufs, b)
		wg.Go(func() { errs[j] = c.read(ctx, i, b.B) })
	}
	wg.Wait()
	return errs
}

// sources returns the fragments that may be read, those last that are said to be bad: what was wrong with them
// may have been the way, or the moment, and what is read is verified.
func (c *chunkHeal) sources() (out []int) {
	for _, bad := range []bool{false, true} {
		for i, f := range c.c.Fragments {
			if d := c.s.c.o.Disks.Disk(f.Disk); f.Disk != 0 && d != nil && d.Readable() && c.o.Bad[c.key(i)] == bad {
				out = append(out, i)
			}
		}
	}
	return out
}

// write puts fragment i on d under a new version.
func (c *chunkHeal) write(ctx context.Context, i int, d *manager.Disk) (manifest.Fragment, error) {
	f := c.c.Fragments[i]
	sums := crc.Blocks(nil, c.shards[i])
	if got := crc.Join(sums, len(c.shards[i])); got != f.Sum {
		// The parts were each what the manifest says, so this is an error of ours, or of memory.
		return f, &objstore.CorruptError{What: "rebuilt fragment " + c.key(i).String(), Err: fmt.Errorf("checksum %08x, the manifest says %08x", got, f.Sum)}
	}
	if err := c.o.Spend(ctx, len(c.shards[i])); err != nil {
		return f, err
	}
	key := c.key(i)
	key.Version = nsm.NextVersion(ctx, key.Version)
	info := (&manifest.Recovery{Name: c.name, ID: c.m.ID, Size: c.m.Size, Compression: c.m.Compression, Seal: c.m.Seal,
		Chunks: len(c.m.Chunks), Offset: c.offset(), Chunk: *c.c}).Encode(nil)
	data := c.shards[i]
	*c.wrote = append(*c.wrote, nsm.Location{Disk: d.ID(), Key: key})
	err := c.do(ctx, d, func(dev objstore.Disk) error { return dev.PutFragment(ctx, key, info, data, sums) })
	if err != nil {
		return f, fmt.Errorf("fragment %v to disk %d: %w", key, d.ID(), err)
	}
	return manifest.Fragment{Disk: d.ID(), Version: key.Version, Sum: f.Sum}, nil
}

// do runs an operation on a disk, does not wait for it without end, and takes note of how it went.
func (c *chunkHeal) do(ctx context.Context, d *manager.Disk, fn func(objstore.Disk) error) error {
	err := d.Do(ctx, fn)
	if errors.Is(err, manager.ErrHung) || ctx.Err() != nil {
		c.hung.Store(true)
	}
	c.s.c.o.Disks.Observe(d, err)
	return err
}

func (c *chunkHeal) offset() (off int64) {
	for _, b := range c.m.Chunks[:c.index] {
		off += int64(b.Size)
	}
	return off
}

// errChanged says that somebody else has healed an object meanwhile, or moved a part of it.
var errChanged = errors.New("the manifest has changed meanwhile")

// change replaces fragments in the manifest if they are still as they were when they were looked at.
func (c *chunkHeal) change(ctx context.Context, to map[int]manifest.Fragment) error {
	return c.s.nsm.Change(ctx, c.name, c.m.ID, func(m *manifest.Manifest) error {
		for i, f := range to {
			is, was := &m.Chunks[c.index].Fragments[i], c.c.Fragments[i]
			if is.Disk != was.Disk && is.Disk != 0 || is.Version != was.Version {
				return errChanged
			}
			*is = f
		}
		return nil
	})
}
