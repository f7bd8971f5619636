package maint

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Collect deletes fragments that no manifest refers to or ever will: what crashes and failed writes left
// behind. It returns how many there were.
//
// A new epoch begins, and the uploads of earlier ones end or expire. From then on no manifest with an id
// below the boundary can appear, so that a fragment below it that no manifest names is garbage. Disks
// that are down keep theirs until the next time. Ids that the store does not know of are on hold (see
// nsm.Hold) and left alone: it may have lost what named them.
func (m *Maint) Collect(ctx context.Context) (int64, error) {
	defer m.task("collect", 0)()
	var total int64
	var errs []error
	for _, ns := range m.o.Namespaces() {
		ctx, ok := m.under(ctx, ns.NSM().Number())
		if !ok {
			continue
		}
		n, err := m.collect(ctx, ns.NSM())
		total += n
		errs = append(errs, err)
	}
	m.note(func(p *Progress) { p.Collected += total })
	return total, errors.Join(errs...)
}

func (m *Maint) collect(ctx context.Context, n *nsm.Manager) (int64, error) {
	e, err := n.Advance(ctx)
	if err != nil {
		return 0, err
	}
	grace, cancel := context.WithTimeout(ctx, m.o.UploadGrace)
	err = n.Quiesce(grace, e)
	cancel()
	if err != nil && ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err := n.Expire(ctx, e); err != nil {
		return 0, err
	}
	held, err := n.Held(ctx)
	if err != nil {
		return 0, err
	}
	// Nothing may write fragments of objects that exist while they are compared.
	m.work.Lock()
	defer m.work.Unlock()
	var total int64
	for lo := uint64(0); lo < e.Below; {
		w, err := newWindow(ctx, n, lo, e.Below)
		if err != nil {
			return total, err
		}
		err = eachGarbage(ctx, m.o.Disks, n, w, func(d *manager.Disk, keys []objstore.FragmentKey) error {
			keys = slices.DeleteFunc(keys, func(k objstore.FragmentKey) bool { return held.Has(k.Object) })
			if len(keys) == 0 {
				return nil
			}
			if err := d.Do(ctx, func(dev objstore.Disk) error { return dev.DeleteFragments(ctx, keys) }); err != nil {
				return err
			}
			total += int64(len(keys))
			m.log.Info("garbage collected", "namespace", n.Name(), "disk", d.ID(), "fragments", len(keys), "first", keys[0].String())
			return nil
		})
		if err != nil {
			return total, err
		}
		lo = w.hi
	}
	return total, nil
}

// window is what manifests with ids lo <= id < hi refer to, as sorted hashes of disk and key: eight bytes
// per fragment. Two that hash alike could only make garbage look alive.
type window struct {
	lo, hi uint64
	seed   maphash.Seed
	hashes []uint64
}

// maxWindow bounds the fragments in a window.
const maxWindow = 1 << 20

// newWindow reads all manifests and keeps those with ids from lo, as many as fit.
func newWindow(ctx context.Context, n *nsm.Manager, lo, hi uint64) (*window, error) {
	return newWindowOf(ctx, n, lo, hi, maxWindow)
}

func newWindowOf(ctx context.Context, n *nsm.Manager, lo, hi uint64, most int) (*window, error) {
	w := &window{lo: lo, hi: hi, seed: maphash.MakeSeed()}
	type item struct{ id, hash uint64 }
	var items []item
	err := n.List(ctx, "", "", func(_ string, m *manifest.Manifest) bool {
		if m.ID < lo || m.ID >= w.hi {
			return ctx.Err() == nil
		}
		for _, l := range nsm.Locations(n.Number(), m) {
			items = append(items, item{m.ID, w.hash(l)})
		}
		if len(items) > most {
			slices.SortFunc(items, func(a, b item) int { return int(min(max(int64(a.id-b.id), -1), 1)) })
			half := items[len(items)/2].id
			if half > lo {
				w.hi = half
				items = slices.DeleteFunc(items, func(i item) bool { return i.id >= half })
			}
		}
		return ctx.Err() == nil
	})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	w.hashes = make([]uint64, len(items))
	for i, it := range items {
		w.hashes[i] = it.hash
	}
	slices.Sort(w.hashes)
	return w, nil
}

func (w *window) hash(l nsm.Location) uint64 {
	var b [4 + objstore.FragmentKeyLen]byte
	binary.BigEndian.PutUint32(b[:], uint32(l.Disk))
	l.Key.Append(b[:4])
	return maphash.Bytes(w.seed, b[:])
}

func (w *window) has(l nsm.Location) bool {
	_, ok := slices.BinarySearch(w.hashes, w.hash(l))
	return ok
}

// eachGarbage calls fn with fragments of the window that no manifest refers to, disk by disk.
func eachGarbage(ctx context.Context, disks *manager.Manager, n *nsm.Manager, w *window, fn func(*manager.Disk, []objstore.FragmentKey) error) error {
	var errs []error
	from := objstore.FragmentKey{Namespace: n.Number(), Object: w.lo}
	to := objstore.FragmentKey{Namespace: n.Number(), Object: w.hi}
	for _, d := range disks.Disks() {
		if !d.Readable() {
			continue
		}
		garbage, err := garbageOn(ctx, d, w, from, to)
		errs = append(errs, err)
		for len(garbage) > 0 && ctx.Err() == nil {
			batch := garbage[:min(len(garbage), 1024)]
			garbage = garbage[len(batch):]
			if err := fn(d, batch); err != nil {
				errs = append(errs, err)
				break
			}
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// rangePage is how many keys are listed in one operation.
const rangePage = 10000

// garbageOn lists the fragments of the window that are on a disk and that no manifest refers to.
func garbageOn(ctx context.Context, d *manager.Disk, w *window, from, to objstore.FragmentKey) ([]objstore.FragmentKey, error) {
	var garbage []objstore.FragmentKey
	for {
		var page []objstore.FragmentKey
		at := from
		err := d.Do(ctx, func(dev objstore.Disk) error {
			var list []objstore.FragmentKey
			err := dev.Range(ctx, at, to, func(f objstore.FragmentInfo) bool {
				list = append(list, f.Key)
				return len(list) < rangePage
			})
			if err == nil {
				page = list
			}
			return err
		})
		if err != nil {
			return garbage, err
		}
		for _, k := range page {
			if !w.has(nsm.Location{Disk: d.ID(), Key: k}) {
				garbage = append(garbage, k)
			}
		}
		if len(page) < rangePage {
			return garbage, nil
		}
		from = page[len(page)-1].Next()
	}
}
