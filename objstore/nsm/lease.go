package nsm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// ksLease has, by namespace number(4), the LeaseRecord of who maintains it, as JSON.
const ksLease kv.Keyspace = "obj/lease"

// Lease is the right to maintain a namespace. A token is never given twice for a namespace, and rises.
type Lease struct {
	Namespace uint32
	Token     uint64
	Agent     string
}

// LeaseRecord is what is kept about a lease.
type LeaseRecord struct {
	V     int    `json:"v"`
	Token uint64 `json:"token"`
	Agent string `json:"agent"` // "" when it was given back
	Life  string `json:"life"`  // of the agent's process
}

// ErrFenced: the lease under which a change was asked for belongs to another agent by now. Nothing was changed.
var ErrFenced = errors.New("objstore: the lease on the namespace is lost")

type leaseKey struct{}

// WithLease makes the changes of manifests and queues that are asked for with the context depend on a lease: in
// the same transaction it must still be held.
func WithLease(ctx context.Context, l Lease) context.Context {
	return context.WithValue(ctx, leaseKey{}, l)
}

func leaseOf(ctx context.Context) (Lease, bool) {
	l, ok := ctx.Value(leaseKey{}).(Lease)
	return l, ok
}

// fenced returns ErrFenced when the context's lease is held no longer.
func (n *Manager) fenced(ctx context.Context, r kv.Reader) error {
	l, ok := leaseOf(ctx)
	if !ok {
		return nil
	}
	is, err := ReadLease(r, n.o.Number)
	if err != nil {
		return err
	}
	if l.Namespace != n.o.Number || is.Token != l.Token || is.Agent != l.Agent {
		return fmt.Errorf("namespace %s, token %d, now %d of %q: %w", n.o.Name, l.Token, is.Token, is.Agent, ErrFenced)
	}
	return nil
}

// tokenVersions is how many versions of a fragment a lease may write before they run into those of the next.
const tokenVersions = 1 << 10

// NextVersion returns the version of a fragment that is written anew to take the place of one of version v.
// Those of different leases differ, so that what an agent has written, or wants to delete, that has lost its
// lease without knowing, is never what another refers to.
func NextVersion(ctx context.Context, v uint32) uint32 {
	l, _ := leaseOf(ctx)
	return max(v+1, uint32(min(l.Token*tokenVersions, 1<<31)))
}

// ReadLease returns the record of a namespace's lease; it is zero when nobody ever had it.
func ReadLease(r kv.Reader, ns uint32) (LeaseRecord, error) {
	b, err := r.Get(ksLease, binary.BigEndian.AppendUint32(nil, ns))
	if errors.Is(err, kv.ErrNotFound) {
		return LeaseRecord{}, nil
	}
	if err != nil {
		return LeaseRecord{}, err
	}
	var l LeaseRecord
	if err := json.Unmarshal(b, &l); err != nil || l.V != 1 {
		return l, &objstore.CorruptError{What: "lease", Err: fmt.Errorf("%q: %w", b, err)}
	}
	return l, nil
}

// Lease returns who maintains the namespace.
func (n *Manager) Lease(ctx context.Context) (l LeaseRecord, err error) {
	err = n.view(ctx, func(r kv.Reader) error {
		l, err = ReadLease(r, n.o.Number)
		return err
	})
	return l, err
}

// WriteLease replaces the record of a namespace's lease.
func WriteLease(tx kv.Txn, ns uint32, l LeaseRecord) error {
	l.V = 1
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	tx.Put(ksLease, binary.BigEndian.AppendUint32(nil, ns), b)
	return nil
}
