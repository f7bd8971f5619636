package volume_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/fstest"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/memns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, o volume.Options) *volume.Volume {
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	store, ns := memkv.New(), memns.New()
	v, err := volume.Open(context.Background(), store, ns, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
		check(t, store, ns)
	})
	return v
}

// check fails the test when anything in a volume that is not in use contradicts anything else.
func check(t *testing.T, store kv.Store, ns objstore.Namespace) {
	t.Helper()
	ctx := context.Background()
	if _, err := meta.Check(ctx, store, func(p meta.Problem) { t.Errorf("namespace: %v", p) }); err != nil {
		t.Error(err)
	}
	_, err := data.Check(ctx, store, ns, data.CheckOptions{Deep: true}, func(p data.Problem) {
		t.Errorf("content: %s: %s: %s", p.Kind, p.Object, p.Text)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestContract(t *testing.T) {
	fstest.Run(t, func(t *testing.T) func(fs.Watcher) fs.FS { return open(t, volume.Options{}).Session })
}
