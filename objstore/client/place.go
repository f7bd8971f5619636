package client

import (
	"context"
	"errors"
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

// place chooses the first policy from index that the usable disks can meet, and disks for it: those
// with the most free space, at most x on a node. Seed rotates which of them hold data and which
// parity, so that reads spread.
func (c *Client) place(ctx context.Context, policies []objstore.Policy, index int, avoid map[objstore.DiskID]bool, seed uint64) (placement, error) {
	at, err := c.placeNow(policies, index, avoid, seed)
	if errors.Is(err, objstore.ErrFull) {
		// They were full when they refused a write; what was deleted since may have made room.
		c.o.Disks.Measure(ctx, (*manager.Disk).Full)
		at, err = c.placeNow(policies, index, avoid, seed)
	}
	return at, err
}

// placeNow is place by what is known of the disks.
func (c *Client) placeNow(policies []objstore.Policy, index int, avoid map[objstore.DiskID]bool, seed uint64) (placement, error) {
	var usable, busy []*manager.Disk
	full := 0
	for _, d := range c.o.Disks.Disks() {
		switch {
		case avoid[d.ID()]:
		case d.Writable():
			usable = append(usable, d)
		case d.Busy():
			busy = append(busy, d)
		case d.Full():
			full++
		}
	}
	if at, ok := meet(policies, index, usable, seed); ok {
		return at, nil
	}
	// A disk with a backlog may hang, and a write that needs it with it: that is better than none.
	if at, ok := meet(policies, index, append(usable, busy...), seed); ok {
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

// choose picks up to k+m disks by free space under the limit per node; the others are spares.
func choose(usable []*manager.Disk, p objstore.Policy, seed uint64) (chosen, spare []*manager.Disk) {
	n := p.K + p.M
	order := slices.Clone(usable)
	if len(order) > n {
		// More disks than needed: prefer room, in coarse steps so that equals share the load.
		rotate(order, seed)
		slices.SortStableFunc(order, func(a, b *manager.Disk) int { return room(b) - room(a) })
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

// room is how free a disk is, from 0 to 16.
func room(d *manager.Disk) int {
	st := d.Stat()
	if st.Total <= 0 {
		return 8
	}
	return int(st.Free * 16 / st.Total)
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
