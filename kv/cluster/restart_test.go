package cluster_test

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// undo makes a node's directory what it is after a crash before the node was noted.
func undo(t *testing.T, dir string, b *identity.Bundle) {
	t.Helper()
	key := b.Cert.PrivateKey.(*ecdsa.PrivateKey)
	if err := identity.WriteKey(filepath.Join(dir, "join-"+b.ID.Name+".key"), key); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "node.pem")); err != nil {
		t.Fatal(err)
	}
}

// TestEverybodyMoves: all nodes stop, and come back at other addresses. They find each other by what one
// of them is told.
func TestEverybodyMoves(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s")
	c.put("s", "x", "1")
	for _, id := range []string{"a", "b", "c"} {
		c.kill(id)
	}
	a := c.start("a")
	for _, id := range []string{"b", "c"} {
		o := c.options(id)
		o.Peers = []string{a.Addr()}
		n, err := cluster.Open(within(t), o)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[id] = n
	}
	for id, n := range c.nodes {
		if err := n.WaitReady(within(t)); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	c.put("s", "x", "2")
	for id := range c.nodes {
		c.shows(id, "s", "x", "2")
	}
}

// TestDamagedMember: a member whose files are damaged or gone does not start, says how to get out of it,
// and is given new files when the store is moved away and back.
func TestDamagedMember(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s", "a", "b", "c")
	c.put("s", "x", "1")
	dir := func(id string) string {
		names := c.stores(id)
		return filepath.Join(c.path(id), "stores", names[len(names)-1]) // "directory" is before "s..."
	}
	damage := map[string]func(dir string) error{
		"b": func(dir string) error { return os.RemoveAll(dir) },
		"c": func(dir string) error { return os.WriteFile(filepath.Join(dir, "format"), []byte("rubbish"), 0o600) },
	}
	last := "1"
	for _, id := range []string{"b", "c"} {
		c.shows(id, "s", "x", last) // it has files
		c.kill(id)
		if err := damage[id](dir(id)); err != nil {
			t.Fatal(err)
		}
		c.start(id)
		var damaged *cluster.DamagedError
		wait(t, id+" complains", func() bool {
			_, err := c.nodes[id].Member("s")
			return errors.As(err, &damaged)
		})
		text := damaged.Error()
		for _, want := range []string{`"s"`, "node " + id, "gabion cluster replace " + id} {
			if !strings.Contains(text, want) {
				t.Errorf("%q does not say %q", text, want)
			}
		}
		wait(t, "the status shows the damaged member on "+id, func() bool {
			for _, s := range c.status().Stores {
				for _, m := range s.Members {
					if m.Node == id && strings.Contains(m.Member.GetError(), "gabion cluster replace") {
						return true
					}
				}
			}
			return false
		})
		// The others go on. The store leaves the node, and comes back.
		others := []string{"a", "c"}
		if id == "c" {
			others = []string{"a", "b"}
		}
		if err := c.admin().SetMembers(within(t), "s", others, nil); err != nil {
			t.Fatal(err)
		}
		c.members("s", others, nil)
		wait(t, "the damaged files go", func() bool { return len(c.stores(id)) == 1 })
		if err := c.admin().SetMembers(within(t), "s", []string{"a", "b", "c"}, nil); err != nil {
			t.Fatal(err)
		}
		c.members("s", []string{"a", "b", "c"}, nil)
		c.put("s", "x", id)
		c.shows(id, "s", "x", id)
		last = id
	}

	// The directory itself.
	c.kill("c")
	if err := os.RemoveAll(filepath.Join(c.path("c"), "stores", "directory")); err != nil {
		t.Fatal(err)
	}
	_, err := cluster.Open(within(t), c.options("c"))
	var damaged *cluster.DamagedError
	if !errors.As(err, &damaged) || damaged.Store != cluster.Directory {
		t.Errorf("a node without its directory opens: %v", err)
	}
}

// TestManyStores: fifty stores on three nodes in one process cost little.
func TestManyStores(t *testing.T) {
	c := newTown(t)
	c.heartbeat = 2 * time.Second // hundreds of members share the processors with all other tests
	c.grow(3)
	stores := 50
	if raceEnabled {
		stores = 15
	}
	var work errgroup.Group
	work.SetLimit(stores)
	for i := range stores {
		work.Go(func() error {
			_, err := c.nodes["a"].Admin().CreateStore(within(t), &clusterpb.CreateStoreRequest{Name: fmt.Sprintf("s%d", i)})
			return err
		})
	}
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range stores {
		c.put(fmt.Sprintf("s%d", i), "x", "1")
	}
	for id := range c.nodes {
		for i := range stores {
			c.shows(id, fmt.Sprintf("s%d", i), "x", "1")
		}
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	members := 3 * (stores + 1)
	t.Logf("%d members: %d goroutines, %d MiB heap", members, runtime.NumGoroutine(), m.HeapAlloc>>20)
	if n := runtime.NumGoroutine(); n > 60*members {
		t.Errorf("%d goroutines for %d members", n, members)
	}
	if perMember := m.HeapAlloc / uint64(members); perMember > 8<<20 {
		t.Errorf("%d KiB of heap for each member", perMember>>10)
	}
	c.kill("b")
	for i := range stores {
		c.put(fmt.Sprintf("s%d", i), "x", "2")
	}
	c.start("b")
	for i := range stores {
		c.shows("b", fmt.Sprintf("s%d", i), "x", "2")
	}
	for i := range stores {
		if err := c.admin().DeleteStore(within(t), fmt.Sprintf("s%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	var left []*clusterpb.Store
	wait(t, "all stores are gone", func() bool {
		left, _ = c.admin().Stores(within(t))
		for id := range c.nodes {
			if len(c.stores(id)) != 1 {
				return false
			}
		}
		return len(left) == 0
	})
}

// TestStatusAfterRestart: a node that has just started does not take what it has not heard yet for nothing.
func TestStatusAfterRestart(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s")
	c.kill("a")
	c.start("a")
	client, err := cluster.DialFile(c.path("a")) // which asks a first
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := client.Status(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Nodes) != 3 || len(s.Stores) != 2 {
		t.Errorf("%s shows %d nodes and %d stores", s.AnsweredBy, len(s.Nodes), len(s.Stores))
	}
}
