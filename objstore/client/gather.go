package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// gatherer reads a range of one chunk's stored bytes from its fragments.
//
// The range is cut into the pieces that lie in one data fragment each. All pieces are read at once.
// For a piece whose fragment is missing, damaged or late, the same range of other fragments is
// read until there are k of them, and the piece is computed: a detour. Everything that happens is an
// event that one goroutine, the caller's, works off; reads that are overtaken end on their own, into
// buffers of their own.
type gatherer struct {
	s     *Namespace
	name  string
	m     *manifest.Manifest
	index int
	c     *manifest.Chunk

	open   *crypt.Object // of a sealed object
	offset int64         // of the chunk in the object
	supply *supply       // what was read in advance; nil: nothing

	pieces  []*piece
	detours []*detour
	events  chan event
	flying  int // reads whose event has not come yet
	bad     map[int]error
	missed  map[int]bool // fragments that turned out not to be in the cache
}

// piece is a part of the range that lies in one data fragment, or in any of the replicas.
type piece struct {
	fragment int
	off      int // in the fragment
	dst      []byte
	have     bool
	flying   bool
}

// event is the end of a read: of a piece, or of a fragment for a detour.
type event struct {
	fragment int
	piece    *piece
	detour   *detour
	near     bool // read it from the cache or not at all
	buf      *bufpool.Buf
	err      error
}

// read fills p from offset off of the chunk's stored bytes.
func (g *gatherer) read(ctx context.Context, off int, p []byte) error {
	g.cut(off, p)
	if g.readCached(ctx) {
		return nil
	}
	n := len(g.c.Fragments)
	// Every read sends one event, a fragment may be read twice, from the cache in vain and from its disk, and nobody may
	// be there to take it.
	g.events = make(chan event, len(g.pieces)*(2*n+1))
	for _, w := range g.pieces {
		if w.have {
			continue
		}
		if direct := g.prefer(w.fragment); direct || g.near(w.fragment, w.off, len(w.dst)) {
			g.launch(ctx, event{fragment: w.fragment, piece: w, near: !direct})
		}
	}
	for _, w := range g.pieces {
		if !w.have && !w.flying {
			if err := g.detourFor(ctx, w); err != nil {
				return err
			}
		}
	}
	return g.loop(ctx)
}

// readCached fills the pieces whose disks have them in a cache, straight into their places and without
// another goroutine, and reports whether those were all.
func (g *gatherer) readCached(ctx context.Context) bool {
	all := true
	for _, w := range g.pieces {
		if w.have = g.readPieceCached(ctx, w); !w.have {
			all = false
		}
	}
	return all
}

func (g *gatherer) readPieceCached(ctx context.Context, w *piece) bool {
	if g.supply.read(g.fragment(w.fragment).Fragment, int64(w.off), w.dst) || g.prefer(w.fragment) && g.readDiskCached(ctx, w) {
		return true
	}
	cache := g.s.c.o.Fragments
	return cache != nil && cache.Ready(g.fragment(w.fragment).Key, int64(w.off), w.dst)
}

// readDiskCached reads a piece from the cache of its disk.
func (g *gatherer) readDiskCached(ctx context.Context, w *piece) bool {
	dev, done, err := g.s.c.o.Disks.Disk(g.c.Fragments[w.fragment].Disk).Use()
	if err != nil {
		return false
	}
	defer done()
	cached, ok := dev.(objstore.CachedDisk)
	return ok && cached.ReadCached(ctx, g.m.Key(g.s.nsm.Number(), g.index, w.fragment), int64(w.off), w.dst)
}

// cut makes the pieces.
func (g *gatherer) cut(off int, p []byte) {
	size := g.c.FragmentLen()
	for len(p) > 0 {
		n := min(len(p), size-off%size)
		g.pieces = append(g.pieces, &piece{fragment: g.direct(off/size, off%size, n), off: off % size, dst: p[:n]})
		p, off = p[n:], off+n
	}
}

// prefer tells whether a data fragment should be read directly.
func (g *gatherer) prefer(i int) bool {
	f := g.c.Fragments[i]
	d := g.s.c.o.Disks.Disk(f.Disk)
	if f.Disk == 0 || d == nil || !d.Readable() {
		return false
	}
	// From an unconfirmed fragment or a slow disk only when there is no other way.
	return !f.Unconfirmed && !d.Reads.Slow()
}

// cost orders the fragments that a detour may use.
func (g *gatherer) cost(i int) int {
	f := g.c.Fragments[i]
	d := g.s.c.o.Disks.Disk(f.Disk)
	switch {
	case f.Disk == 0 || d == nil || !d.Readable():
		return 9 // not at all
	case f.Unconfirmed:
		return 3
	case d.Reads.Slow():
		return 2
	case i >= g.c.K && g.c.K > 1:
		return 1
	}
	return 0
}

// launch starts a read; e tells of what, and becomes its event.
func (g *gatherer) launch(ctx context.Context, e event) {
	off, n := 0, 0
	if e.piece != nil {
		e.piece.flying = true
		off, n = e.piece.off, len(e.piece.dst)
	} else {
		e.detour.flying++
		e.detour.tried[e.fragment] = true
		off, n = e.detour.off, e.detour.n
	}
	g.flying++
	c := g.s.c
	d := c.o.Disks.Disk(g.c.Fragments[e.fragment].Disk)
	src, events := g.fragment(e.fragment), g.events
	c.ops.run(func() {
		e.buf = c.pool.Get(n)
		e.err = c.readFragment(ctx, d, src, e.near, int64(off), e.buf.B)
		events <- e
	})
}

// loop works off events until every piece is there.
func (g *gatherer) loop(ctx context.Context) error {
	hedge := time.NewTimer(g.s.c.hedgeDelay())
	defer hedge.Stop()
	for !g.complete() {
		if g.flying == 0 {
			return g.lost()
		}
		select {
		case e := <-g.events:
			g.flying--
			if err := g.handle(ctx, e); err != nil {
				return err
			}
		case <-hedge.C:
			for _, w := range g.pieces {
				if !w.have {
					if err := g.detourFor(ctx, w); err != nil {
						return err
					}
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (g *gatherer) complete() bool {
	for _, w := range g.pieces {
		if !w.have {
			return false
		}
	}
	return true
}

func (g *gatherer) handle(ctx context.Context, e event) error {
	if e.err != nil {
		return g.failed(ctx, e)
	}
	if e.piece != nil {
		defer e.buf.Release()
		e.piece.flying = false
		g.arrived(e.piece, e.buf.B)
		return g.advanceAll(ctx)
	}
	e.detour.flying--
	if e.detour.done {
		e.buf.Release()
		return nil
	}
	e.detour.shards[e.fragment] = e.buf.B // stays out of the pool: rarely so, and others may look at it
	for _, w := range e.detour.wanted {
		if w.fragment == e.fragment {
			g.arrived(w, e.buf.B)
		}
	}
	return g.advance(ctx, e.detour)
}

// failed looks for other fragments in the place of one that could not be read.
func (g *gatherer) failed(ctx context.Context, e event) error {
	e.buf.Release()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e.near {
		g.miss(e.fragment) // its disk may still have it
	} else {
		g.note(e.fragment, e.err)
	}
	if e.piece == nil {
		e.detour.flying--
		e.detour.tried[e.fragment] = !e.near
		return g.advance(ctx, e.detour)
	}
	e.piece.flying = false
	if err := g.detourFor(ctx, e.piece); err != nil {
		return err
	}
	return g.advanceAll(ctx) // others may have counted on this piece
}

// arrived fills a piece. One that is filled stays as it is: another detour may be using it.
func (g *gatherer) arrived(w *piece, b []byte) {
	if !w.have {
		copy(w.dst, b)
		w.have = true
	}
}

// note remembers what is wrong with a fragment and tells maintenance.
func (g *gatherer) note(fragment int, err error) {
	if g.bad == nil {
		g.bad = make(map[int]error)
	}
	if g.bad[fragment] != nil {
		return
	}
	g.bad[fragment] = err
	var corrupt *objstore.CorruptError
	if errors.Is(err, objstore.ErrNoFragment) || errors.As(err, &corrupt) {
		g.s.c.o.Trouble.Bad(g.s.nsm, g.name, g.m.Key(g.s.nsm.Number(), g.index, fragment), g.c.Fragments[fragment].Disk, err)
	}
}

// lost says why the chunk cannot be read.
func (g *gatherer) lost() error {
	intact := 0
	var errs []error
	for i, f := range g.c.Fragments {
		switch {
		case g.bad[i] != nil:
			errs = append(errs, fmt.Errorf("fragment %d on disk %d: %w", i, f.Disk, g.bad[i]))
		case g.cost(i) == 9:
			errs = append(errs, fmt.Errorf("fragment %d: disk %d is not up", i, f.Disk))
		default:
			intact++
		}
	}
	return &objstore.LostError{Namespace: g.s.nsm.Name(), Name: g.name, Chunk: g.index, Intact: intact, Need: g.c.K, Err: errors.Join(errs...)}
}
