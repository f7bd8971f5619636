package maint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manager"
)

// Purge deletes what disks that are up hold of namespaces that were deleted. It is done again until no upload that
// had begun before can write anything any more; what is on a disk that is away waits until it is back.
func (m *Maint) Purge(ctx context.Context) error {
	if !m.ours(allNamespaces) {
		return nil
	}
	m.labelling.Lock() // whoever labels now may not have heard of the deletion
	defer m.labelling.Unlock()
	all, err := m.o.Disks.Purges(ctx)
	errs := []error{err}
	for _, p := range all {
		done := true
		if d := m.o.Disks.Disk(p.Disk); d != nil {
			if !d.Readable() {
				continue
			}
			err := m.purge(ctx, d, p.Namespace)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if m.o.Disks.Observe(d, err); err != nil {
				errs = append(errs, fmt.Errorf("purge namespace %d from disk %d: %w", p.Namespace, p.Disk, err))
				continue
			}
			done = m.o.Clock().Sub(time.Unix(p.Since, 0)) > m.o.UploadGrace
		}
		if done {
			errs = append(errs, m.o.Disks.Purged(ctx, p))
		}
	}
	return errors.Join(errs...)
}

// purge deletes all fragments of a namespace from a disk, and its label.
func (m *Maint) purge(ctx context.Context, d *manager.Disk, ns uint32) error {
	from, to := objstore.FragmentKey{Namespace: ns}, objstore.FragmentKey{Namespace: ns + 1}
	for more := true; more; {
		keys := []objstore.FragmentKey{}
		err := d.Do(ctx, func(dev objstore.Disk) error {
			var list []objstore.FragmentKey
			err := dev.Range(ctx, from, to, func(f objstore.FragmentInfo) bool {
				list = append(list, f.Key)
				return len(list) < 1024
			})
			if err == nil {
				keys = list
			}
			return err
		})
		if err != nil {
			return err
		}
		if more = len(keys) == 1024; !more {
			keys = append(keys, labelKey(ns))
		}
		if err := d.Do(ctx, func(dev objstore.Disk) error { return dev.DeleteFragments(ctx, keys) }); err != nil {
			return err
		}
		m.note(func(p *Progress) { p.Deleted += int64(len(keys)) })
	}
	return nil
}
