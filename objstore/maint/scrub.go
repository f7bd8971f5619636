package maint

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Scrub reads every fragment now, compares it with its manifest, and heals what is bad. On a schedule that is
// done in steps, by a Walk.
func (m *Maint) Scrub(ctx context.Context) error {
	var total int64
	for _, ns := range m.o.Namespaces() {
		u, err := ns.NSM().Usage(ctx)
		if err != nil {
			return err
		}
		total += u.Objects
	}
	defer m.task("scrub", total)()
	var errs []error
	for _, ns := range m.o.Namespaces() {
		n := ns.NSM()
		if !m.ours(n.Number()) {
			continue
		}
		err := n.List(ctx, "", "", func(name string, mf *manifest.Manifest) bool {
			_, err := m.verify(ctx, n, mf, func(chunk, fragment int, err error) {
				m.Bad(n, name, mf.Key(n.Number(), chunk, fragment), mf.Chunks[chunk].Fragments[fragment].Disk, err)
			})
			errs = append(errs, err)
			m.note(func(p *Progress) { p.Done++ })
			return err == nil && ctx.Err() == nil
		})
		errs = append(errs, err)
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// verify reads the fragments of an object that are on disks that are up, and reports those that are
// not as the manifest says. It returns how many it read.
func (m *Maint) verify(ctx context.Context, n *nsm.Manager, mf *manifest.Manifest, report func(chunk, fragment int, err error)) (int, error) {
	read := 0
	var buf []byte
	for i := range mf.Chunks {
		c := &mf.Chunks[i]
		for j, f := range c.Fragments {
			d := m.o.Disks.Disk(f.Disk)
			if !f.Present() || d == nil || !d.Readable() {
				continue
			}
			if cap(buf) < c.FragmentLen() {
				buf = make([]byte, c.FragmentLen())
			}
			buf = buf[:c.FragmentLen()]
			if err := m.spend.spend(ctx, len(buf)); err != nil {
				return read, err
			}
			err := verifyFragment(ctx, d, mf.Key(n.Number(), i, j), f.Sum, buf)
			read++
			m.note(func(p *Progress) { p.Scrubbed++ })
			var corrupt *objstore.CorruptError
			if errors.Is(err, objstore.ErrNoFragment) || errors.As(err, &corrupt) {
				report(i, j, err)
			} else if err != nil {
				buf = nil // the disk may still be writing to it
				m.o.Disks.Observe(d, err)
			}
		}
	}
	return read, ctx.Err()
}

func verifyFragment(ctx context.Context, d *manager.Disk, key objstore.FragmentKey, sum uint32, buf []byte) error {
	if !d.Readable() {
		return nil // it went down: not this fragment's fault
	}
	if err := d.Do(ctx, func(dev objstore.Disk) error { return dev.ReadFragment(ctx, key, 0, buf) }); err != nil {
		return err
	}
	if got := crc.Sum(buf); got != sum {
		return &objstore.CorruptError{What: "fragment " + key.String(), Err: fmt.Errorf("checksum %08x, the manifest says %08x", got, sum)}
	}
	return nil
}
