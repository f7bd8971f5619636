package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/tests/harness"
)

// TestCluster runs three nodes, kills the one that leads while clients write, goes on, puts a new node in
// its place, and compares the members and a backup.
func TestCluster(t *testing.T) {
	c := harness.StartNodes(t, 3)
	out := c.Command("cluster", "status")
	for _, want := range []string{"ok\n", "n1", "n2", "n3", "directory", "leader", "voter"} {
		if !strings.Contains(out, want) {
			t.Errorf("the status does not say %q:\n%s", want, out)
		}
	}
	c.Command("cluster", "store", "create", "app")
	c.Command("kv", "--store", "app", "set", "colour", "blue")
	if got := c.Command("kv", "--store", "app", "get", "colour"); got != "blue\n" {
		t.Fatalf("get: %q", got)
	}

	w := startWriters(t, c.Bundle, "app", 4)
	w.wait(t, 50)
	dead := c.Leader("app")
	dead.Kill()
	w.wait(t, 200) // under another leader, in part
	if next := c.Leader("app"); next.ID == dead.ID {
		t.Fatalf("%s leads though it was killed", dead.ID)
	}
	if _, code := c.Try("cluster", "status"); code != 3 {
		t.Errorf("with a dead node the status exits with %d, want 3 for degraded", code)
	}
	c.Join("n4")
	c.Command("cluster", "replace", dead.ID, "n4", "--timeout", "3m")
	w.wait(t, 50)
	acked := w.stop(t)
	harness.WaitFor(t, time.Minute, "the cluster to be ok", func() bool {
		_, code := c.Try("cluster", "status")
		return code == 0
	})
	checkAcked(t, c, "app", acked)
	if out := c.Command("kv", "--store", "app", "verify"); strings.Count(out, "\n") != 4 || !strings.Contains(out, "n4") {
		t.Errorf("three members should have been compared:\n%s", out)
	}

	// Lead goes where it is told to.
	c.Command("cluster", "transfer-leader", "app", "n4")
	if l := c.Leader("app"); l.ID != "n4" {
		t.Errorf("%s leads after a transfer to n4", l.ID)
	}
	file := filepath.Join(t.TempDir(), "backup")
	c.Command("kv", "--store", "app", "backup", file)
	c.Command("cluster", "store", "create", "copy")
	c.Command("kv", "--store", "copy", "restore", file)
	checkAcked(t, c, "copy", acked)
	if _, stderr, code := c.Full("", "kv", "--store", "copy", "restore", file); code != 1 || !strings.Contains(stderr, "not empty") {
		t.Errorf("restore over a store that is in use: %d, %s", code, stderr)
	}
	for _, id := range []string{"n1", "n2", "n3", "n4"} {
		if n := c.Node(id); n.Running() {
			n.Stop()
		}
	}
}

// writers write keys of their own, each the next after the one before was acknowledged.
type writers struct {
	client *kvrpc.Client
	cancel context.CancelFunc
	count  atomic.Int64 // acknowledged by all
	done   chan int     // one number for each: how many of its keys were acknowledged
	n      int
	failed atomic.Pointer[error]
}

func writerKey(writer, i int) string { return fmt.Sprintf("w%d/%06d", writer, i) }

func startWriters(t *testing.T, bundle, store string, n int) *writers {
	t.Helper()
	b, err := cluster.LoadBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	client, err := kvrpc.Dial(ctx, kvrpc.ClientOptions{Addrs: b.Addrs, TLS: b.ClientConfig("", "h2")})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	w := &writers{client: client, cancel: cancel, done: make(chan int, n), n: n}
	t.Cleanup(func() { cancel(); client.Close() })
	s := client.Store(store)
	for i := range n {
		go func() {
			acked := 0
			for ; ctx.Err() == nil; acked++ {
				if err := s.Set(ctx, kv.Durable, "user", []byte(writerKey(i, acked)), fmt.Appendf(nil, "value %d", acked)); err != nil {
					if ctx.Err() == nil {
						w.failed.Store(&err)
					}
					break
				}
				w.count.Add(1)
			}
			w.done <- acked<<8 | i
		}()
	}
	return w
}

// wait waits for so many more acknowledged writes.
func (w *writers) wait(t *testing.T, more int64) {
	t.Helper()
	until := w.count.Load() + more
	harness.WaitFor(t, 2*time.Minute, fmt.Sprintf("%d acknowledged writes", until), func() bool {
		if err := w.failed.Load(); err != nil {
			t.Fatalf("a write failed: %v", *err)
		}
		return w.count.Load() >= until
	})
}

// stop ends the writers and returns how many keys of each were acknowledged.
func (w *writers) stop(t *testing.T) []int {
	t.Helper()
	w.cancel()
	acked := make([]int, w.n)
	for range w.n {
		v := <-w.done
		acked[v&0xff] = v >> 8
	}
	if err := w.failed.Load(); err != nil {
		t.Fatalf("a write failed: %v", *err)
	}
	return acked
}

// checkAcked wants every acknowledged write in the store, and at most one more of each writer.
func checkAcked(t *testing.T, c *harness.Nodes, store string, acked []int) {
	t.Helper()
	got := make(map[string]string)
	for d := json.NewDecoder(strings.NewReader(c.Command("kv", "--store", store, "range", "--prefix", "w", "--json"))); d.More(); {
		var p struct{ Key, Value []byte }
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		got[string(p.Key)] = string(p.Value)
	}
	total := 0
	for w, n := range acked {
		total += n
		for i := range n {
			if got[writerKey(w, i)] != fmt.Sprintf("value %d", i) {
				t.Fatalf("store %s: %s was acknowledged and is %q", store, writerKey(w, i), got[writerKey(w, i)])
			}
		}
	}
	if len(got) < total || len(got) > total+len(acked) {
		t.Errorf("store %s has %d keys, %d were acknowledged", store, len(got), total)
	}
}

// TestFilesystemOnCluster mounts a filesystem whose metadata is on a cluster, and kills the leader while a
// tree is copied in.
func TestFilesystemOnCluster(t *testing.T) {
	harness.NeedMount(t)
	c := harness.StartNodes(t, 3)
	c.Command("cluster", "store", "create", "home")
	bundle := filepath.Join(t.TempDir(), "home.pem")
	c.Command("cluster", "client", "home", bundle)

	g := harness.New(t, harness.Options{ASDs: 3, Args: []string{"--cluster", bundle, "--store", "home"}})
	g.Up()
	src := filepath.Join(t.TempDir(), "src")
	g.Shell(limit, `mkdir "$1"; cp -r "$2" "$3" "$1"`, src, goroot(t, "net"), goroot(t, "encoding"))
	want := harness.SumNative(t, src)

	// A second user of the store is refused, and leaves nothing behind.
	other := filepath.Join(t.TempDir(), "other")
	if _, stderr, code := c.Full("", "up", "--data", other, "--dav", "127.0.0.1:0", "--cluster", bundle, "--store", "home", "--steal"); code != 1 || !strings.Contains(stderr, "holds the filesystem of another data directory") {
		t.Errorf("a second user of the store: exit code %d, %s", code, stderr)
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("it made a data directory all the same")
	}
	if _, stderr, code := c.Full("", "kv", "--store", "home", "set", "k", "v"); code != 1 || !strings.Contains(stderr, "holds the store") {
		t.Errorf("a write beside the filesystem: exit code %d, %s", code, stderr)
	}

	cp := harness.GoShell(t, `cp -a "$1" "$2"; sync`, src, g.Path("tree"))
	copied := g.Path("tree")
	harness.WaitFor(t, time.Minute, "the copy to begin", func() bool {
		out, code := c.Try("kv", "--store", "home", "count", "-s", "inode")
		n := 0
		fmt.Sscan(out, &n)
		return code == 0 && n > 20
	})
	dead := c.Leader("home")
	dead.Kill()
	g.Finish(cp, limit)
	harness.Same(t, "after the leader was killed", g.Sum(copied, limit), want)
	g.Clean()
	if out, _, code := g.Command("status"); code != 3 || !strings.Contains(out, "node "+dead.ID+" does not serve store home") {
		t.Errorf("the status does not tell of the dead member, exit code %d:\n%s", code, out)
	}
	dead.Start()

	// A crash of ours: what was synced is there again, at once.
	g.Kill()
	g.Up()
	harness.Same(t, "after a crash", g.Sum(copied, limit), want)
	g.Stop()
	// Without a process, the commands open the store themselves; the data directory knows where it is.
	if out, stderr, code := g.Command("fsck"); code != 0 || !strings.HasPrefix(out, "clean") {
		t.Errorf("fsck of a stopped filesystem: %d\n%s%s", code, out, stderr)
	}
}
