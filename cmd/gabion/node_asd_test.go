package main_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestNodeServesDisks runs a filesystem on the disks of a node, behind the same listener as its stores. Unlike a
// process that only serves disks, a node knows who was revoked.
func TestNodeServesDisks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n1, bundle, data := filepath.Join(dir, "n1"), filepath.Join(dir, "fs.pem"), filepath.Join(dir, "data")
	gabion(t, "cluster", "init", "--data", n1, "--listen", "127.0.0.1:0", "--id", "anna").want(t, 0)
	args := []string{}
	for _, d := range []string{"d1", "d2", "d3"} {
		args = append(args, "--asd", filepath.Join(dir, d))
	}
	gabion(t, append([]string{"node", "--data", n1, "--listen", "127.0.0.1:0", "--asd", filepath.Join(dir, "d2")}, args...)...).
		want(t, 2, "is given twice")
	n := startNode(t, n1, args...)
	if got := strings.Count(n.out.String(), ": unclaimed\n"); got != 3 {
		t.Errorf("%d disks are announced:\n%s", got, n.out.String())
	}
	gabion(t, "cluster", "client", "fs", bundle, "--data", n1).want(t, 0)
	p := up(t, "--data", data, "--dav", "127.0.0.1:0", "--asd", "asd://"+n.listen, "--identity", bundle)
	sh(t, `seq 100000 | curl -sfT - "$1f"; test "$(curl -sf "$1f" | tail -n 1)" = 100000`, p.dav)
	p.stop()
	if r := gabion(t, "asd", "show", "asd://"+n.listen, "--identity", bundle); strings.Count(r.out, "ready") != 3 {
		t.Errorf("asd show: %s%s", r.out, r.err)
	}
	gabion(t, "cluster", "revoke", "fs", "--data", n1).want(t, 0)
	gabion(t, "asd", "show", "asd://"+n.listen, "--identity", bundle).want(t, 1)
	gabion(t, "asd", "show", "asd://"+n.listen, "--identity", n1).want(t, 0, "ready")
	n.stop()
}
