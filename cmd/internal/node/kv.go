package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// own returns the store in the data directory, or says that there is none for what.
func (n *Node) own(what string) (*raftkv.Store, error) {
	if e, ok := n.kv.(embedded); ok {
		return e.Store, nil
	}
	where := ""
	if r := n.dir.Config.Remote; r != nil {
		where = fmt.Sprintf(": give --cluster %s --store %s", n.dir.Bundle(), r.Store)
	}
	return nil, fmt.Errorf("%s of the key-value store: %w here, since it is on a cluster%s", what, errors.ErrUnsupported, where)
}

// Watch calls fn with changes of the key-value store.
func (n *Node) Watch(ctx context.Context, q control.WatchRequest, fn func(control.WatchEvent) error) error {
	s, err := n.own("a watch")
	if err != nil {
		return err
	}
	o := raftkv.WatchOptions{Keyspace: q.Keyspace, Prefix: q.Prefix, From: q.From}
	return s.Watch(ctx, o, func(index uint64, events []raftkv.Event) error {
		for _, e := range events {
			if err := fn(control.WatchEvent{Index: index, Key: e.Key, Value: e.Value, Deleted: e.Deleted}); err != nil {
				return err
			}
		}
		if len(events) == 0 {
			return fn(control.WatchEvent{Index: index})
		}
		return nil
	})
}

// Backup writes the key-value store as it is at one index.
func (n *Node) Backup(ctx context.Context, w io.Writer) (uint64, error) {
	s, err := n.own("a backup")
	if err != nil {
		return 0, err
	}
	return s.Backup(ctx, w)
}

// Verify compares all of the state file with its checksums, and sums up the content.
func (n *Node) Verify(ctx context.Context) (v control.Verified, err error) {
	s, err := n.own("a check")
	if err != nil {
		return v, err
	}
	if v.Bytes, err = s.Verify(ctx); err != nil {
		return v, err
	}
	h, err := s.Hash(ctx)
	v.Index, v.Keys, v.Sum = h.Index, h.Keys, h.Sum[:]
	return v, err
}
