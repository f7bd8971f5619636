package client

import (
	"cmp"
	"context"
	"slices"
)

// detour computes the same range of one or more fragments from k others.
type detour struct {
	off, n int
	wanted []*piece
	shards [][]byte
	tried  []bool
	flying int
	done   bool
}

func (g *gatherer) advanceAll(ctx context.Context) error {
	for _, d := range g.detours {
		if err := g.advance(ctx, d); err != nil {
			return err
		}
	}
	return nil
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
		if !d.tried[i] && !mine[i] && (g.cost(i) < 9 && g.bad[i] == nil || g.near(i, d.off, d.n)) && !g.late(d, i) {
			order = append(order, i)
		}
	}
	cost := make(map[int]int, len(order))
	near := make(map[int]bool)
	for _, i := range order {
		// What is near costs least, and not more when its disk is slow or gone.
		if cost[i] = 2*g.cost(i) + 1; g.near(i, d.off, d.n) {
			near[i], cost[i] = cost[i] > 3 || g.bad[i] != nil, 0
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(cost[a], cost[b]), g.nearer(a, b)) })
	for _, i := range order {
		if coming >= g.c.K {
			return
		}
		g.launch(ctx, event{fragment: i, detour: d, near: near[i]})
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
