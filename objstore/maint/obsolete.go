package maint

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
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
	if err := m.deleteObsolete(ctx, n); !errors.Is(err, nsm.ErrFenced) {
		return err
	}
	return nil
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
		for d.Readable() && ctx.Err() == nil {
			list, err := nsm.Parked(ctx, m.o.KV, d.ID(), 4096)
			if err != nil || len(list) == 0 {
				errs = append(errs, err)
				break
			}
			failed, err := m.deleteAt(ctx, list)
			if err != nil || len(failed) > 0 {
				errs = append(errs, err)
				break
			}
			if err := nsm.Unpark(ctx, m.o.KV, list); err != nil {
				errs = append(errs, err)
				break
			}
		}
	}
	return errors.Join(errs...)
}
