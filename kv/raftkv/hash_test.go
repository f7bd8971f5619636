package raftkv_test

import (
	"errors"
	"testing"

	"github.com/gabionfs/gabion/kv/raftkv"
)

// TestHashAgrees: all members have the same sum at the same index while writes go on, and another one
// when something differs.
func TestHashAgrees(t *testing.T) {
	c := startCluster(t, 3)
	ctx := withPatience(t)
	c.steps(100)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				c.steps(5)
			}
		}
	}()
	sums := map[[32]byte]bool{}
	for range 5 {
		wait(t, "for a sum of every member", func() bool {
			_, lead := c.leader()
			id, index, err := lead.MarkHash(ctx)
			if isUnavailable(err) {
				return false
			}
			if err != nil {
				t.Fatal(err)
			}
			var first raftkv.HashResult
			for i, m := range c.members {
				got, err := m.HashAt(ctx, id, index)
				if errors.Is(err, raftkv.ErrNoHash) {
					return false
				}
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					first = got
				}
				if got != first || got.Index != index || got.Keys == 0 {
					t.Errorf("member %d: %+v, the first has %+v", i, got, first)
				}
			}
			sums[first.Sum] = true
			return true
		})
	}
	close(stop)
	<-stopped
	if len(sums) < 2 {
		t.Error("the sum did not change with the contents")
	}
	wait(t, "for a sum of the leader", func() bool {
		r, err := c.must().Hash(ctx)
		if isUnavailable(err) {
			return false
		}
		if err != nil || r.Keys == 0 {
			t.Errorf("hash of the leader: %+v, %v", r, err)
		}
		return true
	})
	if _, err := c.must().HashAt(ctx, "unheard of", 1); !errors.Is(err, raftkv.ErrNoHash) {
		t.Errorf("an unknown mark: %v", err)
	}
}
