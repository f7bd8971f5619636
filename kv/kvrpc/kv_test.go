package kvrpc

import (
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvtest"
)

// TestContract runs the suite of kv.Store over the wire.
func TestContract(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store {
		g := startGroup(t, groupOptions{members: 1, heartbeat: 50 * time.Millisecond})
		return g.client(ClientOptions{}).Store(testStore).KV()
	})
}
