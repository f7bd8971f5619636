package arch

import (
	"bytes"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const maxLines = 500 // of a file that is neither generated nor a test

var leftOpen = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)

// sources calls fn with every Go file of the module.
func sources(t *testing.T, fn func(path string, src []byte)) {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	root := strings.TrimSpace(string(out))
	n := 0
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "gabion-data" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() || filepath.Ext(path) != ".go" {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		n++
		fn(rel, src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 10 {
		t.Fatalf("found only %d Go files under %s", n, root)
	}
}

func generated(src []byte) bool {
	head, _, _ := bytes.Cut(src, []byte("\npackage "))
	return bytes.Contains(head, []byte("DO NOT EDIT."))
}

func TestFilesAreShortAndFormatted(t *testing.T) {
	sources(t, func(path string, src []byte) {
		if generated(src) {
			return
		}
		if n := bytes.Count(src, []byte("\n")); n > maxLines && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s has %d lines, %d are allowed: split it after the nouns it holds", path, n, maxLines)
		}
		if f, err := format.Source(src); err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.Equal(f, src) {
			t.Errorf("%s is not gofmt-ed", path)
		}
		if m := leftOpen.Find(src); m != nil && path != filepath.Join("tests", "arch", "files_test.go") {
			t.Errorf("%s leaves a %s open", path, m)
		}
	})
}
