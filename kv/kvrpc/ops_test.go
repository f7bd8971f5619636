package kvrpc

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gabionfs/gabion/kv"
)

func TestOperations(t *testing.T) {
	g := startGroup(t, groupOptions{})
	s := g.client(ClientOptions{}).Store(testStore)
	ctx := testContext(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []kv.Commit{kv.Durable, kv.Ordered} {
		must(s.Set(ctx, c, "a", []byte("k"), []byte("v")))
		v, err := s.Get(ctx, "a", []byte("k"), ReadOptions{})
		must(err)
		if string(v) != "v" {
			t.Fatalf("got %q", v)
		}
		must(s.Delete(ctx, c, "a", []byte("k")))
		if _, err := s.Get(ctx, "a", []byte("k"), ReadOptions{}); !errors.Is(err, kv.ErrNotFound) {
			t.Fatalf("a deleted key: %v", err)
		}
	}
	for i := range 10 {
		must(s.Set(ctx, kv.Ordered, "r", fmt.Appendf(nil, "k%d", i), fmt.Appendf(nil, "v%d", i)))
	}
	must(s.Sync(ctx))
	p, err := s.Range(ctx, "r", kv.Range{Limit: 4}, RangeOptions{})
	must(err)
	if len(p.Entries) != 4 || !p.More || string(p.Entries[3].Value) != "v3" {
		t.Fatalf("%+v", p)
	}
}
