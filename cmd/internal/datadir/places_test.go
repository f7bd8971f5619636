package datadir

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestPlaces: what is written is read back, wherever the directory is by then; without a file it is what the directory was made
// with, and damage is an error.
func TestPlaces(t *testing.T) {
	base := t.TempDir()
	d := &Dir{Path: filepath.Join(base, "data"), Config: Config{ASDs: []string{"asd-01", "/disk2"}}}
	if err := os.Mkdir(d.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.lock, err = os.Open(d.Path); err != nil {
		t.Fatal(err)
	}
	defer d.lock.Close()
	same := func(want ...string) {
		t.Helper()
		if got, err := d.Places(); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	in := filepath.Join(d.Path, "asd-01")
	same(in, "/disk2")
	address := "asd://10.0.0.1:7100/0123456789abcdef0123456789abcdef"
	if err := d.WritePlaces([]string{in, "/a b\n\"c\"", address}); err != nil {
		t.Fatal(err)
	}
	same(in, "/a b\n\"c\"", address)
	file := filepath.Join(d.Path, placesName)
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WritePlaces([]string{in, "/a b\n\"c\"", address}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Error("the same again was written again")
	}
	moved := filepath.Join(base, "moved")
	if err := os.Rename(d.Path, moved); err != nil {
		t.Fatal(err)
	}
	d.Path = moved
	same(filepath.Join(moved, "asd-01"), "/a b\n\"c\"", address)
	if err := os.WriteFile(filepath.Join(moved, placesName), []byte(placesMagic+"\"/a\"\ncrc32c 00000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Places(); err == nil {
		t.Errorf("damage gave %q", got)
	}
}

func FuzzPlaces(f *testing.F) {
	f.Add([]byte(placesMagic + "\"/a\"\ncrc32c 00000000\n"))
	f.Add([]byte(placesMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := decodePlaces(raw)
		if err != nil && list != nil {
			t.Errorf("%q with %v", list, err)
		}
	})
}
