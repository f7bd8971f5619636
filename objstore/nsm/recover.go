package nsm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// A store can be older than the disks: its rows were lost, or come from a backup. Then the disks hold
// fragments of uploads with ids that the store has not given out yet. To give them out again would mix the
// fragments of two uploads, and to take what no manifest names for garbage would delete what Recover could
// bring back. So before its first upload a Manager compares the two, skips the ids that it does not know of,
// and puts them on hold: nothing of them is collected until they are released.

// reserve is how far above the highest id that was seen new ones begin, since a disk that is away may hold
// higher ones.
const reserve = 1 << 20

// Hold is a range of ids that the store does not know of, from <= id < to. The zero value is none.
type Hold struct{ From, To uint64 }

// Has tells whether the id is on hold.
func (h Hold) Has(id uint64) bool { return h.From <= id && id < h.To }

// guard compares the disks with the store, once. The caller holds n.mu.
func (n *Manager) guard(ctx context.Context) error {
	if n.guarded || n.o.Highest == nil {
		return nil
	}
	var next uint64
	err := n.view(ctx, func(r kv.Reader) error {
		a, err := n.alloc(r)
		next = a.next
		return err
	})
	if err != nil {
		return fmt.Errorf("objstore: ids of namespace %s: %w", n.o.Name, err)
	}
	highest, err := n.o.Highest(ctx, n.o.Number, next)
	if err == nil && highest >= next {
		err = n.hold(ctx, highest)
	}
	if err != nil {
		return fmt.Errorf("objstore: compare namespace %s with its disks: %w", n.o.Name, err)
	}
	n.guarded = true
	return nil
}

// hold skips all ids up to highest. What was given out by another process since the disks were looked at is
// known by now.
func (n *Manager) hold(ctx context.Context, highest uint64) error {
	return n.update(ctx, kv.Durable, func(tx kv.Txn) error {
		a, err := n.alloc(tx)
		if err != nil || highest < a.next {
			return err
		}
		h, err := n.held(tx)
		if err != nil {
			return err
		}
		if h == (Hold{}) {
			h.From = a.next
		}
		a.next = highest + 1 + reserve
		h.To = a.next
		n.putAlloc(tx, a)
		b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), h.From)
		tx.Put(ksHold, n.prefix(0), binary.BigEndian.AppendUint64(b, h.To))
		return nil
	})
}

func (n *Manager) held(r kv.Reader) (Hold, error) {
	b, err := r.Get(ksHold, n.prefix(0))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return Hold{}, nil
	case err != nil:
		return Hold{}, err
	case len(b) != 16:
		return Hold{}, &objstore.CorruptError{What: "hold of namespace " + n.o.Name, Err: fmt.Errorf("%x", b)}
	}
	return Hold{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

// Held returns the ids that are on hold.
func (n *Manager) Held(ctx context.Context) (h Hold, err error) {
	err = n.view(ctx, func(r kv.Reader) error {
		h, err = n.held(r)
		return err
	})
	return h, err
}

// Release ends the hold: what no manifest names of these ids is garbage from now on.
func (n *Manager) Release(ctx context.Context) error {
	return n.update(ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Delete(ksHold, n.prefix(0))
		return nil
	})
}

// Unknown returns the first id of which the store cannot tell what became of its upload: of lower ones
// without a manifest it knows that they were deleted or never registered. 0: the store knows of no object at
// all, so that it may have lost everything it knew.
func (n *Manager) Unknown(ctx context.Context) (first uint64, err error) {
	err = n.view(ctx, func(r kv.Reader) error {
		first = 0
		some := false
		one := kv.Prefix(n.prefix(0))
		one.Limit = 1
		if err := r.Range(ksManifest, one, func(_, _ []byte) bool { some = true; return false }); err != nil || !some {
			return err
		}
		h, err := n.held(r)
		if err != nil {
			return err
		}
		a, err := n.alloc(r)
		if first = a.next; h != (Hold{}) {
			first = h.From
		}
		return err
	})
	return first, err
}

// Reserve sees to it that no id up to highest is given out any more.
func (n *Manager) Reserve(ctx context.Context, highest uint64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, _, err := n.updateAlloc(ctx, func(a *alloc) {
		if highest >= a.next {
			a.next = highest + 1 + reserve
			a.epoch++
			a.min = a.epoch
		}
	})
	n.ids = idRange{}
	return err
}

// Adoption is what became of a manifest that was rebuilt from disks.
type Adoption uint8

const (
	Adopted    Adoption = 1 + iota // the object is there again
	Corrected                      // it was there, but its manifest named fragments that are not
	Unchanged                      // it was there like this
	Superseded                     // a newer object has its name
)

// Adopt makes an object exist whose manifest was rebuilt from disks. Of two with the same name the one of
// the later upload wins. Fragments must be on known disks, at least k of each chunk; policies are not asked.
func (n *Manager) Adopt(ctx context.Context, name string, m *manifest.Manifest) (Adoption, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	for i := range m.Chunks {
		c := &m.Chunks[i]
		if c.Present() < c.K {
			return 0, n.refuse(name, i, "%d fragments, %d are needed", c.Present(), c.K)
		}
		for j, f := range c.Fragments {
			if _, ok := n.o.Disks.Node(f.Disk); f.Disk != 0 && !ok {
				return 0, n.refuse(name, i, "fragment %d on disk %d, which is unknown or retired", j, f.Disk)
			}
		}
	}
	var a Adoption
	value := m.Encode(nil)
	err := n.update(ctx, kv.Ordered, func(tx kv.Txn) error {
		a = Adopted
		old, err := n.get(tx, name)
		switch {
		case errors.Is(err, objstore.ErrNotFound):
			old = nil
		case err != nil:
			return err
		case old.ID > m.ID:
			a = Superseded
			return nil
		case old.ID == m.ID && string(old.Encode(nil)) == string(value):
			a = Unchanged
			return nil
		case old.ID == m.ID:
			a = Corrected
		}
		if old != nil {
			if err := n.account(tx, name, old, nil); err != nil {
				return err
			}
		}
		tx.Put(ksManifest, n.nameKey(name), value)
		return n.account(tx, name, nil, m)
	})
	n.mutations.Add(1)
	n.cache.drop(name)
	return a, err
}
