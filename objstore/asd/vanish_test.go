package asd

import (
	"errors"
	"os"
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
