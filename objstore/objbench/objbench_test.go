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
	"github.com/gabionfs/gabion/objstore/objbench"
)

func backend(t testing.TB, dir string) (*local.Backend, objstore.Namespace) {
	t.Helper()
	o := local.Options{KV: memkv.New(), Cluster: asd.ID{1}, Compression: objstore.CompressS2, Capacity: 8 << 30}
	for i := range 6 {
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
	return b, ns
}

func TestRun(t *testing.T) {
	_, ns := backend(t, t.TempDir())
	rows, err := objbench.Run(context.Background(), ns, objbench.Config{Sizes: []int{4096, 1 << 20}, Bytes: 4 << 20, Time: 200 * time.Millisecond})
	if err != nil || len(rows) != 16 {
		t.Fatal(len(rows), err)
	}
	for _, r := range rows {
		if r.Value <= 0 {
			t.Fatalf("%+v", r)
		}
	}
	left := 0
	if err := ns.List(context.Background(), "", "", func(objstore.Info) bool { left++; return true }); err != nil || left > 0 {
		t.Fatalf("%d objects left behind, %v", left, err)
	}
}

// TestReport prints the whole table; it takes a minute, so only when asked for:
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
	_, ns := backend(t, dir)
	var rows []objbench.Row
	for range 2 {
		for _, n := range []int{1, 4, 8} {
			r, err := objbench.Ceiling(context.Background(), dir, 4, 2, 1<<20, n, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, r)
		}
		r, err := objbench.Run(context.Background(), ns, objbench.Config{Clients: []int{1, 8, 16}, Sizes: []int{4096, 65536, 1 << 20, 4 << 20, 64 << 20}, Bytes: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r...)
	}
	r, err := objbench.Erasure(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(rows, r...) {
		fmt.Printf("%-60s %10.1f %s\n", r.Name, r.Value, r.Unit)
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
