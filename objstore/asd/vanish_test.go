package asd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestCloseWithoutFolder removes the folder of an open ASD: closing it must not wait for an index that cannot be
// flushed any more.
func TestCloseWithoutFolder(t *testing.T) {
	dir := newDir(t)
	a := mustOpen(t, dir, Options{})
	put(t, a, "k", payload(1000, 1))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- a.Close() }()
	select {
	case err := <-closed:
		if err == nil {
			t.Error("Close has noticed nothing")
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("Close hangs")
	}
	if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, ErrMissing) {
		t.Errorf("opened again: %v", err)
	}
}

// TestEmptiedFolder removes all that is in the folder of an open ASD, in the order in which rm does and in the other
// one, while it is used. Once it is closed the folder is an empty one, which becomes a new disk.
func TestEmptiedFolder(t *testing.T) {
	for _, backwards := range []bool{false, true} {
		dir := newDir(t)
		a := mustOpen(t, dir, Options{})
		for i := range 50 {
			put(t, a, fmt.Sprint("k", i), payload(1000, uint64(i)))
		}
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if backwards {
			slices.Reverse(list)
		}
		for i, e := range list {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
			_, _ = a.Get(t.Context(), []byte(fmt.Sprint("k", i)), nil)
			if i == len(list)/2 {
				a.indexMu.RLock()
				x := a.index
				a.indexMu.RUnlock()
				if x != nil {
					_ = a.rebuild(x, errors.New("it is gone"))
				}
			}
		}
		if err := a.Close(); err == nil {
			t.Error("Close has noticed nothing")
		}
		id, err := Announce(dir)
		if err != nil || !id.Cluster.IsZero() || id.ASD == a.Identity().ASD {
			t.Fatalf("backwards %v: %+v, %v", backwards, id, err)
		}
	}
}
