package kvsession_test

import (
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvsession"
	"github.com/gabionfs/gabion/kv/kvtest"
)

func TestContract(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return newRig(t, 1).session(kvsession.Options{}) })
}

// TestContractForgetful runs the suite with a session that remembers next to nothing, so that nearly
// every read goes to the member.
func TestContractForgetful(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return newRig(t, 1).session(kvsession.Options{CacheBytes: 1}) })
}

func TestContractThree(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return newRig(t, 3).session(kvsession.Options{}) })
}
