package node

import (
	"context"
	"fmt"
	"strconv"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manager"
)

// disk translates a disk's status for people and scripts.
func disk(s manager.Status) control.Disk {
	d := control.Disk{ID: strconv.FormatUint(uint64(s.ID), 10), ASD: s.ASD, Dir: s.Dir, Total: s.Stat.Total, Used: s.Stat.Used, Free: s.Stat.Free, Garbage: s.Stat.Garbage}
	if s.Err != nil {
		d.Error = s.Err.Error()
	}
	switch {
	case s.State != manager.Up:
		d.State = s.State.String()
	case s.Admin != manager.Active:
		d.State = string(s.Admin)
	case s.Stat.Full:
		d.State = "full"
	case s.Slow:
		d.State = "slow"
	default:
		d.State = "ok"
	}
	return d
}

// ASDs lists the disks by number.
func (n *Node) ASDs(context.Context) ([]control.Disk, error) {
	disks := []control.Disk{}
	for _, s := range n.objects.Disks() {
		disks = append(disks, disk(s))
	}
	return disks, nil
}

// Troubles lists the disks that cannot be used.
func (n *Node) Troubles() []control.Disk {
	var out []control.Disk
	for _, s := range n.objects.Disks() {
		if s.State != manager.Up {
			out = append(out, disk(s))
		}
	}
	return out
}

// AddASD claims the folder dir as a new and empty disk, or takes back one that is known.
func (n *Node) AddASD(ctx context.Context, dir string) (control.Disk, error) {
	for _, s := range n.objects.Disks() {
		if s.Dir == dir && s.State == manager.Up {
			return control.Disk{}, fmt.Errorf("%s is disk %d already", dir, s.ID)
		}
	}
	s, err := n.objects.AddDisk(ctx, dir)
	if err != nil {
		return control.Disk{}, err
	}
	return disk(s), n.rememberDisks()
}

// rememberDisks has the data directory say where the disks are, for when the key-value store is lost.
func (n *Node) rememberDisks() error {
	n.placing.Lock()
	defer n.placing.Unlock()
	var places []string
	for _, s := range n.objects.Disks() {
		places = append(places, s.Dir)
	}
	if err := n.dir.WritePlaces(places); err != nil {
		return fmt.Errorf("note where the disks are: %w", err)
	}
	return nil
}

// ChangeASD changes what a disk is used for.
func (n *Node) ChangeASD(ctx context.Context, r control.ChangeRequest) (control.Disk, error) {
	id, err := diskID(r.ID)
	if err != nil {
		return control.Disk{}, err
	}
	before, err := n.disk(id)
	if err != nil {
		return before, err
	}
	switch r.Do {
	case control.Disable:
		err = n.objects.DisableDisk(ctx, id)
	case control.Enable:
		err = n.objects.EnableDisk(ctx, id)
	case control.Drain:
		err = n.objects.DrainDisk(ctx, id)
	case control.Purge:
		if err := n.objects.PurgeDisk(ctx, id, r.Force); err != nil {
			return before, err
		}
		return before, n.rememberDisks()
	default:
		err = fmt.Errorf("%w: %q cannot be done to a disk", control.ErrBadRequest, r.Do)
	}
	if err != nil {
		return before, err
	}
	return n.disk(id)
}

func (n *Node) disk(id objstore.DiskID) (control.Disk, error) {
	for _, s := range n.objects.Disks() {
		if s.ID == id {
			return disk(s), nil
		}
	}
	return control.Disk{}, fmt.Errorf("disk %d: %w", id, objstore.ErrNotFound)
}
