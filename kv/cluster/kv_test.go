package cluster_test

import (
	"context"
	"errors"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/kv/kvsession"
)

func dialKV(t *testing.T, b *identity.Bundle) *kvrpc.Client {
	t.Helper()
	c, err := kvrpc.Dial(within(t), kvrpc.ClientOptions{Addrs: b.Addrs, TLS: b.ClientConfig("", "h2")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestClientOfStores: a client with a bundle uses a store, whoever leads it, and never sees the directory.
func TestClientOfStores(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s")
	client := dialKV(t, bundleOf(t, c.admin(), "joe", false))
	s := client.Store("s")
	if err := s.Set(within(t), kv.Durable, "k", []byte("x"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	id, _ := c.leader("s")
	c.kill(id)
	if err := s.Set(within(t), kv.Durable, "k", []byte("x"), []byte("2")); err != nil {
		t.Fatal(err)
	}
	v, err := s.Get(within(t), "k", []byte("x"), kvrpc.ReadOptions{})
	if err != nil || string(v) != "2" {
		t.Errorf("got %q, %v", v, err)
	}
	for _, name := range []string{cluster.Directory, "nothing"} {
		if _, err := client.Store(name).Get(within(t), "meta", []byte("ca"), kvrpc.ReadOptions{}); !errors.Is(err, kv.ErrNoStore) {
			t.Errorf("read of %s: %v", name, err)
		}
	}
	c.start(id)
}

// TestRevokedClientOfStores: who is revoked is told so, and does not wait for ever for a cluster that does not
// want to know it: neither calls, nor a session that was under way, nor a new one.
func TestRevokedClientOfStores(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s")
	client := dialKV(t, bundleOf(t, c.admin(), "joe", false))
	s := client.Store("s")
	session, err := kvsession.Open(within(t), client, "s", kvsession.Options{Owner: "joe"})
	if err != nil {
		t.Fatal(err)
	}
	put := func(ctx context.Context) error {
		return session.Update(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("k", []byte("x"), []byte("1")); return nil })
	}
	if err := put(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.admin().RevokeClient(within(t), "joe", false); err != nil {
		t.Fatal(err)
	}
	wait(t, "the session ends", func() bool { return session.Err() != nil })
	for what, err := range map[string]error{
		"the session": session.Err(), "an update of it": put(within(t)), "its end": session.Close(),
		"a read": func() error { _, err := s.Get(within(t), "k", []byte("x"), kvrpc.ReadOptions{}); return err }(),
		"a new session": func() error {
			_, err := kvsession.Open(within(t), client, "s", kvsession.Options{Owner: "joe"})
			return err
		}(),
	} {
		if !errors.Is(err, kvrpc.ErrDenied) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
