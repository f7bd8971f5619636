package memfs_test

import (
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/fstest"
	"github.com/gabionfs/gabion/fs/memfs"
)

func TestContract(t *testing.T) {
	fstest.Run(t, func(*testing.T) func(fs.Watcher) fs.FS { return memfs.New().Session })
}
