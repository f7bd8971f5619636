package layerbench

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore/asd"
)

func collect(rows *[]Row) Config {
	return Config{Clients: []int{1, 3}, Time: 20 * time.Millisecond, Bytes: 4 << 20, Emit: func(r Row) { *rows = append(*rows, r) }}
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

func TestKV(t *testing.T) {
	s := memkv.New()
	defer s.Close()
	var rows []Row
	if err := KV(t.Context(), s, collect(&rows)); err != nil {
		t.Fatal(err)
	}
	check(t, rows, 3*2+1)
	s.Close()
	if err := KV(t.Context(), s, collect(&rows)); err == nil {
		t.Error("no error from a store that is closed")
	}
}

func TestASD(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "asd")
	if _, err := asd.Format(dir, asd.ID{1}); err != nil {
		t.Fatal(err)
	}
	a, err := asd.Open(t.Context(), dir, asd.Options{Capacity: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var rows []Row
	if err := ASD(t.Context(), a, collect(&rows)); err != nil {
		t.Fatal(err)
	}
	check(t, rows, 3*2*4)
	list, _, err := a.Range(t.Context(), nil, nil, asd.RangeOptions{})
	if err != nil || len(list) != 0 {
		t.Errorf("%d records are left, %v", len(list), err)
	}
}
