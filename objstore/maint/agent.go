package maint

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// under returns the context to maintain a namespace in, and false when that is for another agent.
func (m *Maint) under(ctx context.Context, ns uint32) (context.Context, bool) {
	if m.agency == nil {
		return ctx, true
	}
	for _, a := range m.agencies() {
		if l, ok := a.lease(ns); ok {
			return nsm.WithLease(ctx, l), true
		}
	}
	return ctx, false
}

// agencies returns those of all stores that were beaten in, the backend manager's first.
func (m *Maint) agencies() []*agency {
	m.farMu.Lock()
	defer m.farMu.Unlock()
	return append([]*agency{m.agency}, m.far...)
}

// agencyOf returns the agency of a store.
func (m *Maint) agencyOf(store kv.Store) *agency {
	for _, a := range m.agencies() {
		if a.store == store {
			return a
		}
	}
	m.farMu.Lock()
	defer m.farMu.Unlock()
	a := newAgency(store, m.o.Agent, m.o.LeaseTime)
	a.now = m.agency.now
	m.far = append(m.far, a)
	return a
}

// holds tells whether we have the lease on a namespace.
func (m *Maint) holds(ns uint32) bool {
	return slices.ContainsFunc(m.agencies(), func(a *agency) bool { return a.holds(ns) })
}

// ours tells whether a namespace is for us to maintain, or with allNamespaces the disks.
func (m *Maint) ours(ns uint32) bool {
	_, ok := m.under(m.ctx, ns)
	return ok
}

// Beat takes and renews leases once. It is called in the background after Start.
func (m *Maint) Beat(ctx context.Context) error {
	if m.agency == nil {
		return nil
	}
	numbers := []uint32{allNamespaces}
	at := map[*agency][]uint32{m.agency: {allNamespaces}}
	for _, a := range m.agencies() {
		at[a] = append([]uint32{}, at[a]...) // also where nothing is left
	}
	before := make(map[uint32]bool)
	for _, ns := range m.o.Namespaces() {
		n, a := ns.NSM().Number(), m.agencyOf(ns.NSM().Store())
		numbers, at[a] = append(numbers, n), append(at[a], n)
	}
	for _, n := range numbers {
		before[n] = m.holds(n)
	}
	var errs []error
	for a, list := range at {
		errs = append(errs, a.beat(ctx, list))
	}
	err := errors.Join(errs...)
	for _, n := range numbers {
		switch has := m.holds(n); {
		case has && !before[n]:
			m.log.Info("maintenance lease taken", "namespace", n, "agent", m.o.Agent)
			m.DisksChanged() // look at what came into our care
			m.todoLater()
		case !has && before[n]:
			m.log.Info("maintenance lease given up", "namespace", n, "agent", m.o.Agent)
		}
	}
	return err
}

// beats renews the leases until maintenance ends.
func (m *Maint) beats() {
	t := time.NewTicker(m.o.LeaseTime / 5)
	defer t.Stop()
	for {
		err := m.Beat(m.ctx)
		if m.ctx.Err() != nil || errors.Is(err, kv.ErrClosed) {
			return
		}
		if err != nil {
			m.log.Warn("maintenance leases", "error", err)
		}
		select {
		case <-t.C:
		case <-m.ctx.Done():
			return
		}
	}
}

// giveBackPatience is how long the end waits to tell others that they may take over at once.
const giveBackPatience = time.Second

func (m *Maint) giveBack() {
	if m.agency == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), giveBackPatience)
	defer cancel()
	for _, a := range m.agencies() {
		if err := a.release(ctx); err != nil {
			m.log.Debug("maintenance leases run out by themselves", "error", err)
		}
	}
}

// Lease is who maintains a namespace.
type Lease struct {
	Namespace string
	Agent     string
	Token     uint64
}

// Leases returns who maintains which namespace; none when there are no leases.
func (m *Maint) Leases(ctx context.Context) ([]Lease, error) {
	if m.agency == nil {
		return nil, nil
	}
	var out []Lease
	for _, ns := range m.o.Namespaces() {
		l, err := ns.NSM().Lease(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, Lease{ns.NSM().Name(), l.Agent, l.Token})
	}
	return out, nil
}
