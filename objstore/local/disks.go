package local

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Disks returns a picture of every disk that is not retired, by number.
func (b *Backend) Disks() []manager.Status {
	var out []manager.Status
	for _, d := range b.disks.Disks() {
		out = append(out, d.Status())
	}
	return out
}

// AddDisk takes a folder into use: a disk that is known, or an empty or missing folder as a new one.
func (b *Backend) AddDisk(ctx context.Context, dir string) (manager.Status, error) {
	abs, err := place(dir)
	if err != nil {
		return manager.Status{}, err
	}
	o := b.openDir(ctx, abs, true)
	if o.err != nil {
		return manager.Status{}, o.err
	}
	d, err := b.disks.Attach(ctx, o.id, abs, nodeOf(o.dev, b.o.Node), o.dev)
	if err != nil {
		return manager.Status{}, errors.Join(err, o.dev.Close())
	}
	if err := d.Refresh(ctx); err != nil {
		b.lost(d, err)
	}
	b.changed()
	return d.Status(), nil
}

// DisableDisk gives a disk no new fragments and lets maintenance move what it holds to others.
func (b *Backend) DisableDisk(ctx context.Context, id objstore.DiskID) error {
	return b.setAdmin(ctx, id, manager.Disabled)
}

// EnableDisk undoes DisableDisk and DrainDisk.
func (b *Backend) EnableDisk(ctx context.Context, id objstore.DiskID) error {
	return b.setAdmin(ctx, id, manager.Active)
}

// DrainDisk is DisableDisk, and retires the disk when nothing refers to it any more.
func (b *Backend) DrainDisk(ctx context.Context, id objstore.DiskID) error {
	return b.setAdmin(ctx, id, manager.Draining)
}

func (b *Backend) setAdmin(ctx context.Context, id objstore.DiskID, a manager.Admin) error {
	if err := b.disks.SetAdmin(ctx, id, a); err != nil {
		return err
	}
	b.changed()
	return nil
}

// PurgeDisk forgets a disk for ever. It is refused while an object refers to it, unless force.
func (b *Backend) PurgeDisk(ctx context.Context, id objstore.DiskID, force bool) error {
	if b.disks.Disk(id) == nil {
		return errNoDisk(id)
	}
	n, err := b.maint.References(ctx, id)
	if err != nil {
		return err
	}
	if n > 0 && !force {
		advice := "drain it first"
		if b.disks.Disk(id).Status().State != manager.Up {
			advice = "wait until maintenance has made that anew on other disks"
		}
		return fmt.Errorf("disk %d: %d objects refer to it: %s", id, n, advice)
	}
	if err := b.maint.Retire(ctx, id); err != nil {
		return err
	}
	b.changed()
	return nil
}

// changed makes maintenance look at the disks.
func (b *Backend) changed() {
	b.safety.drop()
	b.maint.DisksChanged()
}

// lost takes a disk out of use.
func (b *Backend) lost(d *manager.Disk, err error) { b.disks.Detach(d, stateOf(err), err) }

// Capacity returns the room for user data, after coding by the first policy of the preset, on the disks that it lists. Disks on one
// filesystem share what is free. What the disks said last is good enough while there is plenty; when little
// is left they are asked.
func (b *Backend) Capacity(ctx context.Context) (objstore.Capacity, error) {
	p, err := b.disks.Preset(ctx, PresetName)
	if err != nil {
		return objstore.Capacity{}, err
	}
	c := b.capacity(&p)
	if c.Free < plenty {
		b.disks.Measure(ctx, (*manager.Disk).Readable)
		c = b.capacity(&p)
	}
	return c, nil
}

// plenty is more than is written before the watch looks at the disks again.
const plenty = 1 << 30

// capacity is Capacity by what the disks said last.
func (b *Backend) capacity(preset *objstore.Preset) objstore.Capacity {
	type device struct{ own, sum, most, avail int64 } // sum and most are of what is free beyond own
	devices := make(map[uint64]*device)
	var used int64
	for _, d := range b.disks.Disks() {
		if !d.Readable() || !preset.Has(d.ID()) {
			continue
		}
		st := d.Stat()
		used += st.Used
		if d.Record().Admin != manager.Active {
			continue
		}
		id := st.Device
		if id == 0 {
			id = 1<<63 + uint64(d.ID())
		}
		v := devices[id]
		if v == nil {
			v = &device{avail: available(d.Dir())}
			devices[id] = v
		}
		v.own += st.Own
		v.sum += st.Free - st.Own
		v.most = max(v.most, st.Free-st.Own)
	}
	var free int64
	for _, v := range devices {
		free += v.own + min(v.sum, max(v.most, v.avail))
	}
	p := preset.Policies[0]
	k, n := int64(p.K), int64(p.K+p.M)
	c := objstore.Capacity{Used: used / n * k, Free: free / n * k}
	c.Total = c.Used + c.Free
	return c
}

// available is what a filesystem has left beyond the reserve that ASDs keep.
func available(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	total, avail := int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	return max(0, avail-min(max(total/32, 6<<20), 1<<30))
}

// Usage returns what the objects of all namespaces take.
func (b *Backend) Usage(ctx context.Context) (nsm.Usage, error) {
	var out nsm.Usage
	for _, ns := range b.list() {
		u, err := ns.NSM().Usage(ctx)
		if err != nil {
			return out, err
		}
		out.Objects += u.Objects
		out.Bytes += u.Bytes
		out.Stored += u.Stored
	}
	return out, nil
}

// Progress returns what maintenance does.
func (b *Backend) Progress() maint.Progress { return b.maint.Progress() }

// maxWaiting bounds how far Waiting counts.
const maxWaiting = 10000

// Waiting counts the fragments that are to be deleted from disks and are there still, up to some: those whose turn has
// not come, and those on disks that are away.
func (b *Backend) Waiting(ctx context.Context) (n int64, err error) {
	for _, ns := range b.list() {
		list, err := ns.NSM().Obsoletes(ctx, 0, maxWaiting)
		if err != nil {
			return n, err
		}
		for _, o := range list {
			n += int64(len(o.At))
		}
	}
	for _, store := range b.stores() {
		for _, d := range b.disks.Disks() {
			list, err := nsm.Parked(ctx, store, d.ID(), maxWaiting)
			if err != nil {
				return n, err
			}
			n += int64(len(list))
		}
	}
	return n, nil
}

// Check looks whether everything is as it should be, and changes nothing. See maint.Check.
func (b *Backend) Check(ctx context.Context, o maint.CheckOptions, report func(maint.Problem)) (maint.CheckResult, error) {
	return b.maint.Check(ctx, o, report)
}

// Repair heals every object that is not as safe as it could be, deletes what is obsolete, and collects
// garbage. It returns when that is done.
func (b *Backend) Repair(ctx context.Context) error {
	errs := []error{b.maint.Repair(ctx), b.maint.Reclaim(ctx)}
	_, err := b.maint.Collect(ctx)
	return errors.Join(append(errs, err)...)
}

// Heal is the first part of Repair: it heals every object that is not as safe as it could be. It returns how many bytes
// of fragments were written.
func (b *Backend) Heal(ctx context.Context) (int64, error) {
	before := b.maint.Progress().Bytes
	err := b.maint.Repair(ctx)
	return b.maint.Progress().Bytes - before, err
}

// Collect deletes garbage and returns how many fragments it was.
func (b *Backend) Collect(ctx context.Context) (int64, error) { return b.maint.Collect(ctx) }

// Scrub reads and verifies every fragment; what is bad is healed in the background.
func (b *Backend) Scrub(ctx context.Context) error { return b.maint.Scrub(ctx) }

// Inspect tells which ASD a folder holds, without opening it.
func Inspect(dir string) (asd.Identity, error) { return asd.Inspect(dir) }
