package nsm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

func (s *shard) check(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := 0
	for _, e := range s.entries {
		sum += e.Value.(*entry).size
	}
	if sum != s.bytes || s.bytes > s.most || s.order.Len() != len(s.entries) {
		t.Fatalf("%d bytes in %d entries and %d places, it says %d of %d", sum, len(s.entries), s.order.Len(), s.bytes, s.most)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(256 << 10)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 5000 {
		name := strings.Repeat("n", 1+r.IntN(300)) + fmt.Sprint(r.IntN(500))
		m := object(uint64(i), chunk(2, 1, 1, 3, 5))
		for range r.IntN(4) {
			m.Chunks = append(m.Chunks, chunk(2, 1, 1, 3, 5))
		}
		switch r.IntN(4) {
		case 0:
			c.drop(name)
		case 1:
			c.set(name, m, c.stamp(name))
		default:
			c.put(name, m, c.stamp(name))
		}
	}
	held := 0
	for i := range c.shards {
		c.shards[i].check(t)
		held += len(c.shards[i].entries)
	}
	if held < 100 {
		t.Fatalf("only %d entries are held", held)
	}
	c.put("huge", &manifest.Manifest{Chunks: make([]manifest.Chunk, 10_000)}, c.stamp("huge"))
	if c.get("huge") != nil {
		t.Fatal("an entry that is larger than the cache's parts")
	}
}

// stored is what the store says, past the cache and without filling it.
func stored(t testing.TB, n *Manager, name string) *manifest.Manifest {
	t.Helper()
	var m *manifest.Manifest
	err := n.view(context.Background(), func(r kv.Reader) (err error) {
		m, err = n.get(r, name)
		return err
	})
	if err != nil && !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	return m
}

// TestCacheIsCoherent has writers register, change, replace and delete a few objects, whose manifests readers look up
// all the time. Whoever is alone with a name sees what it did last; when all rest, the cache says what the store says.
func TestCacheIsCoherent(t *testing.T) {
	ctx := context.Background()
	n, _ := newManager(t, sixDisks())
	own, shared := []string{"a", "b", "c"}, []string{"x", "y"}
	step := func(r *rand.Rand, name string) (version uint32, there, sure bool) {
		m := stored(t, n, name)
		switch {
		case m == nil:
			u, err := n.Begin(ctx)
			if err != nil {
				t.Error(err)
				return 0, false, false
			}
			err = n.Register(ctx, u, name, object(u.ID, chunk(2, 1, 1, 3, 5)))
			n.End(u)
			return 0, true, err == nil
		case r.IntN(3) == 0:
			_, err := n.Delete(ctx, name, "absent")
			return 0, false, err == nil
		case r.IntN(3) == 0:
			u, err := n.Begin(ctx)
			if err != nil {
				t.Error(err)
				return 0, false, false
			}
			err = n.Replace(ctx, u, name, m.ID, object(u.ID, chunk(2, 1, 2, 4, 6)))
			n.End(u)
			return 0, true, err == nil
		}
		err := n.Change(ctx, name, m.ID, func(m *manifest.Manifest) error {
			m.Chunks[0].Fragments[0].Version++
			version = m.Chunks[0].Fragments[0].Version
			return nil
		})
		return version, true, err == nil
	}
	for round := range 40 {
		var writers, readers sync.WaitGroup
		var over atomic.Bool
		for i := range 3 {
			readers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(round), uint64(100+i)))
				for !over.Load() {
					name := append(own, shared...)[r.IntN(5)]
					if r.IntN(2) == 0 {
						_, _ = n.Lookup(ctx, name)
					} else {
						_, _ = n.Fetch(ctx, name)
					}
				}
			})
		}
		for i, name := range own {
			writers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(round), uint64(i)))
				for range 10 {
					version, there, sure := step(r, name)
					if !sure {
						t.Errorf("a step on %s failed although nobody else changes it", name)
						return
					}
					m, err := n.Lookup(ctx, name)
					switch {
					case !there && !errors.Is(err, objstore.ErrNotFound):
						t.Errorf("%s was deleted, and then %v", name, err)
					case there && (err != nil || m.Chunks[0].Fragments[0].Version != version):
						t.Errorf("%s has version %d, and then %+v, %v", name, version, m, err)
					}
				}
			})
		}
		for i := range 3 {
			writers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(round), uint64(10+i)))
				for range 10 {
					step(r, shared[r.IntN(2)]) // others may have been faster
				}
			})
		}
		writers.Wait()
		over.Store(true)
		readers.Wait()
		if t.Failed() {
			t.FailNow()
		}
		for _, name := range append(own, shared...) {
			is := stored(t, n, name)
			m, err := n.Lookup(ctx, name)
			if is == nil != errors.Is(err, objstore.ErrNotFound) || is != nil && (m.ID != is.ID || m.Chunks[0].Fragments[0] != is.Chunks[0].Fragments[0]) {
				t.Fatalf("round %d: %s is %+v, the cache says %+v, %v", round, name, is, m, err)
			}
		}
	}
}

// TestCacheForgetsWhatOthersDeleted: two processes have the same store; one deletes, and the other finds out when
// it looks.
func TestCacheForgetsWhatOthersDeleted(t *testing.T) {
	ctx := context.Background()
	n, s := newManager(t, sixDisks())
	other := Open(s, n.o)
	register(t, n, "x", chunk(2, 1, 1, 3, 5))
	if _, err := other.Lookup(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Delete(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Fetch(ctx, "x"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	if m, err := other.Lookup(ctx, "x"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatalf("%+v, %v: it is still in the cache", m, err)
	}
}
