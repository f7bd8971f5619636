package client

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manager"
)

// placement is where the fragments of a chunk shall go.
type placement struct {
	policy objstore.Policy
	index  int             // of the policy in the preset
	disks  []*manager.Disk // one per fragment; nil: there is none left
	spare  []*manager.Disk // usable for a fragment whose disk fails
}

// place chooses the first policy of the preset from index that the usable disks can meet, and disks for it. See
// choose.
func (c *Client) place(ctx context.Context, p *objstore.Preset, index int, avoid map[objstore.DiskID]bool, seed uint64) (placement, error) {
	at, err := c.placeNow(p, index, avoid, seed)
	if errors.Is(err, objstore.ErrFull) {
		// They were full when they refused a write; what was deleted since may have made room.
		c.o.Disks.Measure(ctx, (*manager.Disk).Full)
		at, err = c.placeNow(p, index, avoid, seed)
	}
	return at, err
}

// placeNow is place by what is known of the disks.
func (c *Client) placeNow(p *objstore.Preset, index int, avoid map[objstore.DiskID]bool, seed uint64) (placement, error) {
	var usable, busy []*manager.Disk
	full := 0
	for _, d := range c.o.Disks.Disks() {
		switch {
		case avoid[d.ID()], !p.Has(d.ID()):
		case d.Writable():
			usable = append(usable, d)
		case d.Busy():
			busy = append(busy, d)
		case d.Full():
			full++
		}
	}
	if at, ok := meet(p.Policies, index, usable, seed); ok {
		return at, nil
	}
	// A disk with a backlog may hang, and a write that needs it with it: that is better than none.
	if at, ok := meet(p.Policies, index, append(usable, busy...), seed); ok {
		return at, nil
	}
	if full > 0 {
		return placement{}, objstore.ErrFull
	}
	return placement{}, objstore.ErrNoQuorum
}

// meet returns the first policy from index that the disks can meet.
func meet(policies []objstore.Policy, index int, usable []*manager.Disk, seed uint64) (placement, bool) {
	for ; index < len(policies); index++ {
		p := policies[index]
		if chosen, spare := choose(usable, p, seed); len(chosen) >= p.C {
			disks := make([]*manager.Disk, p.K+p.M)
			copy(disks, chosen)
			return placement{p, index, disks, spare}, true
		}
	}
	return placement{}, false
}

// choose picks up to k+m disks, at most x on a node; the others are spares, in order of preference.
//
// Where there is a choice, each disk is drawn with a chance in proportion to what it has free and in inverse
// proportion to the writes that wait for it, by weighted rendezvous hashing: the order follows from the seed, the
// disks and their weights alone. Disks of different sizes so fill up evenly, and a new one is not the place of
// everything. Seed also rotates which of the disks hold data and which parity, so that reads spread.
func choose(usable []*manager.Disk, p objstore.Policy, seed uint64) (chosen, spare []*manager.Disk) {
	n := p.K + p.M
	order := usable
	if len(order) > n {
		order = slices.Clone(usable)
		score := make(map[*manager.Disk]float64, len(order))
		for _, d := range order {
			score[d] = draw(seed, d.ID(), weight(d))
		}
		slices.SortStableFunc(order, func(a, b *manager.Disk) int { return cmp.Compare(score[a], score[b]) })
	}
	perNode := make(map[string]int)
	for _, d := range order {
		node := d.Node()
		if len(chosen) < n && perNode[node] < p.X {
			perNode[node]++
			chosen = append(chosen, d)
		} else {
			spare = append(spare, d)
		}
	}
	rotate(chosen, seed)
	return chosen, spare
}

// draw returns when a disk's turn is: exponentially distributed with the weight as its rate, so that the first
// of several is each with a chance in proportion to its weight.
func draw(seed uint64, id objstore.DiskID, weight float64) float64 {
	u := (float64(mix(seed^mix(uint64(id)))>>11) + 0.5) / (1 << 53) // in (0, 1)
	return -math.Log(u) / weight
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// weight is how much a disk is wanted for new fragments.
func weight(d *manager.Disk) float64 {
	free := float64(max(d.Stat().Free, 1<<20)) // one that was never measured is like one that is nearly full
	w := free / float64(1+d.Writing.Load())
	if d.Reads.Slow() {
		w /= 4
	}
	return w
}

func rotate(disks []*manager.Disk, seed uint64) {
	if len(disks) == 0 {
		return
	}
	n := int(seed % uint64(len(disks)))
	slices.Reverse(disks[:n])
	slices.Reverse(disks[n:])
	slices.Reverse(disks)
}
