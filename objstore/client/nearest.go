package client

import (
	"cmp"
	"time"
)

// distance orders fragments by how far away their disks are: those of this machine come first, then those that have
// answered faster.
func (g *gatherer) distance(i int) (remote int, mean time.Duration) {
	d := g.s.c.o.Disks.Disk(g.c.Fragments[i].Disk)
	if d == nil {
		return 2, 0
	}
	if d.Remote() {
		remote = 1
	}
	return remote, d.Reads.Mean()
}

// nearer tells which of two fragments comes first.
func (g *gatherer) nearer(a, b int) int {
	ra, ma := g.distance(a)
	rb, mb := g.distance(b)
	return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(ma, mb))
}

// direct returns the fragment that the n stored bytes from off of it are to be read from: the one that they lie in, and of
// replicas the nearest. It stays with the first of several that are about as near: what others have cached is there.
func (g *gatherer) direct(i, off, n int) int {
	if g.c.K > 1 {
		return i
	}
	best := -1
	for j := range g.c.Fragments {
		if g.near(j, off, n) {
			return j
		}
		if !g.prefer(j) {
			continue
		}
		if best < 0 {
			best = j
			continue
		}
		rb, mb := g.distance(best)
		if rj, mj := g.distance(j); rj < rb || rj == rb && 2*mj < mb {
			best = j
		}
	}
	return max(best, 0)
}
