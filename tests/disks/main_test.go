package disks

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

func TestMain(m *testing.M) {
	harness.Main(m, map[string]harness.Role{"watch": watch, "churn": churn})
}

const (
	copyLimit = 2 * time.Minute
	sumLimit  = 2 * time.Minute
)

// fill makes a tree of about the given bytes outside, copies it to name in the mount and returns its sum.
func fill(t *testing.T, g *harness.Gabion, seed uint64, name string, bytes int64) string {
	t.Helper()
	src := filepath.Join(t.TempDir(), name)
	harness.Tree(t, src, harness.Rand(seed, name), bytes)
	want := harness.SumNative(t, src)
	g.Shell(copyLimit, `cp -a "$1" "$2"`, src, g.Path(name))
	if err := os.RemoveAll(src); err != nil {
		t.Fatal(err)
	}
	return want
}

// unchanged wants the tree name in the mount to have its sum, read from gabion and not from the kernel's cache.
func unchanged(t *testing.T, g *harness.Gabion, when, name, want string) {
	t.Helper()
	harness.Same(t, when, g.Sum(g.Path(name), sumLimit), want)
	if t.Failed() {
		t.FailNow()
	}
}

// copyDir copies a data directory on which nothing runs.
func copyDir(t *testing.T, src, dst string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--reflink=auto", src, dst).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}

func asd(data string, n int) string { return filepath.Join(data, fmt.Sprintf("asd-%02d", n)) }

// states counts the disks by state.
func states(s harness.Status) map[string]int {
	m := make(map[string]int)
	for _, d := range s.Disks {
		m[d.State]++
	}
	return m
}

// removeAll removes a folder in which a process makes files at the same time.
func removeAll(t *testing.T, dir string) {
	t.Helper()
	harness.WaitFor(t, 2*time.Minute, dir+" to be gone", func() bool {
		_ = os.RemoveAll(dir)
		_, err := os.Lstat(dir)
		return errors.Is(err, os.ErrNotExist)
	})
}
