package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// detailed is a disk that this process has open itself.
type detailed interface {
	detail() asd.Stat
	compact(ctx context.Context) error
}

func (d asdDisk) detail() asd.Stat                  { return d.a.Stat() }
func (d asdDisk) compact(ctx context.Context) error { return d.a.Compact(ctx) }

// onDetailed runs fn on a disk that this process has open. The error for a disk of another process matches
// errors.ErrUnsupported.
func (b *Backend) onDetailed(id objstore.DiskID, fn func(detailed) error) error {
	d := b.disks.Disk(id)
	if d == nil {
		return errNoDisk(id)
	}
	dev, done, err := d.Use()
	if err != nil {
		return err
	}
	defer done()
	if a, ok := dev.(detailed); ok {
		return fn(a)
	}
	return fmt.Errorf("disk %d at %s is another process's, which looks after it: %w", id, d.Dir(), errors.ErrUnsupported)
}

// DiskDetail returns everything that a disk of this process counts.
func (b *Backend) DiskDetail(id objstore.DiskID) (s asd.Stat, err error) {
	err = b.onDetailed(id, func(d detailed) error {
		s = d.detail()
		return nil
	})
	return s, err
}

// CompactDisk brings the space of deleted records of a disk of this process back, as asd.ASD.Compact does, while it is
// used.
func (b *Backend) CompactDisk(ctx context.Context, id objstore.DiskID) (before, after asd.Stat, err error) {
	err = b.onDetailed(id, func(d detailed) error {
		before = d.detail()
		if err := d.compact(ctx); err != nil {
			return err
		}
		after = d.detail()
		return nil
	})
	return before, after, err
}
