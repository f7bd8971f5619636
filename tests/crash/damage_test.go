package crash

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

// TestVerifyNotices shows that verify can fail: it runs the load on an ordinary filesystem, where all is
// well, and then damages one thing at a time as a bad crash would.
func TestVerifyNotices(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "load")
	child := harness.GoRole(t, "load", dir, "7")
	harness.WaitFor(t, time.Minute, "the load to get going", func() bool {
		// Entries come and go: only a later one is sure to be seen.
		entries, err := os.ReadDir(filepath.Join(dir, "s0"))
		return err == nil && len(entries) > 0 && entries[len(entries)-1].Name() >= "e0000080"
	})
	child.Tell()
	out, err := child.Wait(noticeLimit)
	if err != nil {
		t.Fatal(err)
	}
	var rec record
	if err := json.Unmarshal([]byte(out), &rec); err != nil {
		t.Fatal(err)
	}
	if rec.Error != "" {
		t.Fatal(rec.Error)
	}
	for _, m := range []map[string]*progress{rec.Files, rec.Replaced, rec.Dirs} {
		for _, p := range m {
			p.Acked = p.Started
		}
	}
	check := func() error { return inspect(dir, 7, rec) }
	if err := check(); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	r, s := filepath.Join(dir, "r0"), filepath.Join(dir, "s0")
	w, content := largest(t, dir, rec)
	at := int64(bytes.IndexFunc(content, func(c rune) bool { return c != 0 })) // not in a hole
	list, err := os.ReadDir(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		damage     func() error
	}{
		{"zeroes", "which it never was", func() error { return overwrite(w, at, []byte{0}) }},
		{"a tail is missing", "which ", func() error { return shorten(w, 1) }},
		{"a file is missing", "no such file", func() error { return os.Remove(w) }},
		{"a torn replacement", "no version", func() error { return shorten(r, 1) }},
		{"an old replacement", "older than", func() error { return os.WriteFile(r, version(7, "r0", max(1, rec.Replaced["r0"].Acked-1)), 0o644) }},
		{"a gap", "earlier ones are not", func() error { return os.RemoveAll(filepath.Join(s, list[len(list)/2].Name())) }},
		{"an old attribute", "not a prefix", func() error { return unix.Setxattr(s, seqAttr, []byte("3"), 0) }},
		{"lost entries", "", func() error { return os.RemoveAll(filepath.Join(s, list[len(list)-1].Name())) }},
	} {
		keep := filepath.Join(t.TempDir(), "keep")
		if out, err := harness.GoShell(t, `cp -a "$1" "$2"`, dir, keep).Wait(noticeLimit); err != nil {
			t.Fatal(err, out)
		}
		if err := c.damage(); err != nil {
			t.Fatal(err)
		}
		if err := check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if out, err := harness.GoShell(t, `rm -r "$1" && cp -a "$2" "$1"`, dir, keep).Wait(noticeLimit); err != nil {
			t.Fatal(err, out)
		}
		if err := check(); err != nil {
			t.Fatalf("undamaged again: %v", err)
		}
	}
}

// largest returns the largest file with a history, and its content.
func largest(t *testing.T, dir string, rec record) (path string, content []byte) {
	t.Helper()
	for name := range rec.Files {
		p, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if len(p) > len(content) {
			path, content = filepath.Join(dir, name), p
		}
	}
	return path, content
}

func overwrite(path string, off int64, p []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(p, off)
	return err
}

func shorten(path string, n int64) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, fi.Size()-n)
}
