package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// addressPeriod is how often the cluster is asked where its nodes are.
const addressPeriod = 20 * time.Second

// addressKeeper keeps the addresses in a data directory's copy of its bundle those of the cluster's nodes, which
// come, go and move: years later the copy must still lead to the cluster.
type addressKeeper struct {
	path   string // of the copy
	bundle *identity.Bundle
	log    *slog.Logger
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// keepAddresses begins to look after the copy at path, which holds b.
func keepAddresses(path string, b *identity.Bundle, log *slog.Logger) (*addressKeeper, error) {
	c, err := cluster.Dial(b)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	k := &addressKeeper{path: path, bundle: b, log: log, cancel: cancel}
	k.work.Go(func() {
		defer c.Close()
		k.run(ctx, c)
	})
	return k, nil
}

func (k *addressKeeper) close() {
	k.cancel()
	k.work.Wait()
}

func (k *addressKeeper) run(ctx context.Context, c *cluster.Client) {
	var said string
	for ctx.Err() == nil {
		ask, cancel := context.WithTimeout(ctx, addressPeriod)
		addrs, err := c.Addresses(ask)
		cancel()
		if err == nil {
			err = k.note(addrs)
		}
		switch {
		case err == nil:
			said = ""
		case ctx.Err() != nil:
			return
		case errors.Is(err, cluster.ErrDenied) && said != "denied":
			said = "denied"
			k.log.Error("the cluster refuses this client, which was revoked: give another file with `gabion up --cluster FILE`", "client", k.bundle.ID.Name)
		case !errors.Is(err, cluster.ErrDenied) && said != err.Error():
			said = err.Error()
			k.log.Info("where the nodes of the cluster are could not be noted", "cause", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(addressPeriod):
		}
	}
}

// note writes the addresses to the copy, unless it has them, or was replaced by that of another client.
func (k *addressKeeper) note(addrs []string) error {
	now, err := identity.ReadBundle(k.path)
	if err != nil {
		return err
	}
	if len(addrs) == 0 || !bytes.Equal(now.Cert.Leaf.Raw, k.bundle.Cert.Leaf.Raw) {
		return nil
	}
	addrs = slices.Compact(slices.Sorted(slices.Values(addrs)))
	if slices.Equal(addrs, slices.Sorted(slices.Values(now.Addrs))) {
		return nil
	}
	now.Addrs = addrs
	return identity.WriteBundle(k.path, now)
}
