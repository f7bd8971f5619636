package local

import (
	"path/filepath"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// TestDiskStat: what maintenance does is not counted as the users' operations, and deletes leave garbage.
func TestDiskStat(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "asd")
	if _, err := asd.Format(dir, asd.ID{1}); err != nil {
		t.Fatal(err)
	}
	a, err := asd.Open(t.Context(), dir, asd.Options{Compaction: asd.Compaction{Mode: asd.CompactManual}})
	if err != nil {
		t.Fatal(err)
	}
	d := asdDisk{a}
	defer d.Close()
	k := objstore.FragmentKey{Namespace: 1, Object: 2}
	data := asd.NewBuffer(200 << 10)
	if err := d.PutFragment(t.Context(), k, nil, data, nil); err != nil {
		t.Fatal(err)
	}
	for _, ctx := range []struct{ background bool }{{false}, {true}, {true}} {
		c := t.Context()
		if ctx.background {
			c = objstore.Background(c)
		}
		if err := d.ReadFragment(c, k, 100, data[:1000]); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.DeleteFragments(t.Context(), []objstore.FragmentKey{k}); err != nil {
		t.Fatal(err)
	}
	st, err := d.Stat(t.Context())
	if err != nil || st.Reads.Count != 1 || st.Writes.Count != 1 || st.Writes.Max <= 0 || st.Garbage < 200<<10 {
		t.Fatalf("%+v, %v", st, err)
	}
}
