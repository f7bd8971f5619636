package kvbench

import (
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/memkv"
)

func collect(rows *[]Row) Config {
	return Config{Clients: []int{1, 3}, Time: 20 * time.Millisecond, Emit: func(r Row) { *rows = append(*rows, r) }}
}

func check(t *testing.T, rows []Row, want int) {
	t.Helper()
	if len(rows) != want {
		t.Errorf("%d figures, want %d: %+v", len(rows), want, rows)
	}
	for _, r := range rows {
		if r.Value <= 0 || r.Unit == "" || r.P50 > r.P99 {
			t.Errorf("%+v", r)
		}
	}
}

func TestRun(t *testing.T) {
	s := memkv.New()
	defer s.Close()
	var rows []Row
	if err := Run(t.Context(), s, collect(&rows)); err != nil {
		t.Fatal(err)
	}
	check(t, rows, 3*2+1)
	s.Close()
	if err := Run(t.Context(), s, collect(&rows)); err == nil {
		t.Error("no error from a store that is closed")
	}
}
