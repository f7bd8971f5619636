package kvsession

import (
	"context"

	"github.com/gabionfs/gabion/kv/kvrpc"
)

// Open begins the exclusive use of a store of the cluster that client talks to. When another owner has it,
// and keeps it for Options.Wait, the error is a *kv.FencedError that names the owner; a store that does not
// exist is kv.ErrNoStore. Otherwise Open waits for a leader until ctx ends. The client must stay
// open for as long as the session is.
func Open(ctx context.Context, client *kvrpc.Client, store string, o Options) (*Session, error) {
	return OpenWith(ctx, clientDialer{client.Store(store).Sessions()}, store, o)
}

type clientDialer struct{ d *kvrpc.SessionDialer }

func (d clientDialer) Dial(ctx context.Context, last error) (Conn, error) {
	c, err := d.d.Dial(ctx, last)
	if err != nil {
		return nil, err // not a nil *SessionStream in an interface
	}
	return c, nil
}

// Known implements what acquire asks: not every member of the cluster has the store.
func (d clientDialer) Known() int { return d.d.Known() }
