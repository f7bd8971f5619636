package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// revokedPeriod is how often a process that is no node asks the cluster who was revoked.
const revokedPeriod = 10 * time.Second

// revocations are the clients that the cluster has revoked, as far as a process has heard that is no node. Safe for
// concurrent use.
type revocations struct {
	mu    sync.Mutex
	names map[string]bool
}

// admits is an identity.Checker.
func (r *revocations) admits(peer identity.ID, _ *x509.Certificate) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if peer.Kind == identity.Client && r.names[peer.Name] {
		return fmt.Errorf("%w: client %s was revoked", identity.ErrIdentity, peer.Name)
	}
	return nil
}

// follow asks the cluster of b until ctx ends, and calls news when somebody was revoked. While no node answers,
// what was heard last holds.
func (r *revocations) follow(ctx context.Context, b *identity.Bundle, log *slog.Logger, news func()) {
	c, err := cluster.Dial(b)
	if err != nil {
		log.Info("who was revoked is not known", "cause", err)
		return
	}
	defer c.Close()
	said := false
	for ctx.Err() == nil {
		ask, cancel := context.WithTimeout(ctx, revokedPeriod)
		err := r.ask(ask, c, news)
		cancel()
		if err != nil && ctx.Err() == nil && !said {
			log.Info("the cluster does not say who was revoked: what it said last holds", "cause", err)
		}
		said = err != nil
		select {
		case <-ctx.Done():
		case <-time.After(revokedPeriod):
		}
	}
}

func (r *revocations) ask(ctx context.Context, c *cluster.Client, news func()) error {
	list, err := c.Clients(ctx)
	if err != nil {
		return err
	}
	more := false
	r.mu.Lock()
	for _, cl := range list {
		if cl.RevokedUnix != 0 && !r.names[cl.Name] {
			if r.names == nil {
				r.names = make(map[string]bool)
			}
			r.names[cl.Name], more = true, true
		}
	}
	r.mu.Unlock()
	if more {
		news()
	}
	return nil
}
