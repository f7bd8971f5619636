package fsx

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

func TestMain(m *testing.M) {
	harness.Main(m, map[string]harness.Role{"fsx": run})
}

// TestFsx runs random operations in phases. Between them gabion is stopped and started, or killed after a
// sync, and everything must be as the model has it.
func TestFsx(t *testing.T) {
	seed := harness.Seed(t)
	r := harness.Rand(seed, t.Name())
	model := t.TempDir()
	g := harness.Start(t, harness.Options{})
	phases, ops := harness.Scale(4, 40), harness.Scale(1000, 20_000)
	for phase := range phases {
		sync := r.IntN(2) == 0
		t.Logf("phase %d: %s", phase, strings.TrimSpace(g.Role(10*time.Minute, "fsx",
			g.Mount, model, strconv.FormatUint(seed, 10), strconv.Itoa(phase), strconv.Itoa(ops), strconv.FormatBool(sync))))
		if sync {
			g.Kill()
			g.Up()
		} else {
			g.Restart()
		}
	}
	t.Log(g.Role(10*time.Minute, "fsx", g.Mount, model, strconv.FormatUint(seed, 10), strconv.Itoa(phases), "0", "false"))
	g.Clean()
	g.Stop()
}

// TestFsxNotices shows that the comparison can fail: it runs on an ordinary filesystem, changes a byte and
// runs again.
func TestFsxNotices(t *testing.T) {
	dir, model := t.TempDir(), t.TempDir()
	once := func(phase string) (string, error) {
		return harness.GoRole(t, "fsx", dir, model, "1", phase, "150", "false").Wait(time.Minute)
	}
	if out, err := once("0"); err != nil {
		t.Fatalf("on an ordinary filesystem: %v\n%s", err, out)
	}
	victim := filepath.Join(dir, "0-a")
	p, err := os.ReadFile(victim)
	if err != nil || len(p) == 0 {
		t.Fatal(len(p), err)
	}
	p[len(p)/2]++
	if err := os.WriteFile(victim, p, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := once("1"); err == nil || !strings.Contains(err.Error(), "0-a: byte "+strconv.Itoa(len(p)/2)) {
		t.Errorf("with a byte changed: %v", err)
	}
}
