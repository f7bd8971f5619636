package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvsession"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/local"
)

// managerStores opens the stores of namespace managers beside the main one: in the data directory, or other stores of
// the cluster that the main one is on.
type managerStores struct {
	main Store
	dir  func(name string) string
	o    Options

	mu   sync.Mutex // guards open
	open map[string]Store
}

// Open implements local.Options.Stores: a place is the name of a store of the cluster, or "".
func (m *managerStores) Open(ctx context.Context, name, place string) (kv.Store, error) {
	s, err := m.store(ctx, name, place)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open == nil {
		m.open = make(map[string]Store)
	}
	m.open[name] = s
	return watched{s, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.open, name)
	}}, nil
}

// watched is a store that is not watched any more once it is closed.
type watched struct {
	Store
	closed func()
}

func (w watched) Close() error {
	w.closed()
	return w.Store.Close()
}

func (m *managerStores) store(ctx context.Context, name, place string) (Store, error) {
	if place == "" {
		s, err := raftkv.Open(ctx, raftkv.Options{Dir: m.dir(name), Logger: m.o.Logger})
		if err != nil {
			return nil, err
		}
		return embedded{s}, nil
	}
	r, ok := m.main.(*remote)
	if !ok {
		return nil, fmt.Errorf("store %s: %w: the key-value store of this data directory is not on a cluster", place, errors.ErrUnsupported)
	}
	if place == r.where.Store {
		return nil, fmt.Errorf("store %s: %w: it is that of the filesystem", place, objstore.ErrExists)
	}
	open, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	where := r.where
	where.Store = place
	s, err := kvsession.Open(open, r.client, place, kvsession.Options{Owner: where.Owner, Steal: m.o.Steal, Logger: m.o.Logger})
	if err != nil {
		return nil, explainOpen(err, where, nil)
	}
	return beside{&remote{Session: s, client: r.client, where: where}}, nil
}

// beside is a store of a cluster whose client is another's.
type beside struct{ *remote }

func (b beside) Close() error { return b.Session.Close() }

// Err returns why one of them cannot be used any more, or nil.
func (m *managerStores) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, s := range m.open {
		if err := s.Err(); err != nil {
			return fmt.Errorf("namespace manager %s: %w", name, err)
		}
	}
	return nil
}

func wireNamespace(s local.NamespaceStatus) control.Namespace {
	return control.Namespace{Name: s.Name, Number: s.Number, Preset: s.Preset, Manager: s.Host, To: s.To, Objects: s.Objects, Bytes: s.Bytes, Stored: s.Stored}
}

// Namespaces implements control.NamespaceBackend.
func (n *Node) Namespaces(ctx context.Context) ([]control.Namespace, error) {
	all, err := n.objects.Namespaces(ctx)
	out := []control.Namespace{}
	for _, s := range all {
		out = append(out, wireNamespace(s))
	}
	return out, err
}

func (n *Node) namespaceNamed(ctx context.Context, name string) (control.Namespace, error) {
	all, err := n.Namespaces(ctx)
	for _, s := range all {
		if s.Name == name {
			return s, err
		}
	}
	return control.Namespace{}, errors.Join(err, fmt.Errorf("namespace %q: %w", name, objstore.ErrNotFound))
}

// Managers implements control.NamespaceBackend.
func (n *Node) Managers(ctx context.Context) ([]control.Manager, error) {
	all, err := n.objects.Managers(ctx)
	out := []control.Manager{}
	for _, s := range all {
		out = append(out, control.Manager{Name: s.Name, Store: s.Place, Ready: s.Ready, Namespaces: s.Namespaces, Messages: s.Messages})
	}
	return out, err
}

func (n *Node) managerNamed(ctx context.Context, name string) (control.Manager, error) {
	all, err := n.Managers(ctx)
	for _, s := range all {
		if s.Name == name {
			return s, err
		}
	}
	return control.Manager{}, errors.Join(err, fmt.Errorf("namespace manager %q: %w", name, objstore.ErrNotFound))
}

// AddManager implements control.NamespaceBackend.
func (n *Node) AddManager(ctx context.Context, q control.ManagerRequest) (control.Manager, error) {
	if err := n.objects.AddManager(ctx, q.Name, q.Store); err != nil {
		return control.Manager{}, err
	}
	return n.managerNamed(ctx, q.Name)
}

// RemoveManager implements control.NamespaceBackend. A store in the data directory is removed with it.
func (n *Node) RemoveManager(ctx context.Context, q control.ManagerRequest) (control.Manager, error) {
	m, err := n.managerNamed(ctx, q.Name)
	if err != nil {
		return m, err
	}
	if err := n.objects.RemoveManager(ctx, q.Name); err != nil {
		return m, err
	}
	if m.Store == "" {
		err = os.RemoveAll(n.dir.Manager(q.Name))
	}
	return m, err
}

// MoveNamespace implements control.NamespaceBackend.
func (n *Node) MoveNamespace(ctx context.Context, q control.NamespaceRequest, progress func(rows int64)) (control.Namespace, error) {
	if err := n.objects.MoveNamespace(ctx, q.Name, q.To, progress); err != nil {
		return control.Namespace{}, err
	}
	return n.namespaceNamed(ctx, q.Name)
}

// DeleteNamespace implements control.NamespaceBackend.
func (n *Node) DeleteNamespace(ctx context.Context, q control.NamespaceRequest) (control.Namespace, error) {
	if q.Name == volumeNamespace {
		return control.Namespace{}, fmt.Errorf("%w: namespace %q belongs to the filesystem", objstore.ErrReadOnly, q.Name)
	}
	ns, err := n.namespaceNamed(ctx, q.Name)
	if err != nil {
		return ns, err
	}
	return ns, n.objects.DeleteNamespace(ctx, q.Name)
}
