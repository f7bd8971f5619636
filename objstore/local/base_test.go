package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore/manager"
)

// TestBaseMoves moves the directory that holds the disks, one of them lost, and finds the others there.
func TestBaseMoves(t *testing.T) {
	store := memkv.New()
	base, outside := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(base, 0o700); err != nil {
		t.Fatal(err)
	}
	o := options(store, []string{outside})
	o.Base = base
	for _, name := range []string{"1", "2", "3", "4", "5"} {
		o.Dirs = append(o.Dirs, filepath.Join(base, name))
	}
	b := open(t, o)
	all := objects{}
	all.fill(t, namespace(t, b), 6)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	moved := base + "-moved"
	if err := os.Rename(base, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(moved, "3")); err != nil {
		t.Fatal(err)
	}
	o.Base, o.Dirs = moved, nil
	b = open(t, o)
	for i, d := range b.Disks() {
		want, state := outside, manager.Up
		if i > 0 {
			want = filepath.Join(moved, string(rune('0'+i)))
		}
		if i == 3 {
			state = manager.Missing
		}
		if d.Dir != want || d.State != state {
			t.Errorf("disk %d is in %s, %v; want %s, %v", d.ID, d.Dir, d.State, want, state)
		}
	}
	all.check(t, namespace(t, b))
}
