package maint

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// heal heals one object and keeps the accounts.
func (m *Maint) heal(ctx context.Context, o object, bad map[objstore.FragmentKey]bool) error {
	ns := m.namespace(o.ns)
	if ns == nil {
		return nil
	}
	ctx, ok := m.under(ctx, o.ns.Number())
	if !ok {
		return nil // its agent finds it in the queue
	}
	m.work.RLock()
	h, err := ns.Heal(ctx, o.name, client.HealOptions{Bad: bad, Rewrite: true, Spend: m.spend.spend})
	m.work.RUnlock()
	if errors.Is(err, nsm.ErrFenced) {
		return nil
	}
	m.note(func(p *Progress) {
		p.Done++
		if h.Rebuilt+h.Confirmed > 0 || h.Rewritten {
			p.Healed++
		}
		p.Rebuilt += int64(h.Rebuilt)
		p.Confirmed += int64(h.Confirmed)
		p.NoPlace += int64(h.NoPlace)
		p.Bytes += h.Bytes
		if h.Rewritten {
			p.Rewritten++
		}
		if err != nil && ctx.Err() == nil {
			p.Errors++
			p.LastError = err.Error()
		}
	})
	return err
}

// Safety says how many objects there are of each safety, as the disks are now.
type Safety struct {
	Spare   int // fragments that the weakest chunk can lose; below 0 the object cannot be read now
	Full    int // fragments that it could lose if all were there
	Objects int64
	Bytes   int64
}

// survey collects objects that are not as safe as they could be, by how much they can lose.
type survey struct {
	disks  *manager.Manager
	levels map[int][]object
	count  int
	safety map[[2]int]Safety
	cut    bool // there were more than fit
}

// maxSurvey bounds the objects that one survey remembers.
const maxSurvey = 50000

func (v *survey) add(o object, m *manifest.Manifest) {
	spare, full := client.EffectiveSafety(v.disks, m)
	s := v.safety[[2]int{spare, full}]
	s.Spare, s.Full = spare, full
	s.Objects++
	s.Bytes += m.Size
	v.safety[[2]int{spare, full}] = s
	if spare >= full && v.settled(m) {
		return
	}
	v.levels[spare] = append(v.levels[spare], o)
	if v.count++; v.count > maxSurvey {
		v.drop()
	}
}

// settled tells whether every fragment is on a disk that is up and kept; an object may have chunks of
// different policies, so that its weakest one does not tell.
func (v *survey) settled(m *manifest.Manifest) bool {
	for i := range m.Chunks {
		for _, f := range m.Chunks[i].Fragments {
			if d := v.disks.Disk(f.Disk); !f.Present() || d == nil || !d.Kept() {
				return false
			}
		}
	}
	return true
}

// drop forgets the safest object.
func (v *survey) drop() {
	most := 0
	first := true
	for s := range v.levels {
		if first || s > most {
			most, first = s, false
		}
	}
	l := v.levels[most]
	if v.levels[most] = l[:len(l)-1]; len(l) == 1 {
		delete(v.levels, most)
	}
	v.count--
	v.cut = true
}

// order returns the objects, least safe first.
func (v *survey) order() []object {
	var out []object
	for s := -objstore.MaxFragments; s <= objstore.MaxFragments; s++ {
		out = append(out, v.levels[s]...)
	}
	return out
}

// survey looks at the manifests of all namespaces, or only of those that are ours.
func (m *Maint) survey(ctx context.Context, all bool) (*survey, error) {
	v := &survey{disks: m.o.Disks, levels: map[int][]object{}, safety: map[[2]int]Safety{}}
	for _, ns := range m.o.Namespaces() {
		n := ns.NSM()
		if !all && !m.ours(n.Number()) {
			continue
		}
		err := n.List(ctx, "", "", func(name string, mf *manifest.Manifest) bool {
			v.add(object{n, name}, mf)
			return ctx.Err() == nil
		})
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Safety looks at all manifests and returns how safe the objects are, least safe first.
func (m *Maint) Safety(ctx context.Context) ([]Safety, error) {
	v, err := m.survey(ctx, true)
	if err != nil {
		return nil, err
	}
	var out []Safety
	for _, l := range v.safety {
		out = append(out, l)
	}
	SortSafety(out)
	return out, nil
}

// SortSafety sorts least safe first.
func SortSafety(s []Safety) {
	slices.SortFunc(s, func(a, b Safety) int { return cmp.Or(a.Spare-b.Spare, a.Full-b.Full) })
}

// Repair looks at all objects and heals those that are not as safe as they could be, least safe first.
// It goes on after an object that cannot be healed; those errors are returned together, up to some.
func (m *Maint) Repair(ctx context.Context) error {
	m.note(func(p *Progress) { p.NoPlace = 0 })
	if whole, err := m.whole(ctx); err != nil || whole {
		return err
	}
	var errs []error
	for {
		v, err := m.survey(ctx, false)
		if err != nil {
			return err
		}
		healed, err := m.repairAll(ctx, v.order())
		if errs = append(errs, err); !v.cut || healed == 0 || ctx.Err() != nil {
			break
		}
	}
	return errors.Join(append(errs, m.retire(ctx))...)
}

// whole tells from the counters alone that there is nothing to repair: every disk is up and kept, and
// every object has all its fragments.
func (m *Maint) whole(ctx context.Context) (bool, error) {
	for _, d := range m.o.Disks.Disks() {
		if !d.Kept() {
			return false, nil
		}
	}
	for _, ns := range m.o.Namespaces() {
		if !m.ours(ns.NSM().Number()) {
			continue
		}
		names, _, err := ns.NSM().Degraded(ctx, 0, 1)
		if err != nil || len(names) > 0 {
			return false, err
		}
	}
	return true, nil
}

const maxErrors = 5

func (m *Maint) repairAll(ctx context.Context, objects []object) (healed int64, err error) {
	if len(objects) == 0 {
		return 0, nil
	}
	defer m.task("repair", int64(len(objects)))()
	before := m.Progress().Healed
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	next := make(chan object)
	for range min(repairParallel, len(objects)) {
		wg.Go(func() {
			for o := range next {
				if err := m.heal(ctx, o, nil); err != nil {
					mu.Lock()
					if len(errs) < maxErrors {
						errs = append(errs, err)
					}
					mu.Unlock()
				}
			}
		})
	}
	for _, o := range objects {
		if ctx.Err() != nil {
			break
		}
		next <- o
	}
	close(next)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return m.Progress().Healed - before, errors.Join(errs...)
}

// repairParallel is how many objects are healed at a time: one waits for disks most of the time. The client bounds the
// memory that they take together.
const repairParallel = 8

// retire forgets disks that were to be drained and are empty now.
func (m *Maint) retire(ctx context.Context) error {
	if !m.ours(allNamespaces) {
		return nil
	}
	for _, d := range m.o.Disks.Disks() {
		if d.Record().Admin != manager.Draining {
			continue
		}
		used, err := m.References(ctx, d.ID())
		if err != nil {
			return err
		}
		if used > 0 {
			continue
		}
		if err := m.Retire(ctx, d.ID()); err != nil {
			return err
		}
	}
	return nil
}

// Retire forgets a disk, and what would have been deleted from it.
func (m *Maint) Retire(ctx context.Context, id objstore.DiskID) error {
	if err := m.o.Disks.SetAdmin(ctx, id, manager.Retired); err != nil {
		return err
	}
	for _, store := range m.o.Stores() {
		for more := true; more; {
			list, err := nsm.Parked(ctx, store, id, 4096)
			if err != nil {
				return err
			}
			n, err := nsm.Unpark(ctx, store, list)
			if err != nil {
				return err
			}
			more = n > 0 // the rest is of a namespace that is frozen for a move: rows that nobody will ask for
		}
	}
	return nil
}

// References counts the objects that refer to a disk.
func (m *Maint) References(ctx context.Context, id objstore.DiskID) (int64, error) {
	var n int64
	for _, ns := range m.o.Namespaces() {
		err := ns.NSM().List(ctx, "", "", func(_ string, mf *manifest.Manifest) bool {
			if refersTo(mf, id) {
				n++
			}
			return ctx.Err() == nil
		})
		if err = errors.Join(err, ctx.Err()); err != nil {
			return n, err
		}
	}
	return n, nil
}

func refersTo(m *manifest.Manifest, id objstore.DiskID) bool {
	for i := range m.Chunks {
		for _, f := range m.Chunks[i].Fragments {
			if f.Disk == id {
				return true
			}
		}
	}
	return false
}
