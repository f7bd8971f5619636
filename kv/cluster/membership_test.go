package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// load writes ever greater numbers to a store until stop is called, which checks that what was
// acknowledged is there.
func (c *town) load(store string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var acked atomic.Int64
	var work sync.WaitGroup
	nodes := []*cluster.Node{} // those that run now; others may come and go
	for _, n := range c.nodes {
		nodes = append(nodes, n)
	}
	work.Go(func() {
		for i := int64(1); ctx.Err() == nil; i++ {
			for done := false; !done && ctx.Err() == nil; {
				for _, n := range nodes {
					m, err := n.Member(store)
					if err != nil || !m.Stats().Leads {
						continue
					}
					err = m.Update(ctx, kv.Durable, func(tx kv.Txn) error {
						tx.Put("k", []byte("load"), fmt.Append(nil, i))
						return nil
					})
					if err == nil {
						acked.Store(i)
						done = true
						break
					}
				}
			}
		}
	})
	var once sync.Once
	end := func() { once.Do(func() { cancel(); work.Wait() }) }
	c.t.Cleanup(end)
	return func() {
		c.t.Helper()
		wait(c.t, "the load gets somewhere", func() bool { return acked.Load() > 20 })
		end()
		var got int64
		wait(c.t, "a read of what the load wrote", func() bool {
			_, s := c.leader(store)
			return s.View(within(c.t), kv.Linearizable, func(r kv.Reader) error {
				v, err := r.Get("k", []byte("load"))
				if err == nil {
					_, err = fmt.Sscan(string(v), &got)
				}
				return err
			}) == nil
		})
		if got < acked.Load() {
			c.t.Errorf("%s: %d was acknowledged, but %d is there", store, acked.Load(), got)
		}
	}
}

// TestGrowUnderLoad: from one node to five and a learner, while a store is written to that follows the
// directory and one that is moved by hand.
func TestGrowUnderLoad(t *testing.T) {
	t.Parallel()
	c := newTown(t)
	c.found("a")
	c.create("all")
	c.create("own", "a")
	stopAll, stopOwn := c.load("all"), c.load("own")
	for _, id := range []string{"b", "c", "d"} {
		c.join(id)
	}
	c.members(cluster.Directory, []string{"a", "b", "c"}, []string{"d"})
	c.members("all", []string{"a", "b", "c"}, nil)
	c.join("e")
	c.members(cluster.Directory, []string{"a", "b", "c", "d", "e"}, nil)
	token := c.token(cluster.TokenOptions{Learner: true})
	if err := cluster.Join(within(t), cluster.JoinOptions{Dir: c.path("l"), ID: "l", Token: token}); err != nil {
		t.Fatal(err)
	}
	c.start("l")
	c.members(cluster.Directory, []string{"a", "b", "c", "d", "e"}, []string{"l"})
	c.members("all", []string{"a", "b", "c", "d", "e"}, []string{"l"})
	if err := c.admin().SetMembers(within(t), "own", []string{"a", "b", "c"}, []string{"l"}); err != nil {
		t.Fatal(err)
	}
	c.members("own", []string{"a", "b", "c"}, []string{"l"})
	stopAll()
	stopOwn()
	c.put("own", "x", "1")
	c.shows("l", "own", "x", "1")

	// A learner cannot be made to vote in a store.
	if err := c.admin().SetMembers(within(t), "own", []string{"a", "l"}, nil); !errors.Is(err, cluster.ErrRefused) {
		t.Errorf("a learner as voter: %v", err)
	}
	if err := c.admin().TransferLeader(within(t), "own", "l"); !errors.Is(err, cluster.ErrRefused) {
		t.Errorf("a learner as leader: %v", err)
	}
	// With nobody but the learner and one voter left there is no quorum.
	for _, id := range []string{"b", "c", "d", "e"} {
		c.kill(id)
	}
	wait(t, "the last voter steps down", func() bool {
		for _, n := range c.nodes {
			if m, err := n.Member("own"); err == nil && m.Stats().Leads {
				return false
			}
		}
		return true
	})
}

// TestMoveStore: a store moves to other nodes while it is written to, and the nodes that it left forget it.
func TestMoveStore(t *testing.T) {
	t.Parallel()
	c := startTown(t, 4)
	c.create("s", "a", "b")
	stop := c.load("s")
	if err := c.admin().SetMembers(within(t), "s", []string{"c", "d"}, nil); err != nil {
		t.Fatal(err)
	}
	c.members("s", []string{"c", "d"}, nil)
	stop()
	for _, id := range []string{"a", "b"} {
		wait(t, "the files go from "+id, func() bool { return len(c.stores(id)) == 1 })
	}
	// And back: the node begins anew.
	if err := c.admin().SetMembers(within(t), "s", []string{"a", "c", "d"}, nil); err != nil {
		t.Fatal(err)
	}
	c.members("s", []string{"a", "c", "d"}, nil)
	c.put("s", "x", "1")
	c.shows("a", "s", "x", "1")
}

// stores lists the members that have files on a node.
func (c *town) stores(id string) (names []string) {
	c.t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.path(id), "stores"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestReplaceDeadNode: a node is lost for good and another one takes its place everywhere.
func TestReplaceDeadNode(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s", "a", "b", "c")
	stop := c.load("s")
	c.kill("c")
	c.join("d")
	if err := c.admin().ReplaceNode(within(t), "c", "d"); err != nil {
		t.Fatal(err)
	}
	c.members("s", []string{"a", "b", "d"}, nil)
	c.members(cluster.Directory, []string{"a", "b", "d"}, nil)
	stop()
	wait(t, "the node counts as removed", func() bool {
		for _, n := range c.status().Nodes {
			if n.Node.Id == "c" {
				return n.Node.State == clusterpb.NodeState_NODE_REMOVED
			}
		}
		return false
	})
	c.put("s", "x", "1")
	c.shows("d", "s", "x", "1")

	// The dead node comes back: nobody listens to it.
	old, err := cluster.Open(within(t), c.options("c"))
	if err != nil {
		t.Fatal(err)
	}
	c.nodes["c"] = old
	select {
	case <-old.Done():
		if err := old.Err(); err == nil || !strings.Contains(err.Error(), "removed") {
			t.Errorf("the removed node says: %v", err)
		}
	case <-within(t).Done():
		t.Error("the removed node does not notice")
	}
	for _, id := range []string{"a", "b", "d"} {
		// Each learns of it from its own copy of the directory.
		wait(t, id+" refuses the removed node", func() bool { return tryAs(t, old.Bundle(), c.nodes[id].Addr()) != nil })
	}
	// Its name is not given again.
	c.kill("c")
	err = cluster.Join(within(t), cluster.JoinOptions{Dir: c.path("new"), ID: "c", Token: c.token(cluster.TokenOptions{})})
	if err == nil || !strings.Contains(err.Error(), "removed") {
		t.Errorf("join under the name of a removed node: %v", err)
	}
}

// TestRemoveNode: a node that runs is taken out, and its open connections end.
func TestRemoveNode(t *testing.T) {
	t.Parallel()
	c := startTown(t, 4)
	c.create("s", "b", "c", "d")
	c.create("only", "d")
	if err := c.admin().RemoveNode(within(t), "d", false); !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "only") {
		t.Errorf("remove the only voter of a store: %v", err)
	}
	if err := c.admin().DeleteStore(within(t), "only"); err != nil {
		t.Fatal(err)
	}
	admin := c.nodes["a"].Admin()
	if err := admin.RemoveNode(within(t), "d", false); err != nil {
		t.Fatal(err)
	}
	removed := c.nodes["d"]
	delete(c.nodes, "d")
	defer removed.Kill()
	c.members("s", []string{"b", "c"}, nil)
	wait(t, "d is refused", func() bool { return tryAs(t, removed.Bundle(), c.nodes["a"].Addr()) != nil })
	if err := admin.RemoveNode(within(t), "nobody", false); !errors.Is(err, cluster.ErrNoNode) {
		t.Errorf("remove an unknown node: %v", err)
	}
	c.put("s", "x", "1")

	// It does not answer for the cluster any more once it knows.
	select {
	case <-removed.Done():
	case <-within(t).Done():
		t.Fatal("d does not notice")
	}
	b := *c.nodes["a"].Bundle()
	b.Addrs = []string{removed.Addr()}
	asking, err := cluster.Dial(&b)
	if err != nil {
		t.Fatal(err)
	}
	defer asking.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if s, err := asking.Status(ctx); err == nil {
		t.Errorf("the removed node tells the status as of when it was removed: %v", s)
	}
	var not *kv.NotLeaderError
	if _, err := removed.Member("s"); !errors.As(err, &not) {
		t.Errorf("the removed node serves its stores: %v", err)
	}
}

func TestPreferredLeader(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s")
	for _, want := range []string{"c", "a"} {
		if err := c.admin().SetPreferred(within(t), "s", []string{want}); err != nil {
			t.Fatal(err)
		}
		wait(t, want+" leads", func() bool { id, _ := c.leader("s"); return id == want })
	}
	// It goes away and comes back.
	c.kill("a")
	c.put("s", "x", "1")
	c.start("a")
	wait(t, "a leads again", func() bool { id, _ := c.leader("s"); return id == "a" })
	c.put("s", "x", "2")

	if err := c.admin().SetPreferred(within(t), "s", nil); err != nil {
		t.Fatal(err)
	}
	wait(t, "b leads", func() bool {
		id, _ := c.leader("s")
		if id != "b" { // whoever has not heard yet that nobody is preferred hands back
			if err := c.admin().TransferLeader(within(t), "s", "b"); err != nil {
				t.Fatal(err)
			}
		}
		return id == "b"
	})
	if err := c.admin().SetPreferred(within(t), "s", []string{"nobody"}); !errors.Is(err, cluster.ErrNoNode) {
		t.Errorf("prefer an unknown node: %v", err)
	}
	if err := c.admin().SetPreferred(within(t), "nothing", nil); !errors.Is(err, kv.ErrNoStore) {
		t.Errorf("prefer for an unknown store: %v", err)
	}
}

// TestStores: creation, repetition, deletion under load, and the same name again.
func TestStores(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s")
	if _, err := c.admin().CreateStore(within(t), &clusterpb.CreateStoreRequest{Name: "s"}); !errors.Is(err, cluster.ErrExists) {
		t.Errorf("create twice: %v", err)
	}
	if _, err := c.admin().CreateStore(within(t), &clusterpb.CreateStoreRequest{Name: "s", IfAbsent: true}); err != nil {
		t.Errorf("create if absent: %v", err)
	}
	for _, name := range []string{"", "directory", "No", strings.Repeat("x", 64), "../x"} {
		if _, err := c.admin().CreateStore(within(t), &clusterpb.CreateStoreRequest{Name: name}); !errors.Is(err, cluster.ErrRefused) {
			t.Errorf("create %q: %v", name, err)
		}
	}
	c.put("s", "x", "1")
	c.shows("a", "s", "x", "1") // a quorum can do without a
	before := c.stores("a")
	end := c.load("s")
	_ = end // it ends with the test: the store will be gone
	if err := c.admin().DeleteStore(within(t), "s"); err != nil {
		t.Fatal(err)
	}
	for id := range c.nodes {
		wait(t, "the files go from "+id, func() bool { return len(c.stores(id)) == 1 })
		wait(t, id+" says that the store does not exist", func() bool { // one that may be behind does not
			_, err := c.nodes[id].Member("s")
			return errors.Is(err, kv.ErrNoStore)
		})
	}
	if err := c.admin().DeleteStore(within(t), "s"); !errors.Is(err, kv.ErrNoStore) {
		t.Errorf("delete twice: %v", err)
	}
	c.create("s")
	_, s := c.leader("s")
	err := s.View(within(t), kv.Linearizable, func(r kv.Reader) error { _, err := r.Get("k", []byte("x")); return err })
	if !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("the new store of that name has the old one's content: %v", err)
	}
	c.put("s", "y", "1")
	c.shows("a", "s", "y", "1")
	if slices.Equal(before, c.stores("a")) {
		t.Error("the new store has the group of the old one")
	}
}

// TestLeaverFollows: a node that is leaving hears of the directory's changes until no store has a member on it.
// Otherwise one that leads a store, and was cut off when the directory let it go, would lead on for ever.
func TestLeaverFollows(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s", "b", "c")
	c.put("s", "x", "1")
	c.kill("c")
	c.edit = func(id string, o *cluster.Options) {
		o.Tune = func(store string, o *raftkv.Options) {
			if store == "s" {
				o.Dir = filepath.Join(c.path(id), "node.pem", "no directory")
			}
		}
	}
	c.start("c")
	c.edit = nil
	if err := c.nodes["a"].Admin().RemoveNode(within(t), "b", false); err != nil {
		t.Fatal(err)
	}
	c.members(cluster.Directory, []string{"a", "c"}, []string{"b"}) // s has no quorum, so it cannot let b go
	c.kill("c")
	c.start("c")
	removed := c.nodes["b"]
	delete(c.nodes, "b") // it will be refused
	defer removed.Kill()
	c.members(cluster.Directory, []string{"a", "c"}, nil)
	c.members("s", []string{"c"}, nil)
	select {
	case <-removed.Done():
	case <-within(t).Done():
		t.Fatal("b does not hear that it was removed")
	}
	c.shows("c", "s", "x", "1")
}

// TestQuorumIsKept: no voter goes while the others could not go on without it.
func TestQuorumIsKept(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s", "a", "b", "c")
	c.put("s", "x", "1")
	c.kill("c")
	if err := c.nodes["a"].Admin().RemoveNode(within(t), "b", false); err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{"s", cluster.Directory} {
		wait(t, store+" cannot spare b", func() bool {
			return c.logged("store="+store, "b stays: 1 of the 2 other voters follow")
		})
	}
	c.put("s", "x", "2")
	c.start("c")
	removed := c.nodes["b"]
	delete(c.nodes, "b") // it will be refused
	defer removed.Kill()
	c.members(cluster.Directory, []string{"a", "c"}, nil)
	c.members("s", []string{"a", "c"}, nil)
	c.shows("c", "s", "x", "2")
}
