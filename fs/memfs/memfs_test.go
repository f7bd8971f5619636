package memfs_test

import (
	"context"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	f := memfs.New()
	a, err := f.Mknod(ctx, fs.Cred{UID: 7}, fs.Root, "a", 0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Write(ctx, a.Ino, 5000, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := f.Rename(ctx, fs.Root, "a", fs.Root, "b", 0); err != nil {
		t.Fatal(err)
	}
	if a, err = f.Lookup(ctx, fs.Root, "b"); err != nil || a.Size != 5005 {
		t.Fatalf("%+v %v", a, err)
	}
}
