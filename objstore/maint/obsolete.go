package maint

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// obsoleteBatch is how many entries of the queue are worked off together.
const obsoleteBatch = 512

// DeleteObsolete deletes the fragments in a namespace's queue. What is on a disk that is away waits
// until it is back; what is on one that is gone for ever is forgotten.
func (m *Maint) DeleteObsolete(ctx context.Context, n *nsm.Manager) error {
	ctx, ok := m.under(ctx, n.Number())
	if !ok {
		return nil
	}
	err := m.deleteObsolete(ctx, n)
	if errors.Is(err, nsm.ErrFenced) || n.IsDeleted() {
		return nil
	}
	return err
}

func (m *Maint) deleteObsolete(ctx context.Context, n *nsm.Manager) error {
	var from uint64
	for ctx.Err() == nil {
		entries, err := n.Obsoletes(ctx, from, obsoleteBatch)
		if err != nil || len(entries) == 0 {
			return err
		}
		from = entries[len(entries)-1].ID + 1
		// What put these entries on the queue must be durable before fragments go: the manifests
		// would come back without them.
		if err := n.Sync(ctx); err != nil {
			return fmt.Errorf("objstore: delete obsolete fragments of %s: %w", n.Name(), err)
		}
		var all []nsm.Location
		for _, e := range entries {
			all = append(all, e.At...)
		}
		failed, err := m.deleteAt(ctx, all)
		if err != nil {
			return err
		}
		if err := n.Settle(ctx, entries, failed); err != nil {
			return err
		}
		if len(entries) < obsoleteBatch {
			return nil
		}
	}
	return ctx.Err()
}

// Reclaim is DeleteObsolete for all namespaces: somebody needs the space now.
func (m *Maint) Reclaim(ctx context.Context) error {
	var errs []error
	for _, ns := range m.o.Namespaces() {
		errs = append(errs, m.DeleteObsolete(ctx, ns.NSM()))
	}
	return errors.Join(errs...)
}

// deleteAt deletes fragments, and returns those on disks that cannot delete now.
func (m *Maint) deleteAt(ctx context.Context, at []nsm.Location) (failed []nsm.Location, err error) {
	byDisk := make(map[objstore.DiskID][]nsm.Location)
	for _, l := range at {
		byDisk[l.Disk] = append(byDisk[l.Disk], l)
	}
	for id, list := range byDisk {
		d := m.o.Disks.Disk(id)
		if d == nil {
			continue // retired: it will not come back
		}
		if !d.Readable() {
			failed = append(failed, list...)
			continue
		}
		keys := make([]objstore.FragmentKey, len(list))
		for i, l := range list {
			keys[i] = l.Key
		}
		err := d.Do(ctx, func(dev objstore.Disk) error { return dev.DeleteFragments(ctx, keys) })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		m.o.Disks.Observe(d, err)
		if err != nil {
			m.log.Warn("fragments wait to be deleted", "disk", id, "fragments", len(keys), "error", err)
			failed = append(failed, list...)
			continue
		}
		m.note(func(p *Progress) { p.Deleted += int64(len(keys)) })
	}
	return failed, nil
}

// unpark deletes what waited for disks that are back.
func (m *Maint) unpark(ctx context.Context) error {
	if !m.ours(allNamespaces) {
		return nil
	}
	var errs []error
	for _, d := range m.o.Disks.Disks() {
		for _, store := range m.o.Stores() {
			errs = append(errs, m.unparkFrom(ctx, d, store))
		}
	}
	return errors.Join(errs...)
}

func (m *Maint) unparkFrom(ctx context.Context, d *manager.Disk, store kv.Store) error {
	for d.Readable() && ctx.Err() == nil {
		list, err := nsm.Parked(ctx, store, d.ID(), 4096)
		if err != nil || len(list) == 0 {
			return err
		}
		failed, err := m.deleteAt(ctx, list)
		if err != nil || len(failed) > 0 {
			return err
		}
		// What stays is of a namespace that is being moved: the next time.
		if n, err := nsm.Unpark(ctx, store, list); err != nil || n < len(list) {
			return err
		}
	}
	return nil
}

// parked returns what waits for a disk to come back, of all namespaces.
func (m *Maint) parked(ctx context.Context, disk objstore.DiskID) (out []nsm.Location, err error) {
	for _, store := range m.o.Stores() {
		list, err := nsm.Parked(ctx, store, disk, 1<<20)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}
