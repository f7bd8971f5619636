package main_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/cluster/identity"
)

var nodeReady = regexp.MustCompile(`(?m)^ready: node=(\S+) listen=(\S+) cluster=([0-9a-f]{32})$`)

// nodeProcess is a running `gabion node`.
type nodeProcess struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    lockedBuffer
	ended  chan struct{} // closed when the process has ended
	listen string        // of the ready line
}

// startNode starts `gabion node` on dir and waits for its ready line. It is killed at the end of the test at
// the latest.
func startNode(t *testing.T, dir string, args ...string) *nodeProcess {
	t.Helper()
	n := &nodeProcess{t: t, ended: make(chan struct{})}
	n.cmd = exec.Command(binary, append([]string{"node", "--data", dir, "--listen", "127.0.0.1:0"}, args...)...)
	n.cmd.Dir, n.cmd.Env = t.TempDir(), environment()
	n.cmd.Stdout, n.cmd.Stderr = &n.out, &n.out
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(n.ended)
		n.cmd.Wait()
	}()
	t.Cleanup(func() {
		n.cmd.Process.Kill()
		<-n.ended
		if t.Failed() {
			t.Logf("gabion node printed:\n%s", n.out.String())
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if m := nodeReady.FindStringSubmatch(n.out.String()); m != nil {
			n.listen = m[2]
			return n
		}
		select {
		case <-n.ended:
			t.Fatalf("gabion node has ended: %v\n%s", n.cmd.ProcessState, n.out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready within %v\n%s", patience, n.out.String())
		}
	}
}

// exits waits for the node's end, and wants that exit code.
func (n *nodeProcess) exits(want int) {
	n.t.Helper()
	select {
	case <-n.ended:
	case <-time.After(patience):
		n.t.Fatalf("the node does not stop\n%s", n.out.String())
	}
	if code := n.cmd.ProcessState.ExitCode(); code != want {
		n.t.Fatalf("exit code %d, want %d\n%s", code, want, n.out.String())
	}
}

// runNode is startNode, for those who need no more than where the node listens, and its end.
func runNode(t *testing.T, dir string, args ...string) (listen string, stop func()) {
	t.Helper()
	n := startNode(t, dir, args...)
	return n.listen, n.stop
}

// stop ends the node as an operator does, and wants a clean end.
func (n *nodeProcess) stop() {
	n.t.Helper()
	n.cmd.Process.Signal(syscall.SIGTERM)
	n.exits(0)
}

// TestClusterCommands begins a cluster with one node, and does everything to it that one node allows.
func TestClusterCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, bundle := filepath.Join(dir, "n1"), filepath.Join(dir, "app.pem")
	gabion(t, "cluster", "init", "--data", n1, "--listen", "127.0.0.1:0", "--id", "anna").want(t, 0, "made cluster", "anna", "gabion node --data "+n1)
	gabion(t, "cluster", "init", "--data", n1, "--listen", "127.0.0.1:0").want(t, 1, "holds a node already")
	gabion(t, "node", "--data", n1, "--listen", "127.0.0.1:0", "--id", "bert").want(t, 1, "is the directory of node anna, not of bert")
	listen, stop := runNode(t, n1)

	run := func(args ...string) result { return gabion(t, append(args, "--data", n1)...) }
	run("cluster", "store", "list").want(t, 0, "no stores yet")
	run("cluster", "store", "create", "app").want(t, 0, "created store app")
	run("cluster", "store", "create", "app").want(t, 1, "exists", "--if-absent")
	run("cluster", "store", "create", "app", "--if-absent").want(t, 0)
	run("cluster", "store", "create", "Big").want(t, 1, "allowed are small letters")
	run("cluster", "store", "create", "x", "--voter", "zoe").want(t, 1, "zoe")
	run("cluster", "store", "list").want(t, 0, "app", "anna", "leader")
	run("cluster", "store", "members", "app").want(t, 0, "anna", "leader")
	run("cluster", "store", "members", "none").want(t, 1, "no such store", "store list")
	run("cluster", "status").want(t, 0, "ok", "anna", listen, "directory", "app")
	var status struct {
		Health string
		Nodes  []struct{ ID, Address string }
		Stores []struct {
			Name, Leader string
			Members      []struct{ Node, Health string }
		}
	}
	if r := run("cluster", "status", "--json"); json.Unmarshal([]byte(r.out), &status) != nil || status.Health != "ok" || len(status.Nodes) != 1 ||
		len(status.Stores) != 2 || status.Stores[1].Name != "app" || status.Stores[1].Leader != "anna" || status.Stores[1].Members[0].Health != "ok" {
		t.Errorf("status --json: %s%s", r.out, r.err)
	}
	run("cluster", "preferred", "app", "anna").want(t, 0, "prefers to be led by anna")
	run("cluster", "preferred", "app", "--none").want(t, 0)
	run("cluster", "preferred", "none", "anna").want(t, 1, "no such store")
	run("cluster", "transfer-leader", "app", "anna").want(t, 0, "leads app already")
	run("cluster", "transfer-leader", "none").want(t, 1, "no such store")
	run("cluster", "add", "zoe").want(t, 1, "no such node", "cluster token")
	run("cluster", "remove", "zoe").want(t, 1, "no such node")
	run("cluster", "replace", "zoe", "anna").want(t, 1, "no such node")

	run("cluster", "client", "app", bundle).want(t, 0, "wrote")
	run("cluster", "client", "app", bundle).want(t, 1, "exists")
	if info, err := os.Stat(bundle); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the client's file: %v %v", info, err)
	}
	gabion(t, "cluster", "store", "create", "mine", "--cluster", bundle).want(t, 1, "permission denied", "--admin")
	gabion(t, "cluster", "clients", "--cluster", bundle).want(t, 1, "permission denied", "--admin")
	var clients []struct {
		Name            string
		Admin           bool
		Files           int
		Issued, Revoked *time.Time
	}
	if r := run("cluster", "clients", "--json"); json.Unmarshal([]byte(r.out), &clients) != nil || len(clients) != 1 ||
		clients[0].Name != "app" || clients[0].Admin || clients[0].Files != 1 || clients[0].Issued == nil || clients[0].Revoked != nil {
		t.Errorf("clients --json: %s%s", r.out, r.err)
	}
	gabion(t, "kv", "get", "k", "--cluster", bundle).want(t, 2, "give --store with one of app")
	gabion(t, "kv", "get", "k", "--cluster", bundle, "--store", "none", "--timeout", "5s").want(t, 1, "no such store")
	gabion(t, "kv", "get", "k", "--cluster", filepath.Join(dir, "none"), "--store", "app").want(t, 1, "does not exist")
	gabion(t, "kv", "get", "k", "--data", n1).want(t, 1, "--cluster "+n1)
	gabion(t, "up", "--data", n1, anyPort).want(t, 1, "not a gabion data directory")

	kvCommands(t, func(in string, args ...string) result {
		t.Helper()
		return gabionIn(t, in, append(args, "--cluster", bundle, "--store", "app")...)
	})
	app := func(args ...string) result { return gabion(t, append(args, "--cluster", n1, "--store", "app")...) }
	app("kv", "call", "increment", "n 41").want(t, 0, "41")
	app("kv", "call", "increment", "n").want(t, 0, "42")
	app("kv", "call", "increment", "n much").want(t, 1, "not a whole number")
	app("kv", "call", "decrement", "n").want(t, 1, "no such procedure")
	app("kv", "set", "-s", "any", "k", "v").want(t, 0) // no filesystem is there
	app("kv", "get", "n", "--level", "stale").want(t, 0, "42")
	var set struct{ Index uint64 }
	if r := app("kv", "set", "k", "v", "--json"); json.Unmarshal([]byte(r.out), &set) != nil || set.Index == 0 {
		t.Errorf("set --json: %s%s", r.out, r.err)
	}
	file := filepath.Join(dir, "backup")
	app("kv", "backup", file).want(t, 0, "wrote")
	app("kv", "restore", file).want(t, 1, "not empty")
	run("cluster", "store", "create", "copy").want(t, 0)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut")
	if err := os.WriteFile(cut, raw[:len(raw)-9], 0o600); err != nil {
		t.Fatal(err)
	}
	gabion(t, "kv", "restore", cut, "--cluster", n1, "--store", "copy").want(t, 1, "nothing was restored")
	gabion(t, "kv", "restore", file, "--cluster", n1, "--store", "copy").want(t, 0, "restored")
	gabion(t, "kv", "get", "n", "--cluster", n1, "--store", "copy").want(t, 0, "42")
	run("cluster", "store", "delete", "copy", "--yes").want(t, 0)
	gabion(t, "kv", "get", "n", "--cluster", n1, "--store", "copy", "--timeout", "5s").want(t, 1, "no such store")

	run("cluster", "revoke", "ap").want(t, 1, "no such client", "cluster clients")
	run("cluster", "revoke", "app").want(t, 0, "revoked client app")
	run("cluster", "revoke", "app").want(t, 0)
	run("cluster", "clients").want(t, 0, "app", "UTC")
	run("cluster", "client", "app", filepath.Join(dir, "again.pem")).want(t, 1, "was revoked")
	gabion(t, "kv", "get", "n", "--cluster", bundle, "--store", "app", "--timeout", "2s").want(t, 1, "refuses", "revoked")
	gabion(t, "cluster", "status", "--cluster", bundle).want(t, 1, "revoked", "gabion cluster client")
	app("kv", "get", "n").want(t, 0, "42")

	stop()
	gabion(t, "kv", "set", "k", "v", "--cluster", n1, "--store", "app", "--timeout", "1s").want(t, 1, "no quorum")
	gabion(t, "cluster", "status", "--data", n1, "--timeout", "1s").want(t, 1, "are the nodes running")
	_, stop = runNode(t, n1)
	app("kv", "get", "n").want(t, 0, "42")
	stop()
}

// TestNodeRefusals are starts of nodes that cannot be.
func TestNodeRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gabion(t, "node", "--data", filepath.Join(dir, "new"), "--listen", "127.0.0.1:0").want(t, 1, "needs a token", "gabion cluster token")
	gabion(t, "node", "--data", filepath.Join(dir, "new"), "--listen", "127.0.0.1:0", "--token", "nonsense").want(t, 1, "does not make sense")
	gabion(t, "node", "--data", filepath.Join(dir, "new"), "--listen", "127.0.0.1:0", "--token-file", filepath.Join(dir, "none")).want(t, 1, "no such file")
	foreign := filepath.Join(dir, "foreign")
	if err := os.MkdirAll(filepath.Join(foreign, "thesis"), 0o755); err != nil {
		t.Fatal(err)
	}
	gabion(t, "node", "--data", foreign, "--listen", "127.0.0.1:0").want(t, 1, "is not empty", "thesis")
	gabion(t, "cluster", "init", "--data", foreign, "--listen", "127.0.0.1:0").want(t, 1, "is not empty")
	gabion(t, "cluster", "status", "--data", foreign).want(t, 1, "is not the directory of a node", "gabion cluster init")
	gabion(t, "cluster", "status", "--data", filepath.Join(dir, "none")).want(t, 1, "does not exist")

	n1 := filepath.Join(dir, "n1")
	gabion(t, "cluster", "init", "--data", n1, "--listen", "127.0.0.1:0", "--id", "anna").want(t, 0)
	_, stop := runNode(t, n1)
	r := gabion(t, "cluster", "token", "--data", n1)
	r.want(t, 0)
	if !strings.Contains(r.err, "one node") || !strings.Contains(r.err, "1h00m") {
		t.Errorf("what the token is good for: %q", r.err)
	}
	token, n2 := strings.TrimSpace(r.out), filepath.Join(dir, "n2")
	join := func(token string, args ...string) result {
		return gabion(t, append([]string{"node", "--data", n2, "--listen", "127.0.0.1:0", "--token", token}, args...)...)
	}
	join(token, "--id", "anna").want(t, 1, "exists", "--id")
	short := strings.TrimSpace(gabion(t, "cluster", "token", "--data", n1, "--ttl", "1s").out)
	time.Sleep(2 * time.Second) // until it has expired
	join(short).want(t, 1, "it expired at", "gabion cluster token")
	used := strings.TrimSpace(gabion(t, "cluster", "token", "--data", n1).out)
	join(short).want(t, 1, "does not know it", "gabion cluster token") // it was forgotten when another was made
	_, stopOther := runNode(t, filepath.Join(dir, "n3"), "--token", used, "--id", "carl")
	join(used).want(t, 1, "as often as it may be", "gabion cluster token", "--uses")
	stopOther()
	stop()

	// The address that the token names is another cluster's by now.
	other := filepath.Join(dir, "other")
	gabion(t, "cluster", "init", "--data", other, "--listen", "127.0.0.1:0").want(t, 0)
	away, stopAway := runNode(t, other)
	foreigner, err := identity.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	foreigner.Addrs = []string{away}
	join(foreigner.String()).want(t, 1, "another cluster", "gabion cluster token", "--join")
	stopAway()

	// The state of the directory store is damaged.
	log := filepath.Join(n1, "stores", "directory")
	damaged := false
	err = filepath.WalkDir(log, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil || len(raw) < 64 {
			return err
		}
		for i := range raw {
			raw[i] ^= 0xff
		}
		damaged = true
		return os.WriteFile(path, raw, 0o600)
	})
	if err != nil || !damaged {
		t.Fatalf("nothing to damage in %s: %v", log, err)
	}
	gabion(t, "node", "--data", n1, "--listen", "127.0.0.1:0").want(t, 1, "cluster replace anna")
	if err := os.WriteFile(filepath.Join(n1, "node.pem"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	gabion(t, "node", "--data", n1, "--listen", "127.0.0.1:0").want(t, 1, "identity cannot be read", "cluster replace")
}

// TestNodeRemoved: a node that the cluster has removed ends by itself, says what to do, and leaves its directory.
func TestNodeRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, n2 := filepath.Join(dir, "n1"), filepath.Join(dir, "n2")
	gabion(t, "cluster", "init", "--data", n1, "--listen", "127.0.0.1:0", "--id", "anna").want(t, 0)
	anna := startNode(t, n1)
	token := strings.TrimSpace(gabion(t, "cluster", "token", "--data", n1).out)
	bert := startNode(t, n2, "--token", token, "--id", "bert")
	gabion(t, "cluster", "store", "create", "app", "--data", n1, "--timeout", "2m").want(t, 0)
	gabion(t, "kv", "set", "k", "v", "--cluster", n1, "--store", "app", "--timeout", "2m").want(t, 0)
	gabion(t, "cluster", "remove", "bert", "--data", n1, "--timeout", "2m").want(t, 0, "removed bert")
	gone := func(n *nodeProcess) {
		t.Helper()
		n.exits(5)
		for _, text := range []string{"node bert was removed from cluster", n2, "gabion cluster token", "--id"} {
			if !strings.Contains(n.out.String(), text) {
				t.Errorf("the removed node does not say %q:\n%s", text, n.out.String())
			}
		}
		for _, name := range []string{"node.pem", "stores/directory"} {
			if _, err := os.Stat(filepath.Join(n2, name)); err != nil {
				t.Errorf("in the directory of the removed node: %v", err)
			}
		}
	}
	gone(bert)
	gone(startNode(t, n2)) // as a service unit does
	gabion(t, "kv", "get", "k", "--cluster", n1, "--store", "app").want(t, 0, "v")
	anna.cmd.Process.Signal(syscall.SIGTERM)
	anna.exits(0)
}

// TestUpRevoked: a filesystem whose client is revoked ends by itself and says what to do, and so do those that ask
// about it and another start.
func TestUpRevoked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, data, file := filepath.Join(dir, "n1"), filepath.Join(dir, "data"), filepath.Join(dir, "app.pem")
	gabion(t, "cluster", "init", "--data", n1, "--listen", "127.0.0.1:0", "--id", "anna").want(t, 0)
	anna := startNode(t, n1)
	gabion(t, "cluster", "store", "create", "app", "--data", n1, "--timeout", "2m").want(t, 0)
	gabion(t, "cluster", "client", "app", file, "--data", n1).want(t, 0)
	p := up(t, "--data", data, anyPort, "--asds", "1", "--cluster", file, "--store", "app")
	gabion(t, "cluster", "revoke", "app", "--data", n1, "--timeout", "2m").want(t, 0)
	<-p.ended
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	p.says("it was revoked: make a file of another client")
	gabion(t, "status", "--data", data).want(t, 1, "it was revoked", "gabion cluster client")
	gabion(t, "up", "--data", data, anyPort).want(t, 1, "it was revoked", "--cluster FILE")
	gabion(t, "cluster", "client", "next", file+".2", "--data", n1).want(t, 0)
	up(t, "--data", data, anyPort, "--cluster", file+".2").stop()
	anna.cmd.Process.Signal(syscall.SIGTERM)
	anna.exits(0)
}

// TestBundleFollows: the copy of its bundle that a filesystem keeps names the nodes that come, and their new
// addresses, so that it leads to the cluster when those are gone that it was made with.
func TestBundleFollows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, n2, data, file := filepath.Join(dir, "n1"), filepath.Join(dir, "n2"), filepath.Join(dir, "data"), filepath.Join(dir, "app.pem")
	gabion(t, "cluster", "init", "--data", n1, "--listen", "127.0.0.1:0", "--id", "anna").want(t, 0)
	anna := startNode(t, n1)
	gabion(t, "cluster", "store", "create", "app", "--data", n1, "--timeout", "2m").want(t, 0)
	gabion(t, "cluster", "client", "app", file, "--data", n1).want(t, 0)
	before, err := identity.ReadBundle(file)
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(gabion(t, "cluster", "token", "--data", n1).out)
	bert := startNode(t, n2, "--token", token, "--id", "bert")
	p := up(t, "--data", data, anyPort, "--asds", "3", "--cluster", file, "--store", "app")
	leadsTo := func(nodes ...*nodeProcess) {
		t.Helper()
		want := []string{}
		for _, n := range nodes {
			want = append(want, n.listen)
		}
		slices.Sort(want)
		copied := filepath.Join(data, "cluster.pem")
		for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			b, err := identity.ReadBundle(copied)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Cert.Leaf.Raw, before.Cert.Leaf.Raw) {
				t.Fatal("the copy is of somebody else")
			}
			if slices.Sort(b.Addrs); slices.Equal(b.Addrs, want) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the copy leads to %v, the nodes are at %v", b.Addrs, want)
			}
		}
		if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the copy: %v %v", info, err)
		}
	}
	leadsTo(anna, bert)
	bert.cmd.Process.Signal(syscall.SIGTERM)
	bert.exits(0)
	bert = startNode(t, n2) // at another port
	leadsTo(anna, bert)
	p.stop()
}
