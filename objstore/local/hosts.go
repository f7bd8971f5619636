package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// hosts are the namespace managers of a backend.
type hosts struct {
	mu     sync.Mutex // guards byName
	byName map[string]*hosted

	// tending is held while messages are delivered and namespaces moved; taken before everything else.
	tending sync.Mutex
	wake    chan struct{}
}

// hosted is a namespace manager whose store is open.
type hosted struct {
	host  *nsm.Host
	store kv.Store // that its namespaces use
	close func() error
}

// behind is the store of a namespace manager beside the main one, for its namespaces. What is in the main store may
// refer to objects, and what was there may have referred to objects that are deleted: so a change returns when it is
// durable, and only after what was sequenced in the main store before is.
type behind struct {
	kv.Store
	main kv.Store
}

func (s *behind) Update(ctx context.Context, _ kv.Commit, fn func(kv.Txn) error) error {
	if err := s.main.Sync(ctx); err != nil {
		return err
	}
	return s.Store.Update(ctx, kv.Durable, fn)
}

// openHosts opens the stores of all namespace managers, and tells them what they were to be told.
func (b *Backend) openHosts(ctx context.Context) error {
	b.hosts.byName[manager.MainHost] = &hosted{host: nsm.NewHost(b.o.KV), store: b.o.KV, close: func() error { return nil }}
	if _, err := b.disks.AddHost(ctx, manager.MainHost, ""); err != nil {
		return err
	}
	all, err := b.disks.Hosts(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Name != manager.MainHost {
			err = b.openHost(ctx, r.HostRecord)
		}
		if err == nil {
			h, _ := b.host(r.Name)
			err = b.disks.Join(ctx, r.Name, h, b.o.Anew)
		}
		if err != nil {
			return err
		}
	}
	if _, err := b.disks.SettleOld(ctx); err != nil {
		return err
	}
	if err := b.disks.Deliver(ctx, b.host); err != nil && !errors.Is(err, nsm.ErrBusy) {
		return err
	}
	if b.o.Anew {
		if err := b.disks.Restore(ctx, b.host); err != nil {
			return err
		}
	}
	return b.disks.Thaw(ctx, b.host)
}

func (b *Backend) openHost(ctx context.Context, r manager.HostRecord) error {
	if b.o.Stores == nil {
		return fmt.Errorf("namespace manager %q: %w: nobody knows how to open %q", r.Name, errors.ErrUnsupported, r.Place)
	}
	s, err := b.o.Stores(ctx, r.Name, r.Place)
	if err != nil {
		return fmt.Errorf("namespace manager %q: %w", r.Name, err)
	}
	b.hosts.mu.Lock()
	defer b.hosts.mu.Unlock()
	b.hosts.byName[r.Name] = &hosted{host: nsm.NewHost(s), store: &behind{s, b.o.KV}, close: s.Close}
	return nil
}

// closeHosts closes the stores that openHost opened.
func (b *Backend) closeHosts() {
	b.hosts.mu.Lock()
	defer b.hosts.mu.Unlock()
	for name, h := range b.hosts.byName {
		if err := h.close(); err != nil {
			b.log.Warn("close a namespace manager's store", "manager", name, "error", err)
		}
	}
}

func (b *Backend) hosted(name string) (*hosted, error) {
	if name == "" {
		name = manager.MainHost
	}
	b.hosts.mu.Lock()
	defer b.hosts.mu.Unlock()
	if h := b.hosts.byName[name]; h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("namespace manager %q: %w", name, objstore.ErrNotFound)
}

// host implements manager.TendOptions.Host.
func (b *Backend) host(name string) (*nsm.Host, error) {
	h, err := b.hosted(name)
	if err != nil {
		return nil, err
	}
	return h.host, nil
}

// stores returns those of all namespace managers.
func (b *Backend) stores() []kv.Store {
	b.hosts.mu.Lock()
	defer b.hosts.mu.Unlock()
	var out []kv.Store
	for _, h := range b.hosts.byName {
		out = append(out, h.store)
	}
	return out
}

// home returns the store that a namespace is in, for nsm.Options.
func (b *Backend) home(r manager.NamespaceRecord) func(context.Context) (kv.Store, error) {
	return func(ctx context.Context) (kv.Store, error) {
		name, err := b.disks.HostOf(ctx, r.Name, r.Number)
		if err != nil {
			return nil, err
		}
		h, err := b.hosted(name)
		if err != nil {
			return nil, err
		}
		return h.store, nil
	}
}

// tendAgain is how long what failed waits to be tried again.
const tendAgain = 5 * time.Second

// tends tends when it is asked to, and again when that fails.
func (b *Backend) tends() {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.hosts.wake:
		case <-t.C:
		}
		if err := b.tend(b.ctx, nil); err != nil && b.ctx.Err() == nil {
			b.log.Warn("namespace managers: will try again", "error", err)
			t.Reset(tendAgain)
		}
	}
}

// tendLater has the background do what is left to do.
func (b *Backend) tendLater() {
	select {
	case b.hosts.wake <- struct{}{}:
	default:
	}
}

// tend finishes what was decided about namespaces.
func (b *Backend) tend(ctx context.Context, progress func(r manager.NamespaceRecord, rows int64)) error {
	b.hosts.tending.Lock()
	defer b.hosts.tending.Unlock()
	return b.disks.Tend(ctx, manager.TendOptions{Host: b.host, Progress: progress, Moved: func(number uint32) {
		for _, ns := range b.list() {
			if ns.NSM().Number() == number {
				ns.NSM().Moved()
			}
		}
	}})
}

// Managers returns all namespace managers by number.
func (b *Backend) Managers(ctx context.Context) ([]manager.HostStatus, error) {
	return b.disks.Hosts(ctx)
}

// AddManager makes a store, which must be empty, a namespace manager. New namespaces go to the one with the fewest.
// Asking again, after it was cut off, is fine.
func (b *Backend) AddManager(ctx context.Context, name, place string) error {
	b.hosts.tending.Lock()
	defer b.hosts.tending.Unlock()
	if b.o.Stores == nil {
		return fmt.Errorf("more namespace managers: %w", errors.ErrUnsupported)
	}
	r, err := b.disks.AddHost(ctx, name, place)
	if err != nil {
		return err
	}
	if _, err := b.hosted(name); errors.Is(err, objstore.ErrNotFound) {
		err = b.openHost(ctx, r)
		if err != nil {
			return errors.Join(err, b.forgetManager(ctx, r))
		}
	}
	h, err := b.host(name)
	if err != nil {
		return err
	}
	if err := b.disks.Join(ctx, name, h, false); err != nil {
		return errors.Join(err, b.forgetManager(ctx, r))
	}
	return nil
}

// forgetManager takes back what AddManager could not finish.
func (b *Backend) forgetManager(ctx context.Context, r manager.HostRecord) error {
	if r.Ready {
		return nil
	}
	_, err := b.disks.RemoveHost(ctx, r.Name)
	return errors.Join(err, b.shutHost(r.Name))
}

// shutHost closes a namespace manager's store and forgets it.
func (b *Backend) shutHost(name string) error {
	b.hosts.mu.Lock()
	defer b.hosts.mu.Unlock()
	h := b.hosts.byName[name]
	if h == nil {
		return nil
	}
	delete(b.hosts.byName, name)
	return h.close()
}

// RemoveManager forgets a namespace manager that has no namespaces, and gives up its store.
func (b *Backend) RemoveManager(ctx context.Context, name string) error {
	if err := b.tend(ctx, nil); err != nil {
		return err // it may have rows to be rid of
	}
	b.hosts.tending.Lock()
	defer b.hosts.tending.Unlock()
	r, err := b.disks.RemoveHost(ctx, name)
	if err != nil {
		return err
	}
	h, err := b.host(name)
	if err == nil {
		err = h.Release(ctx, r.Owner)
	}
	return errors.Join(err, b.shutHost(name))
}

// NamespaceStatus is a namespace, and what its objects take.
type NamespaceStatus struct {
	manager.NamespaceRecord
	nsm.Usage
}

// Namespaces returns all namespaces by name.
func (b *Backend) Namespaces(ctx context.Context) ([]NamespaceStatus, error) {
	all, err := b.disks.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	out := []NamespaceStatus{}
	for _, r := range all {
		s := NamespaceStatus{NamespaceRecord: r}
		if ns, err := b.Existing(r.Name); err == nil {
			u, err := ns.(*client.Namespace).NSM().Usage(ctx)
			if err != nil {
				return nil, fmt.Errorf("namespace %q: %w", r.Name, err)
			}
			s.Usage = u
		}
		out = append(out, s)
	}
	return out, nil
}

// MoveNamespace moves a namespace to another namespace manager, while it is used, and returns when it is there. When
// it is cut off, the move goes on in the background, also after a restart; to end it, move the namespace to where it
// is. progress, unless nil, is called with the number of rows copied, now and then.
func (b *Backend) MoveNamespace(ctx context.Context, name, to string, progress func(rows int64)) error {
	if _, err := b.hosted(to); err != nil {
		return err
	}
	defer b.tendLater()
	r, err := b.disks.BeginMove(ctx, name, to)
	if err != nil {
		return err
	}
	terr := b.tend(ctx, func(m manager.NamespaceRecord, rows int64) {
		if progress != nil && m.Number == r.Number {
			progress(rows)
		}
	})
	if r, err = b.disks.Existing(ctx, name); err != nil {
		return errors.Join(err, terr)
	}
	if r.Host != to || r.To != "" {
		return fmt.Errorf("namespace %q is at %q still, and will be tried to be moved again: %w", name, r.Host, errors.Join(terr, objstore.ErrMoving))
	}
	return nil
}

// DeleteNamespace removes a namespace with all its objects, for ever. Its name is free at once; its fragments are
// deleted from the disks that are up before it returns, and from others when they are back.
func (b *Backend) DeleteNamespace(ctx context.Context, name string) error {
	b.mu.Lock()
	_, err := b.disks.Delete(ctx, name)
	if ns := b.namespaces[name]; err == nil && ns != nil {
		delete(b.namespaces, name)
		ns.NSM().Deleted()
	}
	b.mu.Unlock()
	if err != nil {
		return err
	}
	defer b.tendLater()
	b.safety.drop()
	return errors.Join(b.tend(ctx, nil), b.maint.Purge(ctx))
}
