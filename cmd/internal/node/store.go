package node

import (
	"context"
	"fmt"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// Store is the key-value store under a node: the one in its data directory, or the exclusive use of one
// on a cluster.
type Store interface {
	kv.Store
	// Err returns why the store cannot be used any more, or nil.
	Err() error
	// Status returns the figures of the store.
	Status() control.KV
}

// embedded is the store in the data directory.
type embedded struct{ *raftkv.Store }

func (e embedded) Err() error { return e.Stats().Err }

func (e embedded) Status() control.KV {
	k := e.Stats()
	s := control.KV{
		Leads: k.Leads, Term: k.Term, Applied: k.AppliedIndex, State: k.StateIndex,
		PendingBytes: k.PendingBytes, RecentBytes: k.RecentBytes, StateBytes: k.StateBytes, LogBytes: k.LogBytes,
		Transactions: k.Transactions, Batches: k.Batches,
	}
	if k.Err != nil {
		s.Error = k.Err.Error()
	}
	return s
}

// openStore opens the store of d.
func openStore(ctx context.Context, d *datadir.Dir, o Options) (Store, error) {
	if o.Store != nil {
		return o.Store(ctx)
	}
	if d.Config.Remote != nil {
		return openRemote(ctx, d, o)
	}
	if d.Config.Recovering {
		return nil, fmt.Errorf("the key-value store in %s was lost, and its recovery is not finished: run `gabion namespace recover` again", d.KV())
	}
	if d.Config.State != datadir.Creating && empty(d.KV()) {
		return nil, fmt.Errorf("the key-value store in %s is gone: without it the fragments on the disks cannot be told apart; restore a backup, or bring back what the disks have with `gabion namespace recover`", d.KV())
	}
	s, err := raftkv.Open(ctx, raftkv.Options{Dir: d.KV(), Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	return embedded{s}, nil
}
