package kvaccess

import (
	"context"
	"encoding/hex"
	"io"
	"time"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/kv"
)

// local is the store of a data directory. Its reads are linearizable, which is as fresh as any level asks.
type local struct{ c *control.Client }

// Local is the store that c's process has open. Close leaves c open.
func Local(c *control.Client) Store { return local{c} }

func (l local) Close() error { return nil }

func (l local) Get(ctx context.Context, _ Read, ks kv.Keyspace, keys [][]byte) ([]Value, error) {
	in, err := l.c.KVGet(ctx, ks, keys...)
	out := make([]Value, len(in))
	for i, v := range in {
		out[i] = Value(v)
	}
	return out, err
}

func (l local) Exists(ctx context.Context, r Read, ks kv.Keyspace, keys [][]byte) ([]bool, error) {
	values, err := l.Get(ctx, r, ks, keys)
	there := make([]bool, len(values))
	for i, v := range values {
		there[i] = v.Found
	}
	return there, err
}

func (l local) Range(ctx context.Context, _ Read, q Query, fn func(Pair) error) (bool, error) {
	r := control.RangeRequest{Keyspace: q.Keyspace, From: q.From, To: q.To, Reverse: q.Reverse, Limit: q.Limit, KeysOnly: q.KeysOnly}
	return l.c.KVRange(ctx, r, func(p control.Pair) error { return fn(Pair(p)) })
}

func (l local) Count(ctx context.Context, _ Read, q Query) (uint64, error) {
	return l.c.KVCount(ctx, control.RangeRequest{Keyspace: q.Keyspace, From: q.From, To: q.To})
}

func (l local) Apply(ctx context.Context, steps []kv.Step) (Applied, error) {
	r, err := l.c.KVSequence(ctx, steps)
	return Applied{Steps: r}, err
}

func (l local) Call(context.Context, string, []byte) ([]byte, error) {
	return nil, &UnsupportedError{"procedures are registered with the nodes of a cluster, not with a data directory's store", "give --cluster and --store"}
}

func (l local) Watch(ctx context.Context, q WatchQuery, fn func(Event) error) error {
	r := control.WatchRequest{Keyspace: q.Keyspace, Prefix: q.Prefix, From: q.From}
	return l.c.KVWatch(ctx, r, func(e control.WatchEvent) error {
		if e.Key == nil {
			return nil // nothing but an index
		}
		return fn(Event{Index: e.Index, Key: e.Key, Value: e.Value, Deleted: e.Deleted})
	})
}

// Members is the one member that a data directory has, or the session that it has with a cluster.
func (l local) Members(ctx context.Context) ([]Member, error) {
	s, err := l.c.Status(ctx)
	if err != nil {
		return nil, err
	}
	m := Member{
		Node: "local", Role: Leader, Term: s.KV.Term, Applied: s.KV.Applied, Error: s.KV.Error, Transactions: s.KV.Transactions, Batches: s.KV.Batches,
		StateIndex: s.KV.State, PendingBytes: s.KV.PendingBytes, RecentBytes: s.KV.RecentBytes, StateBytes: s.KV.StateBytes, LogBytes: s.KV.LogBytes,
	}
	if s.KV.Error != "" {
		m.Role = ""
	}
	return []Member{m}, nil
}

func (l local) Ping(ctx context.Context) ([]Pong, error) {
	begin := time.Now()
	_, err := l.c.KVGet(ctx, "user") // waits for what it could have read, as any read does
	p := Pong{Node: "local", Took: time.Since(begin)}
	if err != nil {
		p.Error = err.Error()
	}
	return []Pong{p}, nil
}

func (l local) Backup(ctx context.Context, w io.Writer) (uint64, error) { return l.c.KVBackup(ctx, w) }

func (l local) Restore(context.Context, io.Reader) (uint64, error) {
	return 0, &UnsupportedError{"a backup cannot be restored over the store of a data directory, which its filesystem uses", "restore into a store of a cluster, with --cluster and --store"}
}

func (l local) Verify(ctx context.Context) ([]Sum, error) {
	v, err := l.c.KVVerify(ctx)
	if err != nil {
		return nil, err
	}
	return []Sum{{Node: "local", Index: v.Index, Keys: v.Keys, SHA256: hex.EncodeToString(v.Sum)}}, nil
}
