package maint

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// One pass of rebalance moves no more than this, so that deletions free the space that it has moved away, and
// repair gets its turn.
const (
	passBytes   = 1 << 30
	passObjects = 1000
)

// fill is how full disks are, as far as it is known while fragments move.
type fill struct {
	used, total map[objstore.DiskID]float64
	within      float64
}

// newFill looks at the disks that keep what they have.
func newFill(disks *manager.Manager, within float64) *fill {
	f := &fill{used: map[objstore.DiskID]float64{}, total: map[objstore.DiskID]float64{}, within: within}
	for _, d := range disks.Disks() {
		if st := d.Stat(); d.Kept() && st.Total > 0 {
			f.used[d.ID()], f.total[d.ID()] = float64(st.Used), float64(st.Total)
		}
	}
	return f
}

func (f *fill) of(d objstore.DiskID) float64 { return f.used[d] / f.total[d] }

// spread is how much fuller the fullest disk is than the emptiest.
func (f *fill) spread() float64 {
	least, most := 1.0, 0.0
	for d := range f.used {
		least, most = min(least, f.of(d)), max(most, f.of(d))
	}
	return max(0, most-least)
}

// donors returns the disks that are fuller than they all are together; of those that are hardly so, none.
func (f *fill) donors() map[objstore.DiskID]bool {
	var used, total float64
	for d := range f.used {
		used, total = used+f.used[d], total+f.total[d]
	}
	out := make(map[objstore.DiskID]bool)
	for d := range f.used {
		if f.of(d) > used/total+f.within/8 {
			out[d] = true
		}
	}
	return out
}

// emptiest returns the disk that is least full, if it stays less full than from when it gets size bytes from it.
func (f *fill) emptiest(from objstore.DiskID, size int64, allowed []*manager.Disk) *manager.Disk {
	var best *manager.Disk
	for _, d := range allowed {
		if f.total[d.ID()] > 0 && (best == nil || f.of(d.ID()) < f.of(best.ID())) {
			best = d
		}
	}
	if best == nil || f.of(from)-f.of(best.ID()) < f.within/4 || (f.used[best.ID()]+float64(size))/f.total[best.ID()] >= (f.used[from]-float64(size))/f.total[from] {
		return nil
	}
	return best
}

func (f *fill) moved(from, to objstore.DiskID, size int64) {
	f.used[from] -= float64(size)
	f.used[to] += float64(size)
}

// Rebalance moves fragments from disks that are fuller than others to those that are emptier, until the used
// fractions differ by no more than Options.BalanceWithin. It moves some in one call, and reports whether there is
// more to move.
func (m *Maint) Rebalance(ctx context.Context) (more bool, err error) {
	if m.o.BalanceWithin < 0 {
		return false, nil
	}
	m.o.Disks.Measure(ctx, (*manager.Disk).Readable)
	f := newFill(m.o.Disks, m.o.BalanceWithin)
	if f.spread() <= f.within {
		return false, nil
	}
	defer m.task("rebalance", 0)()
	r := &rebalance{m: m, f: f, donors: f.donors()}
	for _, ns := range m.o.Namespaces() {
		within, ok := m.under(ctx, ns.NSM().Number())
		if !ok {
			continue
		}
		if err := r.namespace(within, ns); err != nil {
			return false, err
		}
		if r.over() {
			break
		}
	}
	return (r.objects > 0 || m.urgent()) && f.spread() > f.within, nil
}

type rebalance struct {
	m       *Maint
	f       *fill
	donors  map[objstore.DiskID]bool
	objects int
	bytes   int64
}

// over tells whether the pass has moved enough, or something else is more urgent.
func (r *rebalance) over() bool {
	return r.bytes >= passBytes || r.objects >= passObjects || r.f.spread() <= r.f.within/2 || r.m.urgent()
}

func (r *rebalance) namespace(ctx context.Context, ns *client.Namespace) error {
	var errs []error
	err := ns.NSM().List(ctx, "", "", func(name string, mf *manifest.Manifest) bool {
		for _, from := range r.fullest(mf) {
			if err := r.object(ctx, ns, name, from); err != nil {
				errs = append(errs, err)
			}
		}
		return len(errs) < maxErrors && ctx.Err() == nil && !r.over()
	})
	return errors.Join(append(errs, err, ctx.Err())...)
}

// fullest returns the donors that an object lies on.
func (r *rebalance) fullest(mf *manifest.Manifest) (out []objstore.DiskID) {
	for d := range r.donors {
		if refersTo(mf, d) {
			out = append(out, d)
		}
	}
	return out
}

func (r *rebalance) object(ctx context.Context, ns *client.Namespace, name string, from objstore.DiskID) error {
	to := func(size int64, allowed []*manager.Disk) *manager.Disk {
		d := r.f.emptiest(from, size, allowed)
		if d != nil {
			r.f.moved(from, d.ID(), size)
		}
		return d
	}
	r.m.work.RLock()
	h, err := ns.Move(ctx, name, from, to, client.HealOptions{Spend: r.m.spend.spend})
	r.m.work.RUnlock()
	if errors.Is(err, nsm.ErrFenced) {
		return nil
	}
	r.bytes += h.Bytes
	r.m.note(func(p *Progress) {
		p.Done++
		p.Moved += int64(h.Rebuilt)
		p.MovedBytes += h.Bytes
	})
	if h.Rebuilt > 0 {
		r.objects++
	}
	return err
}
