// Package memns is the reference model of objstore.Namespace: objects in a map. It is the fake that the
// layers above test with, and can be told to fail.
package memns

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/gabionfs/gabion/objstore"
)

// Namespace is an objstore.Namespace in memory. Safe for concurrent use.
type Namespace struct {
	mu      sync.Mutex
	objects map[string]object
	next    uint64
	size    int64
	max     int64
	fail    func(op, name string) error
}

type object struct {
	id uint64
	p  []byte
}

var _ objstore.Namespace = (*Namespace)(nil)

// New returns an empty namespace.
func New() *Namespace { return &Namespace{objects: make(map[string]object)} }

// Limit makes puts that would bring the content over max bytes fail with objstore.ErrFull; 0 is no limit.
func (n *Namespace) Limit(max int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.max = max
}

// Fail makes fn decide which calls fail: op is "put", "read", "delete" or "list". nil: none.
// fn must not call the namespace.
func (n *Namespace) Fail(fn func(op, name string) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = fn
}

// Size returns the bytes of all objects, and how many there are.
func (n *Namespace) Size() (bytes int64, objects int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.size, len(n.objects)
}

func (n *Namespace) check(ctx context.Context, op, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.fail != nil {
		if err := n.fail(op, name); err != nil {
			return fmt.Errorf("%s object %q: %w", op, name, err)
		}
	}
	return nil
}

// Put stores a copy of p.
func (n *Namespace) Put(ctx context.Context, name string, p []byte) (objstore.Info, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.check(ctx, "put", name); err != nil {
		return objstore.Info{}, err
	}
	if len(name) == 0 || len(name) > objstore.MaxName {
		return objstore.Info{}, fmt.Errorf("put object: name of %d bytes", len(name))
	}
	if _, ok := n.objects[name]; ok {
		return objstore.Info{}, fmt.Errorf("put object %q: %w", name, objstore.ErrExists)
	}
	if n.max > 0 && n.size+int64(len(p)) > n.max {
		return objstore.Info{}, fmt.Errorf("put object %q: %w", name, objstore.ErrFull)
	}
	n.next++
	o := object{n.next, slices.Clone(p)}
	n.objects[name] = o
	n.size += int64(len(p))
	return o.info(name), nil
}

// PutFrom reads all of r and puts it.
func (n *Namespace) PutFrom(ctx context.Context, name string, r io.Reader, size int64) (objstore.Info, error) {
	p, err := io.ReadAll(io.LimitReader(r, size+1))
	if err == nil && int64(len(p)) != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return objstore.Info{}, fmt.Errorf("put object %q: %w", name, err)
	}
	return n.Put(ctx, name, p)
}

// ReadAt fills p from off of the object.
func (n *Namespace) ReadAt(ctx context.Context, name string, off int64, p []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.check(ctx, "read", name); err != nil {
		return err
	}
	o, ok := n.objects[name]
	switch {
	case !ok:
		return fmt.Errorf("read object %q: %w", name, objstore.ErrNotFound)
	case off < 0 || off+int64(len(p)) > int64(len(o.p)):
		return fmt.Errorf("read object %q: %w", name, io.ErrUnexpectedEOF)
	}
	copy(p, o.p[off:])
	return nil
}

// ReadSlices is ReadAt for each of the slices.
func (n *Namespace) ReadSlices(ctx context.Context, slices []objstore.Slice) error {
	return objstore.ReadEach(ctx, slices, 1, n.ReadAt)
}

// Stat describes an object.
func (n *Namespace) Stat(_ context.Context, name string) (objstore.Info, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o, ok := n.objects[name]
	if !ok {
		return objstore.Info{}, fmt.Errorf("stat object %q: %w", name, objstore.ErrNotFound)
	}
	return o.info(name), nil
}

// Delete removes objects.
func (n *Namespace) Delete(ctx context.Context, names ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range names {
		if err := n.check(ctx, "delete", name); err != nil {
			return err
		}
		n.size -= int64(len(n.objects[name].p))
		delete(n.objects, name)
	}
	return nil
}

// List calls fn for the objects in [from, to).
func (n *Namespace) List(ctx context.Context, from, to string, fn func(objstore.Info) bool) error {
	n.mu.Lock()
	err := n.check(ctx, "list", from)
	var all []objstore.Info
	for name, o := range n.objects {
		if name >= from && (to == "" || name < to) {
			all = append(all, o.info(name))
		}
	}
	n.mu.Unlock()
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b objstore.Info) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for _, i := range all {
		if !fn(i) {
			break
		}
	}
	return nil
}

func (o object) info(name string) objstore.Info {
	return objstore.Info{Name: name, ID: o.id, Size: int64(len(o.p)), Stored: int64(len(o.p))}
}
