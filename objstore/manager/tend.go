package manager

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// TendOptions for Tend. Host must be set.
type TendOptions struct {
	// Host returns the namespace manager of that name.
	Host func(name string) (*nsm.Host, error)
	// Moved is called when a namespace may be to be had again, here or elsewhere; nil: nobody waits.
	Moved func(number uint32)
	// Progress is called with the rows of a namespace that were copied, now and then; nil: it is not.
	Progress func(r NamespaceRecord, rows int64)
	// Batch is how many rows are copied in a transaction; 0 means 1024.
	Batch int
}

// Tend does what was decided about namespaces and is not done: messages are delivered, moves finished, and rows
// that are left over removed. It goes on after what fails, and returns the errors together. It may be cut off at any
// point and called again, also by several at a time, of whom one moves a namespace and the others' errors match
// nsm.ErrOvertaken.
func (m *Manager) Tend(ctx context.Context, o TendOptions) error {
	if o.Moved == nil {
		o.Moved = func(uint32) {}
	}
	errs := []error{m.tell(ctx, o)}
	all, err := m.Namespaces(ctx)
	errs = append(errs, err)
	for _, r := range all {
		if r.To != "" {
			errs = append(errs, m.move(ctx, o, r))
		}
	}
	return errors.Join(errs...)
}

// tell delivers messages, and sweeps for those that wait for that, and because of them.
func (m *Manager) tell(ctx context.Context, o TendOptions) error {
	err := m.Deliver(ctx, o.Host)
	if sweep := m.sweep(ctx, o); sweep != nil {
		return errors.Join(err, sweep)
	}
	if errors.Is(err, nsm.ErrBusy) {
		err = m.Deliver(ctx, o.Host)
	}
	return err
}

func (m *Manager) sweep(ctx context.Context, o TendOptions) error {
	all, err := m.Hosts(ctx)
	errs := []error{err}
	for _, r := range all {
		if !r.Ready {
			continue
		}
		h, err := o.Host(r.Name)
		if err == nil {
			err = h.Sweep(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("namespace manager %q: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// move brings a namespace to where it is to be.
func (m *Manager) move(ctx context.Context, o TendOptions, r NamespaceRecord) error {
	from, err := o.Host(r.Host)
	if err != nil {
		return err
	}
	t := nsm.Transfer{From: from, Namespace: r.Number, Batch: o.Batch}
	if t.To, err = o.Host(r.To); err != nil {
		return m.thaw(ctx, &t, err)
	}
	if o.Progress != nil {
		t.Progress = func(rows int64) { o.Progress(r, rows) }
	}
	defer o.Moved(r.Number)
	if err := t.Copy(ctx); err != nil {
		return m.thaw(ctx, &t, err)
	}
	if err := t.Freeze(ctx); err != nil {
		return m.thaw(ctx, &t, err)
	}
	switch _, err := m.FinishMove(ctx, r); {
	case errors.Is(err, kv.ErrUnknownOutcome):
		return err // it may be decided; it is frozen until that is known
	case err != nil:
		return m.thaw(ctx, &t, err)
	}
	m.log.Info("namespace has moved", "namespace", r.Name, "from", r.Host, "to", r.To)
	err = m.Deliver(ctx, o.Host)
	o.Moved(r.Number)
	return errors.Join(err, m.sweep(ctx, o))
}

// Thaw lets namespaces be changed whose move was cut off when they were frozen, until it goes on.
func (m *Manager) Thaw(ctx context.Context, host func(name string) (*nsm.Host, error)) error {
	all, err := m.Namespaces(ctx)
	errs := []error{err}
	for _, r := range all {
		if r.To == "" {
			continue
		}
		from, err := host(r.Host)
		if err == nil {
			t := nsm.Transfer{From: from, Namespace: r.Number}
			if err = t.Thaw(ctx); errors.Is(err, nsm.ErrOvertaken) {
				err = nil // it was not frozen yet
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// thaw lets a namespace that could not be moved now be changed until the next time.
func (m *Manager) thaw(ctx context.Context, t *nsm.Transfer, err error) error {
	if errors.Is(err, nsm.ErrOvertaken) {
		return err // someone else knows better how it is
	}
	if terr := t.Thaw(context.WithoutCancel(ctx)); terr != nil && !errors.Is(terr, nsm.ErrOvertaken) {
		err = errors.Join(err, terr)
	}
	return err
}
