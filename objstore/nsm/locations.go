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

// Location is one fragment on one disk.
type Location struct {
	Disk objstore.DiskID
	Key  objstore.FragmentKey
}

// Locations returns where all fragments of m may be, confirmed or not.
func Locations(ns uint32, m *manifest.Manifest) []Location {
	var out []Location
	for i := range m.Chunks {
		for j, f := range m.Chunks[i].Fragments {
			if f.Disk != 0 {
				out = append(out, Location{f.Disk, m.Key(ns, i, j)})
			}
		}
	}
	return out
}

// Replaced returns where fragments of old are that m refers to no longer.
func Replaced(ns uint32, old, m *manifest.Manifest) []Location {
	var out []Location
	for i := range old.Chunks {
		for j, f := range old.Chunks[i].Fragments {
			now := m.Chunks[i].Fragments[j]
			if f.Disk != 0 && (now.Disk != f.Disk || now.Version != f.Version) {
				out = append(out, Location{f.Disk, old.Key(ns, i, j)})
			}
		}
	}
	return out
}

// The value of obj/obsolete is a list of
//
//	uvarint disk, uvarint chunk, u8 fragment, uvarint version
//
// appended to when more fragments of the same upload become obsolete.
func encodeLocations(b []byte, at []Location) []byte {
	for _, l := range at {
		b = binary.AppendUvarint(b, uint64(l.Disk))
		b = binary.AppendUvarint(b, uint64(l.Key.Chunk))
		b = append(b, l.Key.Fragment)
		b = binary.AppendUvarint(b, uint64(l.Key.Version))
	}
	return b
}

func decodeLocations(b []byte, ns uint32, id uint64) ([]Location, error) {
	var out []Location
	bad := &objstore.CorruptError{What: "list of obsolete fragments", Err: fmt.Errorf("of object %d", id)}
	next := func() (uint32, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<32-1 {
			return 0, false
		}
		b = b[n:]
		return uint32(v), true
	}
	for len(b) > 0 {
		disk, ok1 := next()
		chunk, ok2 := next()
		if !ok1 || !ok2 || len(b) == 0 {
			return nil, bad
		}
		fragment := b[0]
		b = b[1:]
		version, ok := next()
		if !ok {
			return nil, bad
		}
		out = append(out, Location{objstore.DiskID(disk), objstore.FragmentKey{Namespace: ns, Object: id, Chunk: chunk, Fragment: fragment, Version: version}})
	}
	return out, nil
}

func (n *Manager) queue(tx kv.Txn, id uint64, at []Location) error {
	if len(at) == 0 {
		return nil
	}
	key := n.idKey(id)
	old, err := tx.Get(ksObsolete, key)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return err
	}
	tx.Put(ksObsolete, key, encodeLocations(append([]byte(nil), old...), at))
	return nil
}

// Obsolete is one entry of the queue of fragments to delete.
type Obsolete struct {
	ID uint64
	At []Location
}

// Obsoletes returns up to limit entries of the queue with ids from from.
func (n *Manager) Obsoletes(ctx context.Context, from uint64, limit int) ([]Obsolete, error) {
	var out []Obsolete
	var bad error
	r := kv.Prefix(n.prefix(0))
	r.From, r.Limit = n.idKey(from), limit
	err := n.view(ctx, func(v kv.Reader) error {
		out = nil
		return v.Range(ksObsolete, r, func(key, value []byte) bool {
			id := binary.BigEndian.Uint64(key[4:])
			at, err := decodeLocations(value, n.o.Number, id)
			if err != nil {
				bad = err
				return false
			}
			out = append(out, Obsolete{id, at})
			return true
		})
	})
	return out, errors.Join(err, bad)
}

// Settle takes entries off the queue whose fragments were deleted; those in parked could not be,
// because their disk is away: they wait until it is back. An entry that has grown meanwhile stays.
func (n *Manager) Settle(ctx context.Context, done []Obsolete, parked []Location) error {
	return n.update(ctx, kv.Ordered, func(tx kv.Txn) error {
		if err := n.fenced(ctx, tx); err != nil {
			return err
		}
		for _, o := range done {
			key := n.idKey(o.ID)
			b, err := tx.Get(ksObsolete, key)
			if errors.Is(err, kv.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if len(b) == len(encodeLocations(nil, o.At)) {
				tx.Delete(ksObsolete, key)
			}
		}
		for _, l := range parked {
			tx.Put(ksParked, parkedKey(l), nil)
		}
		return nil
	})
}

func parkedKey(l Location) []byte {
	return l.Key.Append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+objstore.FragmentKeyLen), uint32(l.Disk)))
}

// Parked returns up to limit fragments, of whatever namespace, that wait for a disk to come back.
func Parked(ctx context.Context, store kv.Store, disk objstore.DiskID, limit int) ([]Location, error) {
	var out []Location
	var bad error
	r := kv.Prefix(binary.BigEndian.AppendUint32(nil, uint32(disk)))
	r.Limit = limit
	err := store.View(ctx, kv.Pending, func(v kv.Reader) error {
		out = nil
		return v.Range(ksParked, r, func(key, _ []byte) bool {
			k, err := objstore.ParseFragmentKey(key[4:])
			if err != nil {
				bad = err
				return false
			}
			out = append(out, Location{disk, k})
			return true
		})
	})
	return out, errors.Join(err, bad)
}

// Unpark forgets fragments that were deleted, or whose disk is gone for ever. What is of a namespace that is about
// to be at another namespace manager stays: it is there as well, and repeating a deletion does no harm. It returns
// how many it forgot.
func Unpark(ctx context.Context, store kv.Store, at []Location) (forgot int, err error) {
	byNamespace := make(map[uint32][]Location)
	for _, l := range at {
		byNamespace[l.Key.Namespace] = append(byNamespace[l.Key.Namespace], l)
	}
	err = store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		forgot = 0
		for ns, list := range byNamespace {
			h, err := readHome(tx, ns)
			if err != nil {
				return err
			}
			forget := func(tx kv.Txn) error {
				for _, l := range list {
					tx.Delete(ksParked, parkedKey(l))
				}
				forgot += len(list)
				return nil
			}
			switch h.state {
			case Settled:
				err = forget(tx)
			case Moving:
				err = noted(tx, ns, h, forget)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return forgot, err
}

// Degraded returns up to limit objects that lack fragments, with ids above after.
func (n *Manager) Degraded(ctx context.Context, after uint64, limit int) (names []string, last uint64, err error) {
	r := kv.Prefix(n.prefix(0))
	r.From, r.Limit = n.idKey(after+1), limit
	err = n.view(ctx, func(v kv.Reader) error {
		names, last = nil, after
		return v.Range(ksDegraded, r, func(key, value []byte) bool {
			names, last = append(names, string(value)), binary.BigEndian.Uint64(key[4:])
			return true
		})
	})
	return names, last, err
}
