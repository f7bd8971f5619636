package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/kv/kvsession"
)

const (
	protoKV = "h2" // the protocol of stores on a node's listener
	// openTimeout bounds how long the start waits for a cluster that does not answer.
	openTimeout = 30 * time.Second
	// askTimeout bounds how long the status waits for the members.
	askTimeout = 3 * time.Second
)

// remote is the exclusive use of a store of a cluster.
type remote struct {
	*kvsession.Session
	client *kvrpc.Client
	where  datadir.Remote
	keeper *addressKeeper // nil: nothing works in the background
}

// openRemote takes the store that d remembers.
func openRemote(ctx context.Context, d *datadir.Dir, o Options) (Store, error) {
	where := *d.Config.Remote
	raw, err := os.ReadFile(d.Bundle())
	if err != nil {
		return nil, fmt.Errorf("how to reach the cluster with the metadata of %s is not known: %w: give the file of a client with `gabion up --cluster FILE`", d.Path, err)
	}
	b, err := identity.ParseBundle(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: give another one with `gabion up --cluster FILE`", d.Bundle(), err)
	}
	c, err := kvrpc.Dial(ctx, kvrpc.ClientOptions{Addrs: b.Addrs, TLS: b.ClientConfig("", protoKV), Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	open, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	old, err := peekClaim(open, c.Store(where.Store))
	if err == nil {
		_, err = old.fits(&d.Config)
	}
	if err != nil {
		return nil, errors.Join(explainOpen(err, where, b.Addrs), c.Close())
	}
	s, err := kvsession.Open(open, c, where.Store, kvsession.Options{Owner: where.Owner, Steal: o.Steal, Logger: o.Logger})
	if err != nil {
		return nil, errors.Join(explainOpen(err, where, b.Addrs), c.Close())
	}
	r := &remote{Session: s, client: c, where: where}
	if !o.Quiet {
		if r.keeper, err = keepAddresses(d.Bundle(), b, o.Logger); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

// explainOpen says what to do when a store could not be taken.
func explainOpen(err error, where datadir.Remote, addrs []string) error {
	var fenced *kv.FencedError
	switch {
	case errors.Is(err, kvrpc.ErrDenied):
		return deniedError{where.Cluster}
	case errors.As(err, &fenced):
		return &fencedError{fmt.Sprintf("store %s is in use by %s: stop that one, or wait half a minute if its machine is gone, or take the store away with --steal", where.Store, fenced.Holder)}
	case errors.Is(err, kv.ErrNoStore):
		return fmt.Errorf("cluster %s has no store %s: `gabion cluster store create %s` makes one: %w", where.Cluster, where.Store, where.Store, kv.ErrNoStore)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, kv.ErrNoQuorum):
		return fmt.Errorf("store %s of cluster %s did not answer within %v, asked at %v: are its nodes running, and a majority of them reachable from here? (%w)", where.Store, where.Cluster, openTimeout, addrs, err)
	}
	return err
}

// fencedError is kv.ErrFenced in words that say what to do.
type fencedError struct{ text string }

func (e *fencedError) Error() string { return e.text }
func (e *fencedError) Unwrap() error { return kv.ErrFenced }

// deniedError is kvrpc.ErrDenied in words that say what to do.
type deniedError struct{ cluster string }

func (e deniedError) Error() string {
	return fmt.Sprintf("cluster %s refuses the client whose file this data directory has; it was revoked: make a file of another client with `gabion cluster client NAME FILE --data DIR` on a node, and give it with `gabion up --cluster FILE`", e.cluster)
}
func (deniedError) Unwrap() error { return kvrpc.ErrDenied }

// Close gives the store back.
func (r *remote) Close() error {
	if r.keeper != nil {
		r.keeper.close()
	}
	return errors.Join(r.Session.Close(), r.client.Close())
}

// Err says why the store cannot be used any more.
func (r *remote) Err() error {
	err := r.Session.Err()
	if errors.Is(err, kvrpc.ErrDenied) {
		return deniedError{r.where.Cluster}
	}
	var fenced *kv.FencedError
	if errors.As(err, &fenced) {
		holder := fenced.Holder
		if holder == "" {
			holder = "another user"
		}
		return &fencedError{fmt.Sprintf("store %s was taken over by %s: what was not fsynced before that is lost", r.where.Store, holder)}
	}
	return err
}

func (r *remote) Status() control.KV {
	k := r.Stats()
	s := control.KV{Transactions: k.Transactions, Batches: k.Batches, PendingBytes: k.PendingBytes, RecentBytes: k.CacheBytes}
	s.Remote = &control.Remote{
		Cluster: r.where.Cluster, Store: r.where.Store, Owner: r.where.Owner, Connected: k.Connected, Held: k.Held, Epoch: k.Epoch,
		Reconnects: k.Reconnects, Members: []control.RemoteMember{},
	}
	if k.Err != nil {
		s.Error = k.Err.Error()
	}
	return s
}

// askMembers adds to the status what the members of the store say.
func (r *remote) askMembers(ctx context.Context, s *control.KV) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	members, err := kvaccess.Remote(r.client, r.where.Store).Members(ctx)
	if err != nil {
		s.Remote.MembersError = err.Error()
		return
	}
	var last uint64
	for _, m := range members {
		last = max(last, m.Applied)
	}
	for _, m := range members {
		s.Remote.Members = append(s.Remote.Members, control.RemoteMember{
			Node: m.Node, Address: m.Address, Role: m.Role, Applied: m.Applied, Lag: last - m.Applied, Error: m.Error,
		})
		if m.Role == kvaccess.Leader {
			s.Term, s.Applied, s.State, s.StateBytes, s.LogBytes = m.Term, m.Applied, m.StateIndex, m.StateBytes, m.LogBytes
		}
	}
}
