package fsbench

import (
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
)

func TestRun(t *testing.T) {
	f := memfs.New()
	var rows []Row
	err := Run(t.Context(), f, Options{Files: 20, Bytes: 3 << 20, Threads: []int{1, 4}}, func(r Row) { rows = append(rows, r) })
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2*8+2 {
		t.Errorf("%d figures: %+v", len(rows), rows)
	}
	for _, r := range rows {
		if r.Value <= 0 || r.Unit == "" {
			t.Errorf("%+v", r)
		}
	}
	f.ReadDir(t.Context(), fs.Root, 0, false, func(d fs.Dirent, _ *fs.Attr) bool {
		t.Errorf("left %s", d.Name)
		return true
	})
}
