package memkv_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvtest"
	"github.com/gabionfs/gabion/kv/memkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.Store { return memkv.New() })
}

func TestContractRerun(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.Store { return memkv.New(memkv.Rerun()) })
}

func put(t *testing.T, s kv.Store, c kv.Commit, k byte) {
	t.Helper()
	if err := s.Update(context.Background(), c, func(tx kv.Txn) error { tx.Put("a", []byte{k}, nil); return nil }); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, s kv.Store) (n int) {
	t.Helper()
	err := s.View(context.Background(), kv.Linearizable, func(r kv.Reader) error {
		return r.Range("a", kv.Range{}, func(k, _ []byte) bool {
			if int(k[0]) != n {
				t.Errorf("key %d at place %d: not a prefix", k[0], n)
			}
			n++
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCrashPrefix: a crash keeps everything durable and a prefix of the rest.
func TestCrashPrefix(t *testing.T) {
	s := memkv.New()
	put(t, s, kv.Durable, 0)
	put(t, s, kv.Ordered, 1)
	put(t, s, kv.Durable, 2)
	for k := range byte(5) {
		put(t, s, kv.Ordered, 3+k)
	}
	seen := map[int]bool{}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		seen[count(t, s.CrashPrefix(rng))] = true
	}
	for n := range 20 {
		if want := n >= 3 && n <= 8; seen[n] != want {
			t.Errorf("a crash that keeps %d updates: seen %v, want %v", n, seen[n], want)
		}
	}
	if err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s.Crash(0)); n != 8 {
		t.Errorf("after sync a crash kept %d updates, want 8", n)
	}
}

// TestPoison: a slice that escapes its view is overwritten.
func TestPoison(t *testing.T) {
	s := memkv.New()
	put(t, s, kv.Ordered, 'k')
	var escaped []byte
	if err := s.View(context.Background(), kv.Stale, func(r kv.Reader) error {
		return r.Range("a", kv.Range{}, func(k, _ []byte) bool { escaped = k; return true })
	}); err != nil {
		t.Fatal(err)
	}
	if escaped[0] != 0xDB {
		t.Errorf("the escaped slice still reads %q", escaped)
	}
}

// TestModifiedAfterPut: changing a slice that the transaction keeps is caught.
func TestModifiedAfterPut(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("not caught")
		}
	}()
	_ = memkv.New().Update(context.Background(), kv.Ordered, func(tx kv.Txn) error {
		v := []byte("v")
		tx.Put("a", []byte("k"), v)
		v[0] = 'w'
		return nil
	})
}
