package data

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// Read fills p from off; it returns fewer bytes only at the end of the file.
func (s *Store) Read(ctx context.Context, ino fs.Ino, off int64, p []byte) (int, error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return 0, err
	}
	defer s.release(f)
	if from, to := f.ahead.note(off, int64(len(p))); from < to {
		s.prefetch(f.contentID(), from, to)
	}
	n, err := f.read(ctx, off, p, nil)
	return n, s.fsError(err)
}

// gap is a range of a read that is still to be filled: p[from:to].
type gap struct{ from, to int }

// read fills p from the uncommitted generations up to and including upTo (nil: all) over what is
// committed.
//
// The generations are looked at first: one that commits in between is then read from the extents
// instead, or as well. A blob that is freed in between, because the content was replaced, is
// missing below; then the extents have changed, and the read starts over.
func (f *file) read(ctx context.Context, off int64, p []byte, upTo *generation) (int, error) {
	var last *readPlan
	for {
		f.mu.RLock()
		size := f.size
		if upTo != nil {
			size = off + int64(len(p)) // a merge knows what it reads
		}
		n := int(max(0, min(int64(len(p)), size-off)))
		gaps := f.readDirty(off, p[:n], upTo)
		content := f.content
		f.mu.RUnlock()
		if len(gaps) == 0 {
			return n, nil
		}
		plan, err := f.s.plan(ctx, content, off, p, gaps)
		if err != nil {
			return 0, err
		}
		if len(plan.parts) == 0 {
			return n, nil
		}
		f.s.neighbourly(plan.parts)
		if err = f.s.ns.ReadSlices(ctx, plan.slices(p)); err == nil {
			return n, nil
		}
		if !errors.Is(err, objstore.ErrNotFound) || plan.same(last) {
			return 0, fmt.Errorf("read inode %d at %d: %w", f.ino, off, err)
		}
		last = plan
	}
}

// readDirty copies what uncommitted generations hold, newest first, and returns what they do not.
// Called with f.mu.
func (f *file) readDirty(off int64, p []byte, upTo *generation) []gap {
	if len(p) == 0 {
		return nil
	}
	gaps := []gap{{0, len(p)}}
	if f.cur != nil && upTo == nil {
		gaps = f.cur.fill(off, p, gaps)
	}
	for i := len(f.queue) - 1; i >= 0 && len(gaps) > 0; i-- {
		if upTo != nil {
			if f.queue[i] != upTo {
				continue
			}
			upTo = nil
		}
		gaps = f.queue[i].fill(off, p, gaps)
	}
	return gaps
}

// fill copies what g holds of the gaps and returns those that remain.
func (g *generation) fill(off int64, p []byte, gaps []gap) []gap {
	if g.dropped.Load() {
		return gaps
	}
	var out []gap
	for _, h := range gaps {
		for at := h.from; at < h.to; {
			pos := off + int64(at)
			in := uint32(pos % BlockSize)
			n := min(h.to-at, BlockSize-int(in))
			if b := g.blocks[uint32(pos/BlockSize)]; b == nil {
				out = appendGap(out, at, at+n)
			} else {
				b.fill(in, p[at:at+n], func(from, to int) { out = appendGap(out, at+from, at+to) })
			}
			at += n
		}
	}
	return out
}

func appendGap(gaps []gap, from, to int) []gap {
	if n := len(gaps); n > 0 && gaps[n-1].to == from {
		gaps[n-1].to = to
		return gaps
	}
	return append(gaps, gap{from, to})
}

// readPart says that the bytes [from, to) of a read are those of an object from off on.
type readPart struct {
	pack     uint64
	off      int64
	from, to int
	shared   bool // the pack has other blobs, too
}

// readPlan is how a read is filled from objects.
type readPlan struct{ parts []readPart }

func (a *readPlan) same(b *readPlan) bool { return b != nil && slices.Equal(a.parts, b.parts) }

func (a *readPlan) slices(p []byte) []objstore.Slice {
	out := make([]objstore.Slice, len(a.parts))
	for i, x := range a.parts {
		out[i] = objstore.Slice{Name: objectName(x.pack), Off: x.off, P: p[x.from:x.to]}
	}
	return out
}

// plan resolves gaps of a read of p at off against the extents of content: it fills in zeroes and
// inline bytes, and returns which objects fill the rest.
func (s *Store) plan(ctx context.Context, content uint64, off int64, p []byte, gaps []gap) (*readPlan, error) {
	plan := new(readPlan)
	err := s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		plan.parts = plan.parts[:0]
		for _, h := range gaps {
			for at := h.from; at < h.to; {
				pos := off + int64(at)
				in := uint32(pos % BlockSize)
				n := min(h.to-at, BlockSize-int(in))
				b := blockRead{content: content, block: uint32(pos / BlockSize), in: in, at: at, n: n}
				if err := b.plan(r, plan, p); err != nil {
					return err
				}
				at += n
			}
		}
		return nil
	})
	return plan, err
}

// blockRead is the part of a read that lies in one block: n bytes from offset in of the block go to
// offset at of the read.
type blockRead struct {
	content   uint64
	block, in uint32
	at, n     int
}

func (b blockRead) plan(r kv.Reader, plan *readPlan, p []byte) error {
	e, err := getExtent(r, b.content, b.block)
	if err != nil {
		return err
	}
	pos, end := b.in, b.in+uint32(b.n)
	to := func(x uint32) int { return b.at + int(x-b.in) } // offset in p of a position in the block
	for _, x := range e.pieces {
		if x.end() <= pos || x.off >= end {
			continue
		}
		if x.off > pos {
			clear(p[to(pos):to(x.off)])
			pos = x.off
		}
		row, err := getBlob(r, &x.hash)
		if err != nil {
			return &DamageError{fmt.Sprintf("extent of content %d block %d: blob %x", b.content, b.block, x.hash[:8]), err}
		}
		stop := min(x.end(), end)
		from := int64(x.boff) + int64(pos-x.off)
		if from+int64(stop-pos) > int64(row.n) {
			return &DamageError{fmt.Sprintf("extent of content %d block %d", b.content, b.block), errPiece}
		}
		plan.parts = append(plan.parts, readPart{row.pack, int64(row.off) + from, to(pos), to(stop), row.n < soloBlob})
		pos = stop
	}
	clear(p[to(pos):to(end)])
	if !e.hasInline {
		return nil
	}
	return rangeInline(r, b.content, b.block, b.in, end, func(off uint32, v []byte) error {
		lo, hi := max(off, b.in), min(off+uint32(len(v)), end)
		plan.exclude(to(lo), to(hi))
		copy(p[to(lo):to(hi)], v[lo-off:])
		return nil
	})
}

// exclude takes the bytes [from, to) of the read out of the plan.
func (a *readPlan) exclude(from, to int) {
	var out []readPart
	for _, x := range a.parts {
		if x.to <= from || x.from >= to {
			out = append(out, x)
			continue
		}
		if x.from < from {
			out = append(out, readPart{x.pack, x.off, x.from, from, x.shared})
		}
		if x.to > to {
			out = append(out, readPart{x.pack, x.off + int64(to-x.from), to, x.to, x.shared})
		}
	}
	a.parts = out
}

func getExtent(r kv.Reader, content uint64, block uint32) (extent, error) {
	v, err := r.Get(ksExtent, extentKey(content, block))
	if errors.Is(err, kv.ErrNotFound) {
		return extent{}, nil
	}
	if err != nil {
		return extent{}, err
	}
	e, err := decodeExtent(v)
	if err != nil {
		return e, &DamageError{fmt.Sprintf("extent of content %d block %d", content, block), err}
	}
	return e, nil
}
