package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/manager"
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

	pieces  []*piece
	detours []*detour
	events  chan event
	flying  int // reads whose event has not come yet
	bad     map[int]error
}

// piece is a part of the range that lies in one data fragment.
type piece struct {
	fragment int
	off      int // in the fragment
	dst      []byte
	have     bool
	flying   bool
}

// detour computes the same range of one or more fragments from k others.
type detour struct {
	off, n int
	wanted []*piece
	shards [][]byte
	tried  []bool
	flying int
	done   bool
}

// event is the end of a read: of a piece, or of a fragment for a detour.
type event struct {
	fragment int
	piece    *piece
	detour   *detour
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
	// Every read sends one event at most, and nobody may be there to take it.
	g.events = make(chan event, len(g.pieces)*(n+1))
	for _, w := range g.pieces {
		if !w.have && g.prefer(w.fragment) {
			g.launch(ctx, event{fragment: w.fragment, piece: w})
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
	if !g.prefer(w.fragment) {
		return false
	}
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
		g.pieces = append(g.pieces, &piece{fragment: off / size, off: off % size, dst: p[:n]})
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
	case i >= g.c.K:
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
	key := g.m.Key(g.s.nsm.Number(), g.index, e.fragment)
	events := g.events
	c.ops.run(func() {
		e.buf = c.pool.Get(n)
		e.err = c.readFragment(ctx, d, key, int64(off), e.buf.B)
		events <- e
	})
}

// readFragment reads from a disk and takes note of how it did.
func (c *Client) readFragment(ctx context.Context, d *manager.Disk, key objstore.FragmentKey, off int64, p []byte) error {
	dev, done, err := d.Use() // d is nil when it was retired meanwhile
	if err != nil {
		return err
	}
	defer done()
	begin := time.Now()
	err = dev.ReadFragment(ctx, key, off, p)
	if err == nil {
		d.Reads.Add(time.Since(begin))
	}
	c.o.Disks.Observe(d, err)
	return err
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
	g.note(e.fragment, e.err)
	if e.piece == nil {
		e.detour.flying--
		return g.advance(ctx, e.detour)
	}
	e.piece.flying = false
	if err := g.detourFor(ctx, e.piece); err != nil {
		return err
	}
	return g.advanceAll(ctx) // others may have counted on this piece
}

func (g *gatherer) advanceAll(ctx context.Context) error {
	for _, d := range g.detours {
		if err := g.advance(ctx, d); err != nil {
			return err
		}
	}
	return nil
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

// detourFor makes sure that there is a detour for a piece.
func (g *gatherer) detourFor(ctx context.Context, w *piece) error {
	for _, d := range g.detours {
		if d.off == w.off && d.n == len(w.dst) {
			if !slices.Contains(d.wanted, w) {
				d.wanted = append(d.wanted, w)
				d.done = false
			}
			return g.advance(ctx, d)
		}
	}
	n := len(g.c.Fragments)
	d := &detour{off: w.off, n: len(w.dst), wanted: []*piece{w}, shards: make([][]byte, n), tried: make([]bool, n)}
	g.detours = append(g.detours, d)
	return g.advance(ctx, d)
}

// covers returns the part of a piece that a detour can use, nil when it has none.
func (d *detour) covers(w *piece) []byte {
	if w.off <= d.off && d.off+d.n <= w.off+len(w.dst) {
		return w.dst[d.off-w.off:][:d.n]
	}
	return nil
}

// feed starts as many reads as a detour lacks for k fragments.
func (g *gatherer) feed(ctx context.Context, d *detour) {
	if d.done {
		return
	}
	coming := d.flying
	for _, s := range d.shards {
		if s != nil {
			coming++
		}
	}
	mine := make(map[int]bool) // fragments that a piece has or is bringing
	for _, w := range g.pieces {
		if d.covers(w) != nil && d.shards[w.fragment] == nil && (w.have || w.flying && !slices.Contains(d.wanted, w)) {
			mine[w.fragment] = true
			coming++
		}
	}
	var order []int
	for i := range g.c.Fragments {
		if !d.tried[i] && !mine[i] && g.cost(i) < 9 && g.bad[i] == nil && !g.late(d, i) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(g.cost(a), g.cost(b)) })
	for _, i := range order {
		if coming >= g.c.K {
			return
		}
		g.launch(ctx, event{fragment: i, detour: d})
		coming++
	}
}

// late tells whether fragment i is being read for one of the pieces that the detour is about.
func (g *gatherer) late(d *detour, i int) bool {
	return slices.ContainsFunc(d.wanted, func(w *piece) bool { return w.fragment == i && w.flying })
}

// advance computes what a detour is about once it has k fragments, and feeds it otherwise.
func (g *gatherer) advance(ctx context.Context, d *detour) error {
	if d.done {
		return nil
	}
	need := false
	for _, w := range d.wanted {
		need = need || !w.have
	}
	if !need {
		d.done = true
		return nil
	}
	shards, count := g.shardsOf(d)
	if count < g.c.K {
		g.feed(ctx, d)
		return nil
	}
	if err := g.compute(d, shards); err != nil {
		return err
	}
	d.done = true
	return nil
}

// shardsOf returns the fragments that a detour has, from its own reads and from pieces.
func (g *gatherer) shardsOf(d *detour) (shards [][]byte, count int) {
	shards = slices.Clone(d.shards)
	for _, w := range g.pieces {
		if w.have && shards[w.fragment] == nil {
			shards[w.fragment] = d.covers(w)
		}
	}
	for _, s := range shards {
		if s != nil {
			count++
		}
	}
	return shards, count
}

func (g *gatherer) compute(d *detour, shards [][]byte) error {
	code, err := g.s.c.codes.Get(g.c.K, g.c.M)
	if err != nil {
		return err
	}
	wanted := make([]bool, len(shards))
	buf := g.s.c.pool.Get(d.n * len(d.wanted))
	defer buf.Release()
	for i, w := range d.wanted {
		if !w.have {
			wanted[w.fragment] = true
			shards[w.fragment] = buf.B[i*d.n : i*d.n : (i+1)*d.n]
		}
	}
	if err := code.Reconstruct(shards, wanted); err != nil {
		return err
	}
	for _, w := range d.wanted {
		if !w.have {
			g.arrived(w, shards[w.fragment])
		}
	}
	return nil
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

// hedge is how long reads wait before they ask other disks, as worked out at some time.
type hedge struct {
	delay time.Duration
	at    time.Time
}

// hedgeDelay is how long a read waits before it asks other disks: longer than 95 of 100 reads of a
// typical disk take, so that a slow disk is overtaken but a busy machine is not asked for more.
func (c *Client) hedgeDelay() time.Duration {
	now := time.Now()
	if h := c.hedge.Load(); h != nil && now.Sub(h.at) < 100*time.Millisecond {
		return h.delay
	}
	h := &hedge{c.o.HedgeMin, now}
	var p95 []time.Duration
	for _, d := range c.o.Disks.Disks() {
		if p := d.Reads.P95(); p > 0 && d.Readable() {
			p95 = append(p95, p)
		}
	}
	if len(p95) > 0 {
		slices.Sort(p95)
		h.delay = min(max(3*p95[(len(p95)-1)/2], c.o.HedgeMin), time.Second)
	}
	c.hedge.Store(h)
	return h.delay
}
