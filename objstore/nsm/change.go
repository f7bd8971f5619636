package nsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// Register makes the object exist: the manifest m of upload u under name, sequenced but not synced.
// Errors: objstore.ErrExists, ErrExpired, *RuleError.
func (n *Manager) Register(ctx context.Context, u Upload, name string, m *manifest.Manifest) error {
	if err := checkName(name); err != nil {
		return err
	}
	if m.ID != u.ID {
		return fmt.Errorf("objstore: manifest of id %d in upload %d", m.ID, u.ID)
	}
	if err := n.checkNew(name, m); err != nil {
		return err
	}
	value := m.Encode(nil)
	return n.mutate(ctx, name, m, func(tx kv.Txn) error { return n.create(tx, u, name, m, value) })
}

// create writes the manifest of an object that must not exist yet; value is m encoded.
func (n *Manager) create(tx kv.Txn, u Upload, name string, m *manifest.Manifest, value []byte) error {
	key := n.nameKey(name)
	switch _, err := tx.Get(ksManifest, key); {
	case err == nil:
		return fmt.Errorf("object %s/%q: %w", n.o.Name, name, objstore.ErrExists)
	case !errors.Is(err, kv.ErrNotFound):
		return err
	}
	if err := n.checkEpoch(tx, u); err != nil {
		return fmt.Errorf("object %s/%q: %w", n.o.Name, name, err)
	}
	tx.Put(ksManifest, key, value)
	return n.account(tx, name, nil, m)
}

func (n *Manager) checkEpoch(r kv.Reader, u Upload) error {
	a, err := n.alloc(r)
	if err != nil {
		return err
	}
	if u.Epoch < a.min {
		return ErrExpired
	}
	return nil
}

// mutate runs an Ordered update of one object and keeps the cache right; m is what the object is after
// it, nil when it is gone.
func (n *Manager) mutate(ctx context.Context, name string, m *manifest.Manifest, fn func(kv.Txn) error) error {
	// A mutation that has begun must not be cut off half way by the caller's context: its outcome
	// would be unknown, and the fragments with it.
	stamp := n.cache.stamp(name)
	err := n.update(ctx, kv.Ordered, fn)
	n.mutations.Add(1)
	if err != nil {
		n.cache.drop(name)
		return err
	}
	n.cache.set(name, m, stamp)
	return nil
}

// Change replaces fragments of an object: change gets a copy of its manifest to modify. It may be
// called more than once and must depend on nothing but its argument. Fragments that are referred to no
// longer are queued for deletion. When there is no object of this name with this id, the error
// matches objstore.ErrNotFound.
func (n *Manager) Change(ctx context.Context, name string, id uint64, change func(*manifest.Manifest) error) error {
	var after *manifest.Manifest
	stamp := n.cache.stamp(name)
	err := n.update(ctx, kv.Ordered, func(tx kv.Txn) error {
		if err := n.fenced(ctx, tx); err != nil {
			return err
		}
		old, err := n.get(tx, name)
		if err != nil {
			return err
		}
		if old.ID != id {
			return n.notFound(name)
		}
		m := old.Clone()
		if err := change(m); err != nil {
			return err
		}
		if err := n.checkChange(name, old, m); err != nil {
			return err
		}
		tx.Put(ksManifest, n.nameKey(name), m.Encode(nil))
		if err := n.queue(tx, id, Replaced(n.o.Number, old, m)); err != nil {
			return err
		}
		after = m
		return n.account(tx, name, old, m)
	})
	n.mutations.Add(1)
	if err != nil {
		n.cache.drop(name)
		return err
	}
	n.cache.set(name, after, stamp)
	return nil
}

// Replace puts the manifest m of upload u in the place of the object of this name and id: the same
// content, coded anew. When there is no such object any more, the error matches objstore.ErrNotFound.
func (n *Manager) Replace(ctx context.Context, u Upload, name string, id uint64, m *manifest.Manifest) error {
	if err := n.checkNew(name, m); err != nil {
		return err
	}
	return n.mutate(ctx, name, m, func(tx kv.Txn) error {
		if err := n.fenced(ctx, tx); err != nil {
			return err
		}
		old, err := n.get(tx, name)
		if err != nil {
			return err
		}
		if old.ID != id {
			return n.notFound(name)
		}
		if old.Size != m.Size || old.Sum != m.Sum {
			return n.refuse(name, 0, "a replacement must have the same content")
		}
		if err := n.checkEpoch(tx, u); err != nil {
			return err
		}
		if err := n.queue(tx, id, Locations(n.o.Number, old)); err != nil {
			return err
		}
		if err := n.account(tx, name, old, nil); err != nil {
			return err
		}
		tx.Put(ksManifest, n.nameKey(name), m.Encode(nil))
		return n.account(tx, name, nil, m)
	})
}

// deleteBatch bounds the objects that one transaction removes.
const deleteBatch = 256

// Delete removes objects and queues their fragments for deletion. Absent ones are skipped. It returns
// how many were there.
func (n *Manager) Delete(ctx context.Context, names ...string) (int, error) {
	removed := 0
	for len(names) > 0 {
		batch := names[:min(deleteBatch, len(names))]
		names = names[len(batch):]
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		var count int
		err := n.update(ctx, kv.Ordered, func(tx kv.Txn) error {
			count = 0
			for _, name := range batch {
				switch err := n.remove(tx, name); {
				case err == nil:
					count++
				case !errors.Is(err, objstore.ErrNotFound):
					return err
				}
			}
			return nil
		})
		n.mutations.Add(1)
		for _, name := range batch {
			n.cache.drop(name)
		}
		if err != nil {
			return removed, fmt.Errorf("objstore: delete from %s: %w", n.o.Name, err)
		}
		removed += count
	}
	return removed, nil
}

func (n *Manager) remove(tx kv.Txn, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	m, err := n.get(tx, name)
	if err != nil {
		return err
	}
	tx.Delete(ksManifest, n.nameKey(name))
	if err := n.queue(tx, m.ID, Locations(n.o.Number, m)); err != nil {
		return err
	}
	return n.account(tx, name, m, nil)
}

// Abandon queues the fragments of an upload that will not be registered.
func (n *Manager) Abandon(ctx context.Context, u Upload, at []Location) error {
	if len(at) == 0 {
		return nil
	}
	return n.update(ctx, kv.Ordered, func(tx kv.Txn) error { return n.queue(tx, u.ID, at) })
}
