package objbench_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

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
