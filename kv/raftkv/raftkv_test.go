package raftkv_test

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvtest"
	"github.com/gabionfs/gabion/kv/raftkv"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		runChild(dir)
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, o raftkv.Options) *raftkv.Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := raftkv.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// memDir is a directory in memory, for tests of which no power failure is a part.
func memDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "raftkv")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestContract(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return open(t, raftkv.Options{}) })
}

// TestContractFlushing runs the suite with a store that moves everything to the state file all the
// time.
func TestContractFlushing(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return open(t, raftkv.Options{Dir: memDir(t), FlushBytes: 2000}) })
}
