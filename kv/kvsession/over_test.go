package kvsession

import (
	"context"
	"errors"
	"testing"

	"github.com/gabionfs/gabion/kv"
)

// TestSyncOfLost: who is about to wait for what was sequenced, at the moment at which the session ends, is told
// that it ended.
func TestSyncOfLost(t *testing.T) {
	s := &Session{table: newTable(), kick: make(chan struct{}, 1), done: make(chan struct{}), fetches: map[uint64]*fetch{}}
	s.seq = 1
	s.fail(kv.ErrFenced)
	if err := s.waitDurable(context.Background(), 1); !errors.Is(err, kv.ErrFenced) {
		t.Errorf("got %v", err)
	}
}
