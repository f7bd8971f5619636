package objbench_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/local"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/objbench"
)

func namespace(t *testing.T, dir string, p objstore.Policy) objstore.Namespace {
	t.Helper()
	o := local.Options{KV: memkv.New(), Cluster: asd.ID{1}, Compression: objstore.CompressS2, Policies: []objstore.Policy{p}}
	for i := range p.K + p.M {
		o.Dirs = append(o.Dirs, filepath.Join(dir, fmt.Sprint("asd", i)))
	}
	b, err := local.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := b.Namespace(context.Background(), "bench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return ns
}

var p21 = objstore.Policy{K: 2, M: 1, C: 3, X: 3}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	ns := namespace(t, dir, p21)
	c := objbench.Config{Sizes: []int{4096, 9 << 20}, Clients: []int{1, 3}, Bytes: 1 << 20, Time: 30 * time.Millisecond, Rounds: 2}
	cells := 0
	err := objbench.Compare(context.Background(), ns, p21, dir, c, func(c objbench.Cell) error {
		cells++
		for _, p := range []objbench.Pair{c.Put, c.Get} {
			if p.Value <= 0 || p.Ceiling <= 0 || p.Percent <= 0 {
				t.Errorf("%+v", c)
			}
		}
		return nil
	})
	if err != nil || cells != 4 {
		t.Fatal(cells, err)
	}
	left := 0
	if err := ns.List(context.Background(), "", "", func(objstore.Info) bool { left++; return true }); err != nil || left > 0 {
		t.Fatalf("%d objects left behind, %v", left, err)
	}
	if list, err := filepath.Glob(filepath.Join(dir, "ceiling*")); err != nil || len(list) > 0 {
		t.Fatalf("left behind: %v, %v", list, err)
	}
}

func TestRepair(t *testing.T) {
	dir := t.TempDir()
	o := local.Options{KV: memkv.New(), Cluster: asd.ID{1}, Policies: []objstore.Policy{p21}, NoMaint: true, WatchEvery: 5 * time.Millisecond,
		Maintenance: maint.Options{Rate: -1, RepairDelay: -1}}
	for i := range 5 {
		o.Dirs = append(o.Dirs, filepath.Join(dir, fmt.Sprint("disk", i)))
	}
	b, err := local.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r, err := objbench.Repair{Backend: b, Dir: dir, Policy: p21, Size: 64 << 10, Bytes: 1 << 20, Lose: o.Dirs[:2]}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Rebuilt; p.Value <= 0 || p.Ceiling <= 0 || p.Percent <= 0 {
		t.Errorf("%+v", r)
	}
}

// TestReport prints a part of the table; only when asked for:
// GABION_BENCH_DIR=/some/dir go test ./objstore/objbench -run Report -v
func TestReport(t *testing.T) {
	dir := os.Getenv("GABION_BENCH_DIR")
	if dir == "" {
		t.Skip("set GABION_BENCH_DIR to a folder on the disk to measure")
	}
	dir, err := os.MkdirTemp(dir, "objbench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := objstore.Policy{K: 4, M: 2, C: 5, X: 6}
	ns := namespace(t, dir, p)
	c := objbench.Config{Clients: []int{1, 4, 8, 16}, Sizes: []int{4 << 20}, Rounds: 5, Time: 2 * time.Second}
	err = objbench.Compare(context.Background(), ns, p, dir, c, func(c objbench.Cell) error {
		fmt.Printf("%+v\n", c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStackedMetadata counts the rows of an object of 64 MiB in a global backend and ten local ones, for the
// content that takes most, and stays below half of what ALBA takes.
func TestStackedMetadata(t *testing.T) {
	local := objstore.Policy{K: 4, M: 2, C: 6, X: 6}
	for _, s := range objbench.Stacks(local) {
		rows, err := objbench.StackedMetadata(context.Background(), s, 64<<20, []string{"mixed"}, func(string) (kv.Store, error) { return memkv.New(), nil })
		if err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		for _, r := range rows {
			t.Logf("%s, %s: %.0f %s, ALBA %.0f", s.Name, r.Name, r.Value, r.Unit, s.ALBA)
			if r.Value < 500 || r.Value > s.ALBA/2 {
				t.Errorf("%s, %s: %.0f %s", s.Name, r.Name, r.Value, r.Unit)
			}
		}
	}
}
