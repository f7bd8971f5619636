package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// protoKV is the protocol of stores on a node's listener.
const protoKV = "h2"

// clusterConn is a connection to a cluster, for its stores.
type clusterConn struct {
	bundle *identity.Bundle
	client *kvrpc.Client
}

// dialCluster returns a client of the cluster that the file or directory at path tells how to reach.
func (e *env) dialCluster(ctx context.Context, path string) (*clusterConn, error) {
	b, err := loadBundle(path)
	if err != nil {
		return nil, err
	}
	c, err := kvrpc.Dial(ctx, kvrpc.ClientOptions{Addrs: b.Addrs, TLS: b.ClientConfig("", protoKV)})
	if err != nil {
		return nil, err
	}
	return &clusterConn{b, c}, nil
}

// explain says that the cluster refuses this client where that is why nobody answers.
func (c *clusterConn) explain(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, kvrpc.ErrDenied):
		return refusedBy(c.bundle)
	case !errors.Is(err, kv.ErrNoQuorum) && !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	admin, derr := cluster.Dial(c.bundle)
	if derr != nil {
		return err
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, serr := admin.Stores(ctx); errors.Is(serr, cluster.ErrDenied) {
		return refusedBy(c.bundle)
	}
	return err
}

func (c *clusterConn) Close() error { return c.client.Close() }

// store returns the store of that name. Without a name the error lists those that there are.
func (c *clusterConn) store(ctx context.Context, name string) (kvaccess.Store, error) {
	if name != "" {
		if err := identity.CheckName(name); err != nil {
			return nil, usagef("--store: %w", err)
		}
		return kvaccess.Remote(c.client, name), nil
	}
	admin, err := cluster.Dial(c.bundle)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	stores, err := admin.Stores(ctx)
	if errors.Is(err, cluster.ErrDenied) {
		return nil, explainCluster(err, c.bundle)
	} else if err != nil {
		return nil, errors.Join(usagef("which store? give --store NAME"), explainCluster(err, c.bundle))
	}
	if len(stores) == 0 {
		return nil, fmt.Errorf("the cluster has no stores yet: `gabion cluster store create NAME` makes one")
	}
	var names []string
	for _, s := range stores {
		names = append(names, s.GetName())
	}
	return nil, usagef("which store? give --store with one of %s", strings.Join(names, ", "))
}
