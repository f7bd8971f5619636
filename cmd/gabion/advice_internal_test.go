package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/remote"
)

// TestAdvice: an error that does not say what to do gets to, and one that does keeps its words.
func TestAdvice(t *testing.T) {
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "format"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := &env{lookup: func(string) string { return "" }}
	damage := &kv.CorruptError{What: "kv/format", Err: errors.New("it is empty")}
	for _, c := range []struct {
		cmd  string
		err  error
		want string // at the end
	}{
		{"status", fmt.Errorf("open %s: %w", data, fs.ErrPermission), "do it as root, or as the user to whom it belongs"},
		{"fsck", trouble{fmt.Errorf("fsck: %w", fs.ErrPermission)}, "to whom it belongs"},
		{"asd purge", fmt.Errorf("disk 9: %w", objstore.ErrNotFound), "`gabion asd list` shows the disks"},
		{"object get", fmt.Errorf("x: %w", objstore.ErrNotFound), "`gabion object ls` shows what there is"},
		{"preset use", fmt.Errorf("x: %w", objstore.ErrNotFound), "which namespaces use them"},
		{"namespace scrub", fmt.Errorf("x: %w", objstore.ErrNotFound), "shows the namespaces"},
		{"asd show", fmt.Errorf("list: %w", remote.ErrUnreachable), "can it be reached from here?"},
		{"status", datadir.ErrDamaged, "put a copy of that file back; nothing else is wrong because of it"},
		{"status", damage, "without their names"},
		{"status", fmt.Errorf("%w: run `gabion node`", damage), "run `gabion node`"},
		{"status", errors.New("something else"), "something else"},
	} {
		root := newRoot(e)
		e.data = data
		cmd, _, err := root.Find(strings.Fields(c.cmd))
		if err != nil {
			t.Fatal(err)
		}
		got := e.advise(cmd, c.err)
		if !strings.HasPrefix(got.Error(), c.err.Error()) || !strings.HasSuffix(got.Error(), c.want) || !errors.Is(got, c.err) {
			t.Errorf("%s: %v becomes %v", c.cmd, c.err, got)
		}
	}
}

// TestTrouble: a check that cannot be carried out exits with a code of its own, with one line.
func TestTrouble(t *testing.T) {
	var out, errs bytes.Buffer
	e := &env{in: strings.NewReader(""), out: &out, err: &errs, lookup: func(string) string { return "" }}
	code := run(context.Background(), e, []string{"fsck", "--data", filepath.Join(t.TempDir(), "none")})
	if code != exitTrouble || out.Len() > 0 || !strings.HasPrefix(errs.String(), "gabion: fsck: ") || strings.Count(errs.String(), "\n") != 1 {
		t.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
}
