package maint

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// upload rebuilds one upload of which fragments lie at the given places.
func (r *recovery) upload(ctx context.Context, id uint64, at []nsm.Location) error {
	r.count(func(o *Recovered) { o.Uploads++ })
	if id < r.unknown {
		r.count(func(o *Recovered) { o.Known++ })
		return nil
	}
	at = slices.DeleteFunc(at, func(l nsm.Location) bool { return r.going[l] })
	if len(at) == 0 {
		r.count(func(o *Recovered) { o.Known++ })
		return nil
	}
	u := &rebuild{r: r, id: id, at: at}
	m, err := u.manifest(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = r.adopt(ctx, u, m)
	}
	var rule *nsm.RuleError
	var lost *lostError
	if errors.As(err, &rule) || errors.As(err, &lost) {
		r.count(func(o *Recovered) {
			o.Incomplete++
			if len(o.Lost) < MaxLost {
				o.Lost = append(o.Lost, LostUpload{ID: id, Name: u.name, Reason: err.Error()})
			}
		})
		return nil
	}
	return err
}

func (r *recovery) adopt(ctx context.Context, u *rebuild, m *manifest.Manifest) error {
	old, err := r.n.Fetch(ctx, u.name)
	if err == nil && old.ID == m.ID {
		m = u.merge(old, m)
	}
	a, err := r.n.Adopt(ctx, u.name, m)
	if err != nil {
		return err
	}
	r.count(func(o *Recovered) {
		switch a {
		case nsm.Adopted:
			o.Adopted++
		case nsm.Corrected:
			o.Corrected++
		case nsm.Unchanged:
			o.Unchanged++
		case nsm.Superseded:
			o.Superseded++
		}
		if a <= nsm.Corrected && !m.Complete() {
			o.Degraded++
		}
	})
	return nil
}

// lostError says why an upload cannot be rebuilt.
type lostError struct{ reason string }

func (e *lostError) Error() string { return e.reason }

// rebuild is one upload.
type rebuild struct {
	r    *recovery
	id   uint64
	at   []nsm.Location
	name string
}

// part is a chunk as it was coded once: the same chunk may have been coded again in another way.
type part struct {
	rec *manifest.Recovery
	at  [][]nsm.Location // by fragment, highest version first

	chunk manifest.Chunk
	sum   uint32 // of its content
}

// manifest rebuilds the object's manifest.
func (u *rebuild) manifest(ctx context.Context) (*manifest.Manifest, error) {
	parts, err := u.parts(ctx)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return nil, &lostError{"no fragment says what it is of"}
	}
	u.name = parts[0].rec.Name
	var whole []*part
	var last error
	for _, p := range parts {
		if err := u.read(ctx, p); err != nil {
			var lost *lostError
			if !errors.As(err, &lost) {
				return nil, err
			}
			last = err
			continue
		}
		whole = append(whole, p)
	}
	chosen, ok := cover(whole, parts[0].rec.Size)
	if !ok {
		return nil, cmp.Or(last, error(&lostError{"a chunk is missing"}))
	}
	m := parts[0].rec.Manifest()
	for _, p := range chosen {
		m.Sum = crc.Combine(m.Sum, p.sum, int64(p.chunk.Size))
		m.Chunks = append(m.Chunks, p.chunk)
	}
	return m, nil
}

// parts asks every fragment what it is of, and sorts them by that.
func (u *rebuild) parts(ctx context.Context) ([]*part, error) {
	byShape := make(map[string]*part)
	var out []*part
	for _, l := range u.at {
		d := u.r.m.o.Disks.Disk(l.Disk)
		var info []byte
		err := d.Do(ctx, func(dev objstore.Disk) error {
			b, err := dev.ReadRecovery(ctx, l.Key)
			if err == nil {
				info = bytes.Clone(b)
			}
			return err
		})
		var rec *manifest.Recovery
		if err == nil {
			rec, err = manifest.DecodeRecovery(info)
		}
		if err == nil && (rec.ID != u.id || int(l.Key.Fragment) >= rec.Chunk.K+rec.Chunk.M) {
			err = &objstore.CorruptError{What: "recovery information of " + l.Key.String(), Err: errors.New("it is of another fragment")}
		}
		if err := u.bad(ctx, d, l, err); err != nil {
			return nil, err
		}
		if rec == nil {
			continue
		}
		shape := fmt.Sprintf("%d %x", l.Key.Chunk, shapeOf(rec))
		p := byShape[shape]
		if p == nil {
			p = &part{rec: rec, at: make([][]nsm.Location, rec.Chunk.K+rec.Chunk.M)}
			p.chunk = rec.Chunk
			p.chunk.Number = l.Key.Chunk
			byShape[shape] = p
			out = append(out, p)
		}
		p.at[l.Key.Fragment] = append(p.at[l.Key.Fragment], l)
	}
	for _, p := range out {
		for _, at := range p.at {
			slices.SortStableFunc(at, func(a, b nsm.Location) int { return cmp.Compare(b.Key.Version, a.Key.Version) })
		}
	}
	return out, nil
}

// shapeOf is all that two fragments of the same coding of a chunk have in common.
func shapeOf(rec *manifest.Recovery) []byte {
	same := *rec
	same.Chunks = 0 // repair knows how many there are in the end, the put may not
	return same.Encode(nil)
}

// bad takes note of a fragment that cannot be used, and passes on what is not the fragment's fault.
func (u *rebuild) bad(ctx context.Context, d *manager.Disk, l nsm.Location, err error) error {
	var corrupt *objstore.CorruptError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, objstore.ErrNoFragment), errors.As(err, &corrupt):
		u.r.count(func(o *Recovered) { o.Damaged++ })
		u.r.m.log.Warn("bad fragment", "namespace", u.r.n.Name(), "object", u.name, "fragment", l.Key.String(), "disk", l.Disk, "error", err)
		return nil
	}
	// A disk that fails now is for the operator: without it objects would be given up that are whole.
	return fmt.Errorf("disk %d in %s: %w", l.Disk, d.Dir(), err)
}

// read reads the fragments of a part, each in the highest version that is intact, and completes its chunk.
func (u *rebuild) read(ctx context.Context, p *part) error {
	c := &p.chunk
	c.Fragments = make([]manifest.Fragment, c.K+c.M)
	shards := make([][]byte, c.K+c.M)
	taken := make(map[objstore.DiskID]bool)
	have := 0
	for i := range p.at {
		for _, l := range p.at[i] {
			if taken[l.Disk] {
				continue // no two fragments of a chunk on one disk
			}
			b, err := u.fragment(ctx, l, c.FragmentLen())
			if err != nil {
				return err
			}
			if b == nil {
				continue
			}
			c.Fragments[i] = manifest.Fragment{Disk: l.Disk, Version: l.Key.Version, Sum: crc.Sum(b)}
			shards[i] = b
			taken[l.Disk] = true
			have++
			break
		}
	}
	if have < c.K {
		return &lostError{fmt.Sprintf("chunk at %d: %d intact fragments, %d are needed", p.rec.Offset, have, c.K)}
	}
	// A fragment of which nothing is left keeps its sum, so that a repair can be compared with it.
	wanted := make([]bool, len(shards))
	for i := range shards {
		if shards[i] == nil {
			wanted[i], shards[i] = true, make([]byte, 0, c.FragmentLen())
			for _, l := range p.at[i] { // and its version rises
				c.Fragments[i].Version = max(c.Fragments[i].Version, l.Key.Version)
			}
		}
	}
	code, err := u.r.codes.Get(c.K, c.M)
	if err != nil {
		return err
	}
	if err := code.Reconstruct(shards, wanted); err != nil {
		return err
	}
	for i, w := range wanted {
		if w {
			c.Fragments[i].Sum = crc.Sum(shards[i])
		}
	}
	switch {
	case p.rec.Seal != nil:
		return nil // a sealed object has no sum of its content
	case c.Frames != nil:
		p.sum = c.Frames.Sum(c.Size, frames.Place{Object: u.id, Offset: p.rec.Offset}, func(b []byte, off int) {
			for i := range b { // which may lie in two fragments
				b[i] = shards[(off+i)/c.FragmentLen()][(off+i)%c.FragmentLen()]
			}
		})
		return nil
	}
	for i, left := 0, c.Size; left > 0; i++ {
		n := min(left, len(shards[i]))
		p.sum = crc.Update(p.sum, shards[i][:n])
		left -= n
	}
	return nil
}

// fragment reads a whole fragment; nil is one that is damaged.
func (u *rebuild) fragment(ctx context.Context, l nsm.Location, size int) ([]byte, error) {
	if err := u.r.m.spend.spend(ctx, size); err != nil {
		return nil, err
	}
	d := u.r.m.o.Disks.Disk(l.Disk)
	b := make([]byte, size)
	err := d.Do(ctx, func(dev objstore.Disk) error { return dev.ReadFragment(ctx, l.Key, 0, b) })
	u.r.count(func(o *Recovered) { o.Fragments++; o.Bytes += int64(size) })
	if err != nil {
		return nil, u.bad(ctx, d, l, err)
	}
	return b, nil
}

// cover chooses parts that make up the object from its first to its last byte: of two that begin at the same
// place and lead to the end, the one that can lose more.
func cover(parts []*part, size int64) ([]*part, bool) {
	slices.SortFunc(parts, func(a, b *part) int { return cmp.Compare(b.rec.Offset, a.rec.Offset) })
	best := make(map[int64]*part) // by offset; from there on the object is complete
	for _, p := range parts {
		end := p.rec.Offset + int64(p.chunk.Size)
		if end != size && best[end] == nil {
			continue
		}
		if old := best[p.rec.Offset]; old == nil || spare(p) > spare(old) {
			best[p.rec.Offset] = p
		}
	}
	var out []*part
	for off := int64(0); off < size; {
		p := best[off]
		if p == nil {
			return nil, false
		}
		out = append(out, p)
		off += int64(p.chunk.Size)
	}
	return out, len(out) > 0
}

func spare(p *part) int { return p.chunk.Present() - p.chunk.K }

// merge brings a manifest that the store has up to date with what was found: what it names and is there
// stays, and so does what it names on disks that nobody could look at.
func (u *rebuild) merge(old, found *manifest.Manifest) *manifest.Manifest {
	if len(old.Chunks) != len(found.Chunks) || old.Size != found.Size || old.Sum != found.Sum {
		return found
	}
	out := old.Clone()
	for i := range out.Chunks {
		c, f := &out.Chunks[i], &found.Chunks[i]
		if c.K != f.K || c.M != f.M || c.Number != f.Number || c.Size != f.Size {
			return found
		}
		used := make(map[objstore.DiskID]bool)
		for j := range c.Fragments {
			if f.Fragments[j].Disk != 0 {
				used[f.Fragments[j].Disk] = true
			}
		}
		for j, is := range f.Fragments {
			was := c.Fragments[j]
			d := u.r.m.o.Disks.Disk(was.Disk)
			if is.Disk == 0 && d != nil && !d.Readable() && !used[was.Disk] && was.Version >= is.Version {
				continue
			}
			c.Fragments[j] = is
		}
	}
	return out
}
