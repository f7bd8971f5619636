package volume_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/fstest"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore/memns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, o volume.Options) *volume.Volume {
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	v, err := volume.Open(context.Background(), memkv.New(), memns.New(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return v
}

func TestContract(t *testing.T) {
	fstest.Run(t, func(t *testing.T) func(fs.Watcher) fs.FS { return open(t, volume.Options{}).Session })
}
