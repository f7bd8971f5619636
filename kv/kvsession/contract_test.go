package kvsession_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvsession"
	"github.com/gabionfs/gabion/kv/kvsession/sessiontest"
	"github.com/gabionfs/gabion/kv/kvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return sessiontest.New(t, 1).Session(kvsession.Options{}) })
}

// TestContractForgetful runs the suite with a session that remembers next to nothing, so that nearly
// every read goes to the member.
func TestContractForgetful(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return sessiontest.New(t, 1).Session(kvsession.Options{CacheBytes: 1}) })
}

func TestContractThree(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return sessiontest.New(t, 3).Session(kvsession.Options{}) })
}
