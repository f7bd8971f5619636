package main_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestServerHearsOfRevoked revokes a client of disks that are served by a process that is no node.
func TestServerHearsOfRevoked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, bundle := filepath.Join(dir, "n1"), filepath.Join(dir, "fs.pem")
	gabion(t, "cluster", "init", "--data", n1, "--listen", "127.0.0.1:0", "--id", "anna").want(t, 0)
	n := startNode(t, n1)
	gabion(t, "cluster", "client", "fs", bundle, "--data", n1).want(t, 0)

	var out lockedBuffer
	serve := exec.Command(binary, "asd", "serve", "--dir", filepath.Join(dir, "d1"), "--listen", "127.0.0.1:0", "--identity", n1)
	serve.Stdout, serve.Stderr = &out, &out
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		serve.Process.Kill()
		serve.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	ready := regexp.MustCompile(`(?m)^ready: asd=(\S+) `)
	await := func(what string, cond func() bool) {
		t.Helper()
		for end := time.Now().Add(patience + time.Minute); !cond(); time.Sleep(500 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain for %s", what)
			}
		}
	}
	var m []string
	await("the server", func() bool { m = ready.FindStringSubmatch(out.String()); return m != nil })
	show := func(as string) int { return gabion(t, "asd", "show", "asd://"+m[1], "--identity", as).code }
	if show(bundle) != 0 {
		t.Fatal("the client is refused before it was revoked")
	}
	gabion(t, "cluster", "revoke", "fs", "--data", n1).want(t, 0)
	await("the client to be refused", func() bool { return show(bundle) != 0 })
	if show(n1) != 0 {
		t.Error("the node is refused, too")
	}
	n.stop()
}
