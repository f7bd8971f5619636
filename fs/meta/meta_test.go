package meta_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv/memkv"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	s := memkv.New(memkv.Rerun())
	if _, err := meta.Open(ctx, s, meta.Options{}); !errors.Is(err, meta.ErrNotFormatted) {
		t.Fatal(err)
	}
	if _, err := meta.Format(ctx, s, meta.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	tr, err := meta.Open(ctx, s, meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := tr.Mkdir(ctx, fs.Cred{}, fs.Root, "d", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		if _, err := tr.Mknod(ctx, fs.Cred{}, d.Ino, fmt.Sprint(i), 0o644, 0); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if err := tr.ReadDir(ctx, d.Ino, 0, true, func(e fs.Dirent, a *fs.Attr) bool { n++; return a != nil && a.Ino == e.Ino }); err != nil || n != 3000 {
		t.Fatal(n, err)
	}
	r, err := tr.Rename(ctx, d.Ino, "1", fs.Root, "x", 0)
	if err != nil || r.Moved.Nlink != 1 {
		t.Fatal(r, err)
	}
	if u, err := tr.Unlink(ctx, d.Ino, "2"); err != nil || u.Nlink != 0 {
		t.Fatal(u, err)
	}
	if _, err := tr.Rmdir(ctx, fs.Root, "d"); !errors.Is(err, fs.ErrNotEmpty) {
		t.Fatal(err)
	}
}
