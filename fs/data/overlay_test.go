package data_test

import (
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
)

// TestOverlayAfterCommit: attributes that were read before a commit, as those of a listing are, have the size that
// the file had all the while, also when the commit is done before what is uncommitted is looked at.
func TestOverlayAfterCommit(t *testing.T) {
	w := open(t, data.Options{})
	ino := w.file("f")
	before := fs.Attr{Ino: ino, Mode: fs.TypeRegular} // as the row was when the file was made
	w.ok(w.Write(w.ctx, ino, 0, make([]byte, 100_000)))
	w.ok(w.Sync(w.ctx))
	a := before
	w.Overlay(&a)
	if a.Size != 100_000 {
		t.Errorf("size %d after the commit", a.Size)
	}
	w.ok(w.SetSize(w.ctx, ino, 10))
	w.Overlay(&a)
	if a.Size != 10 {
		t.Errorf("size %d after the truncation", a.Size)
	}
}
