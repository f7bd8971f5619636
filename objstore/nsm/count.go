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

// Counter says how many objects there are of one safety.
type Counter struct {
	Spare int // fragments that the weakest chunk can lose; negative would be lost
	Full  int // fragments that it could lose if all were there
	Usage
}

// Usage is what objects take.
type Usage struct {
	Objects int64
	Bytes   int64 // as the user gave them
	Stored  int64 // of all fragments
}

func usageOf(m *manifest.Manifest) Usage { return Usage{1, m.Size, m.Stored()} }

func (u *Usage) add(v Usage, sign int64) {
	u.Objects += sign * v.Objects
	u.Bytes += sign * v.Bytes
	u.Stored += sign * v.Stored
}

func (n *Manager) countKey(spare, full int) []byte {
	return append(n.prefix(2), byte(spare+128), byte(full))
}

func decodeUsage(b []byte) (Usage, error) {
	var v [3]int64
	for i := range v {
		x, l := binary.Uvarint(b)
		if l <= 0 {
			return Usage{}, &objstore.CorruptError{What: "counter", Err: fmt.Errorf("%x", b)}
		}
		v[i], b = int64(x), b[l:]
	}
	return Usage{v[0], v[1], v[2]}, nil
}

func (u Usage) encode() []byte {
	b := binary.AppendUvarint(make([]byte, 0, 16), uint64(u.Objects))
	b = binary.AppendUvarint(b, uint64(u.Bytes))
	return binary.AppendUvarint(b, uint64(u.Stored))
}

// account moves an object from the counters of old to those of m, and in or out of the degraded
// queue; nil is no object.
func (n *Manager) account(tx kv.Txn, name string, old, m *manifest.Manifest) error {
	if old != nil && m != nil && old.Complete() && m.Complete() && old.Stored() == m.Stored() {
		return nil // nothing that is counted has changed: a fragment has moved
	}
	if old != nil {
		if err := n.count(tx, old, -1); err != nil {
			return err
		}
	}
	if m != nil {
		if err := n.count(tx, m, 1); err != nil {
			return err
		}
	}
	switch {
	case m != nil && !m.Complete():
		tx.Put(ksDegraded, n.idKey(m.ID), []byte(name))
	case old != nil && !old.Complete():
		tx.Delete(ksDegraded, n.idKey(old.ID))
	}
	return nil
}

func (n *Manager) count(tx kv.Txn, m *manifest.Manifest, sign int64) error {
	key := n.countKey(m.Safety())
	var u Usage
	b, err := tx.Get(ksCount, key)
	if err == nil {
		u, err = decodeUsage(b)
	}
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return err
	}
	u.add(usageOf(m), sign)
	if u.Objects < 0 || u.Bytes < 0 || u.Stored < 0 {
		// An assertion: the counters change with the manifests, in the same transaction.
		return &objstore.CorruptError{What: "counter of namespace " + n.o.Name, Err: fmt.Errorf("would become %+v", u)}
	}
	if u.Objects == 0 {
		tx.Delete(ksCount, key)
		return nil
	}
	tx.Put(ksCount, key, u.encode())
	return nil
}

// Counters returns how many objects there are of each safety, least safe first. They count fragments
// that were written, whatever happened to their disks since.
func (n *Manager) Counters(ctx context.Context) ([]Counter, error) {
	var out []Counter
	var bad error
	err := n.view(ctx, func(r kv.Reader) error {
		out = nil
		return r.Range(ksCount, kv.Prefix(n.prefix(0)), func(key, value []byte) bool {
			u, err := decodeUsage(value)
			if err != nil || len(key) != 6 {
				bad = errors.Join(err, fmt.Errorf("objstore: counter %x", key))
				return false
			}
			out = append(out, Counter{Spare: int(key[4]) - 128, Full: int(key[5]), Usage: u})
			return true
		})
	})
	return out, errors.Join(err, bad)
}

// Usage returns what the namespace's objects take together.
func (n *Manager) Usage(ctx context.Context) (Usage, error) {
	counters, err := n.Counters(ctx)
	var u Usage
	for _, c := range counters {
		u.add(c.Usage, 1)
	}
	return u, err
}

// Recount compares the counters and the degraded queue with the manifests, in one view, and returns
// what is wrong.
func (n *Manager) Recount(ctx context.Context) (problems []string, err error) {
	err = n.view(ctx, func(r kv.Reader) error {
		problems, err = n.recount(r)
		return err
	})
	return problems, err
}

func (n *Manager) recount(r kv.Reader) ([]string, error) {
	var problems []string
	want := make(map[[2]int]*Usage)
	degraded := make(map[uint64]string)
	var bad error
	err := r.Range(ksManifest, kv.Prefix(n.prefix(0)), func(key, value []byte) bool {
		m, err := manifest.Decode(value)
		if err != nil {
			problems = append(problems, fmt.Sprintf("object %q: %v", key[4:], err))
			return true
		}
		spare, full := m.Safety()
		u := want[[2]int{spare, full}]
		if u == nil {
			u = new(Usage)
			want[[2]int{spare, full}] = u
		}
		u.add(usageOf(m), 1)
		if !m.Complete() {
			degraded[m.ID] = string(key[4:])
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	err = r.Range(ksCount, kv.Prefix(n.prefix(0)), func(key, value []byte) bool {
		u, err := decodeUsage(value)
		if err != nil || len(key) != 6 {
			problems = append(problems, fmt.Sprintf("counter %x does not decode", key))
			return true
		}
		id := [2]int{int(key[4]) - 128, int(key[5])}
		if w := want[id]; w == nil || *w != u {
			problems = append(problems, fmt.Sprintf("counter of objects that can lose %d of %d fragments is %+v, manifests give %+v", id[0], id[1], u, w))
		}
		delete(want, id)
		return true
	})
	for id, u := range want {
		problems = append(problems, fmt.Sprintf("no counter of objects that can lose %d of %d fragments, manifests give %+v", id[0], id[1], *u))
	}
	if err == nil {
		err = r.Range(ksDegraded, kv.Prefix(n.prefix(0)), func(key, value []byte) bool {
			id := binary.BigEndian.Uint64(key[4:])
			if name, ok := degraded[id]; !ok || name != string(value) {
				problems = append(problems, fmt.Sprintf("object %q, id %d, is queued as degraded but is not", value, id))
			}
			delete(degraded, id)
			return true
		})
	}
	for id, name := range degraded {
		problems = append(problems, fmt.Sprintf("object %q, id %d, is degraded but not queued", name, id))
	}
	return problems, errors.Join(err, bad)
}
