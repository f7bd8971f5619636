package maint

import (
	"context"
	"errors"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// under returns the context to maintain a namespace in, and false when that is for another agent.
func (m *Maint) under(ctx context.Context, ns uint32) (context.Context, bool) {
	if m.agency == nil {
		return ctx, true
	}
	l, ok := m.agency.lease(ns)
	if !ok {
		return ctx, false
	}
	return nsm.WithLease(ctx, l), true
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
	before := make(map[uint32]bool)
	for _, ns := range m.o.Namespaces() {
		numbers = append(numbers, ns.NSM().Number())
	}
	for _, n := range numbers {
		before[n] = m.agency.holds(n)
	}
	err := m.agency.beat(ctx, numbers)
	for _, n := range numbers {
		switch has := m.agency.holds(n); {
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
	if err := m.agency.release(ctx); err != nil {
		m.log.Debug("maintenance leases run out by themselves", "error", err)
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
	err := m.o.KV.View(ctx, kv.Pending, func(r kv.Reader) error {
		out = nil
		for _, ns := range m.o.Namespaces() {
			l, err := nsm.ReadLease(r, ns.NSM().Number())
			if err != nil {
				return err
			}
			out = append(out, Lease{ns.NSM().Name(), l.Agent, l.Token})
		}
		return nil
	})
	return out, err
}
