package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

var nodeReady = regexp.MustCompile(`(?m)^ready: node=(\S+) listen=(\S+) cluster=([0-9a-f]{32})$`)

// runNode starts `gabion node` on dir and waits for its ready line. It is stopped at the end of the test
// at the latest. stop ends it as an operator does, and wants a clean end.
func runNode(t *testing.T, dir string, args ...string) (listen string, stop func()) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"node", "--data", dir, "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Dir, cmd.Env = t.TempDir(), environment()
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("gabion node printed:\n%s", out.String())
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if m := nodeReady.FindStringSubmatch(out.String()); m != nil {
			listen = m[2]
			break
		}
		select {
		case <-ended:
			t.Fatalf("gabion node has ended: %v\n%s", cmd.ProcessState, out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready within %v\n%s", patience, out.String())
		}
	}
	return listen, func() {
		t.Helper()
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatalf("the node does not stop\n%s", out.String())
		}
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Fatalf("exit code %d after SIGTERM\n%s", code, out.String())
		}
	}
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
	token := strings.TrimSpace(gabion(t, "cluster", "token", "--data", n1).out)
	gabion(t, "node", "--data", filepath.Join(dir, "n2"), "--listen", "127.0.0.1:0", "--id", "anna", "--token", token).want(t, 1, "exists", "--id")
	stop()

	// The state of the directory store is damaged.
	log := filepath.Join(n1, "stores", "directory")
	damaged := false
	err := filepath.WalkDir(log, func(path string, d os.DirEntry, err error) error {
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
