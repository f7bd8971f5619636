package local

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/disktest"
)

func TestContract(t *testing.T) {
	disktest.Run(t, func(t testing.TB) objstore.Disk {
		dir := filepath.Join(t.TempDir(), "asd")
		o := asdOpener{asd.Options{Cluster: cluster, Capacity: 256 << 20}}
		if err := o.Claim(context.Background(), dir); err != nil {
			t.Fatal(err)
		}
		_, d, err := o.Open(context.Background(), dir, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	})
}
