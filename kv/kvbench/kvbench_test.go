package kvbench_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvbench"
	"github.com/gabionfs/gabion/kv/memkv"
)

var small = kvbench.Config{Duration: 10 * time.Millisecond, Keys: 700, Clients: []int{1, 4}}

func TestRun(t *testing.T) {
	s := memkv.New()
	rows, err := kvbench.Run(context.Background(), s, small)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 6 {
		t.Errorf("%d rows, want 6", len(rows))
	}
	for _, r := range rows {
		if r.Value <= 0 || r.Name == "" || r.Unit == "" {
			t.Errorf("row %+v", r)
		}
	}
	if err := s.View(context.Background(), kv.Linearizable, func(r kv.Reader) error {
		return r.Range("bench", kv.Range{}, func(k, _ []byte) bool { t.Errorf("left %x", k); return false })
	}); err != nil {
		t.Fatal(err)
	}
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := kvbench.Run(ctx, memkv.New(), small); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	if _, err := kvbench.Run(context.Background(), memkv.New(), kvbench.Config{Clients: []int{0}}); err == nil {
		t.Error("no clients")
	}
}
