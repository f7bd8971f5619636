package nsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// nodes is a fake of Disks: disk to node; absent is retired.
type nodes map[objstore.DiskID]string

func (n nodes) Node(d objstore.DiskID) (string, bool) { s, ok := n[d]; return s, ok }

func sixDisks() nodes {
	return nodes{1: "a", 2: "a", 3: "b", 4: "b", 5: "c", 6: "c"}
}

func newManager(t testing.TB, disks Disks) (*Manager, *memkv.Store) {
	s := memkv.New(memkv.Rerun())
	t.Cleanup(func() { _ = s.Close() })
	return Open(s, Options{Name: "test", Number: 7, Disks: disks,
		Policies: []objstore.Policy{{K: 2, M: 1, C: 2, X: 2}, {K: 1, M: 1, C: 2, X: 1}}}), s
}

func chunk(k, m int, disks ...objstore.DiskID) manifest.Chunk {
	c := manifest.Chunk{K: k, M: m, Size: 1000}
	for _, d := range disks {
		c.Fragments = append(c.Fragments, manifest.Fragment{Disk: d})
	}
	return c
}

func object(id uint64, chunks ...manifest.Chunk) *manifest.Manifest {
	return &manifest.Manifest{ID: id, Size: 1000 * int64(len(chunks)), Chunks: chunks}
}

func begin(t testing.TB, n *Manager) Upload {
	t.Helper()
	u, err := n.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func register(t testing.TB, n *Manager, name string, chunks ...manifest.Chunk) *manifest.Manifest {
	t.Helper()
	u := begin(t, n)
	m := object(u.ID, chunks...)
	if err := n.Register(context.Background(), u, name, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func wantCounts(t testing.TB, n *Manager, want ...Counter) {
	t.Helper()
	got, err := n.Counters(context.Background())
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("counters %+v, %v; want %+v", got, err, want)
	}
	if problems, err := n.Recount(context.Background()); err != nil || len(problems) > 0 {
		t.Fatalf("recount: %v, %v", problems, err)
	}
}

func TestRegisterLookupDelete(t *testing.T) {
	ctx := context.Background()
	n, _ := newManager(t, sixDisks())
	m := register(t, n, "x", chunk(2, 1, 1, 3, 5))
	register(t, n, "y", chunk(2, 1, 1, 3, 0))
	u := begin(t, n)
	if err := n.Register(ctx, u, "x", object(u.ID, chunk(2, 1, 1, 3, 5))); !errors.Is(err, objstore.ErrExists) {
		t.Fatal(err)
	}
	for _, lookup := range []func(context.Context, string) (*manifest.Manifest, error){n.Lookup, n.Fetch} {
		if got, err := lookup(ctx, "x"); err != nil || got.ID != m.ID {
			t.Fatal(got, err)
		}
	}
	wantCounts(t, n, Counter{0, 1, Usage{1, 1000, 1024}}, Counter{1, 1, Usage{1, 1000, 1536}})
	if names, _, err := n.Degraded(ctx, 0, 10); err != nil || fmt.Sprint(names) != "[y]" {
		t.Fatal(names, err)
	}
	if removed, err := n.Delete(ctx, "x", "absent", "x", "y"); err != nil || removed != 2 {
		t.Fatal(removed, err)
	}
	if _, err := n.Lookup(ctx, "x"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	wantCounts(t, n)
	queue, err := n.Obsoletes(ctx, 0, 10)
	if err != nil || len(queue) != 2 || len(queue[0].At) != 3 || len(queue[1].At) != 2 || queue[0].At[2] != (Location{5, m.Key(7, 0, 2)}) {
		t.Fatal(queue, err)
	}
	if err := n.Settle(ctx, queue, queue[1].At[:1]); err != nil {
		t.Fatal(err)
	}
	if queue, err = n.Obsoletes(ctx, 0, 10); err != nil || len(queue) != 0 {
		t.Fatal(queue, err)
	}
}

func TestRules(t *testing.T) {
	disks := sixDisks()
	delete(disks, 6)
	n, _ := newManager(t, disks)
	for name, c := range map[string]manifest.Chunk{
		"quorum":      chunk(2, 1, 1, 0, 0),
		"code":        chunk(3, 1, 1, 2, 3, 4),
		"count":       chunk(2, 1, 1, 3),
		"same disk":   chunk(2, 1, 1, 1, 3),
		"x":           chunk(1, 1, 1, 2),
		"retired":     chunk(2, 1, 1, 3, 6),
		"unconfirmed": {K: 2, M: 1, Size: 1000, Fragments: []manifest.Fragment{{Disk: 1}, {Disk: 2, Unconfirmed: true}, {}}},
	} {
		u := begin(t, n)
		var rule *RuleError
		if err := n.Register(context.Background(), u, name, object(u.ID, c)); !errors.As(err, &rule) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCounts(t, n)
}

func TestChange(t *testing.T) {
	ctx := context.Background()
	disks := sixDisks()
	n, store := newManager(t, disks)
	m := register(t, n, "x", chunk(2, 1, 1, 3, 5))
	set := func(f manifest.Fragment) error {
		return n.Change(ctx, "x", m.ID, func(m *manifest.Manifest) error { m.Chunks[0].Fragments[1] = f; return nil })
	}
	var rule *RuleError
	for _, f := range []manifest.Fragment{{Disk: 4}, {Disk: 5, Version: 1}, {Disk: 99, Version: 1}} {
		if err := set(f); !errors.As(err, &rule) {
			t.Fatalf("%+v: %v", f, err)
		}
	}
	if err := set(manifest.Fragment{Disk: 4, Version: 2}); err != nil {
		t.Fatal(err)
	}
	if err := set(manifest.Fragment{Disk: 4, Version: 1}); !errors.As(err, &rule) {
		t.Fatal(err)
	}
	// The fragment that was replaced is queued; what is left on a disk that retires meanwhile may stay.
	queue, err := n.Obsoletes(ctx, 0, 10)
	if err != nil || len(queue) != 1 || fmt.Sprint(queue[0].At) != fmt.Sprint([]Location{{3, m.Key(7, 0, 1)}}) {
		t.Fatal(queue, err)
	}
	if err := n.Settle(ctx, queue, queue[0].At); err != nil {
		t.Fatal(err)
	}
	if at, err := Parked(ctx, store, 3, 10); err != nil || fmt.Sprint(at) != fmt.Sprint(queue[0].At) {
		t.Fatal(at, err)
	} else if _, err := Unpark(ctx, store, at); err != nil {
		t.Fatal(err)
	}
	if at, err := Parked(ctx, store, 3, 10); err != nil || len(at) != 0 {
		t.Fatal(at, err)
	}
	delete(disks, 1)
	if err := set(manifest.Fragment{Disk: 3, Version: 3}); err != nil {
		t.Fatal(err)
	}
	if err := n.Change(ctx, "x", m.ID+1, nil); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	wantCounts(t, n, Counter{1, 1, Usage{1, 1000, 1536}})
}

func TestSettleKeepsWhatHasGrown(t *testing.T) {
	ctx := context.Background()
	n, _ := newManager(t, sixDisks())
	u := begin(t, n)
	at := []Location{{1, objstore.FragmentKey{Namespace: 7, Object: u.ID}}, {2, objstore.FragmentKey{Namespace: 7, Object: u.ID, Chunk: 1}}}
	if err := n.Abandon(ctx, u, at[:1]); err != nil {
		t.Fatal(err)
	}
	queue, err := n.Obsoletes(ctx, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Abandon(ctx, u, at[1:]); err != nil {
		t.Fatal(err)
	}
	if err := n.Settle(ctx, queue, nil); err != nil {
		t.Fatal(err)
	}
	if queue, err = n.Obsoletes(ctx, 0, 10); err != nil || len(queue) != 1 || fmt.Sprint(queue[0].At) != fmt.Sprint(at) {
		t.Fatal(queue, err)
	}
}

func TestEpochs(t *testing.T) {
	ctx := context.Background()
	n, store := newManager(t, sixDisks())
	old := begin(t, n)
	e, err := n.Advance(ctx)
	if err != nil || old.ID >= e.Below {
		t.Fatal(e, err)
	}
	young := begin(t, n)
	if young.ID < e.Below || young.Epoch != e.Number {
		t.Fatalf("%+v in epoch %+v", young, e)
	}
	second := begin(t, n)
	if err := n.Register(ctx, second, "early", object(second.ID, chunk(2, 1, 1, 3, 5))); err != nil {
		t.Fatal(err)
	}
	if err := n.Expire(ctx, e); err != nil {
		t.Fatal(err)
	}
	if err := n.Register(ctx, old, "x", object(old.ID, chunk(2, 1, 1, 3, 5))); !errors.Is(err, ErrExpired) {
		t.Fatal(err)
	}
	if err := n.Register(ctx, young, "x", object(young.ID, chunk(2, 1, 1, 3, 5))); err != nil {
		t.Fatal(err)
	}
	// A restart must not give out an id again.
	again := Open(store, n.o)
	if u := begin(t, again); u.ID <= second.ID {
		t.Fatalf("id %d after %d", u.ID, second.ID)
	}
}

// TestModel runs random operations beside a map and recounts after each.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		n := Open(memkv.New(), Options{Name: "m", Number: 1, Disks: sixDisks(), CacheBytes: 64 << 10,
			Policies: []objstore.Policy{{K: 2, M: 2, C: 2, X: 4}}})
		model := map[string]uint64{}
		places := rapid.SliceOfNDistinct(rapid.SampledFrom([]objstore.DiskID{1, 2, 3, 4, 5, 6}), 4, 4, rapid.ID[objstore.DiskID])
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")
				u, err := n.Begin(ctx)
				if err != nil {
					t.Fatal(err)
				}
				c := chunk(2, 2, places.Draw(t, "disks")...)
				for i := range c.Fragments[2:] {
					if rapid.Bool().Draw(t, "lacks") {
						c.Fragments[2+i].Disk = 0
					}
				}
				err = n.Register(ctx, u, name, object(u.ID, c))
				if _, taken := model[name]; taken != errors.Is(err, objstore.ErrExists) || !taken && err != nil {
					t.Fatalf("taken %v: %v", taken, err)
				} else if !taken {
					model[name] = u.ID
				}
			},
			"delete": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")
				if _, err := n.Delete(ctx, name); err != nil {
					t.Fatal(err)
				}
				delete(model, name)
			},
			"complete": func(t *rapid.T) {
				for name, id := range model {
					err := n.Change(ctx, name, id, func(m *manifest.Manifest) error {
						used := map[objstore.DiskID]bool{}
						for _, f := range m.Chunks[0].Fragments {
							used[f.Disk] = true
						}
						for i := range m.Chunks[0].Fragments {
							f := &m.Chunks[0].Fragments[i]
							for d := objstore.DiskID(1); f.Disk == 0; d++ {
								if !used[d] {
									*f, used[d] = manifest.Fragment{Disk: d, Version: 1}, true
								}
							}
						}
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
				}
			},
			"": func(t *rapid.T) {
				if problems, err := n.Recount(ctx); err != nil || len(problems) > 0 {
					t.Fatal(problems, err)
				}
				seen := map[string]uint64{}
				if err := n.List(ctx, "", "", func(name string, m *manifest.Manifest) bool { seen[name] = m.ID; return true }); err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(seen) != fmt.Sprint(model) {
					t.Fatalf("list %v, want %v", seen, model)
				}
				for _, name := range []string{"a", "b", "c", "d"} {
					m, err := n.Lookup(ctx, name)
					if id, ok := model[name]; ok != (err == nil) || ok && m.ID != id {
						t.Fatalf("%s: %v, %v", name, m, err)
					}
				}
			},
		})
	})
}

func FuzzLocations(f *testing.F) {
	f.Add(encodeLocations(nil, []Location{{3, objstore.FragmentKey{Chunk: 1, Fragment: 2, Version: 300}}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		at, err := decodeLocations(b, 7, 9)
		if err != nil {
			return
		}
		again, err := decodeLocations(encodeLocations(nil, at), 7, 9)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(at) {
			t.Fatalf("%v became %v, %v", at, again, err)
		}
	})
}

// TestMetadataPer64MiB counts every key and value that a 64 MiB object leaves in the store.
func TestMetadataPer64MiB(t *testing.T) {
	ctx := context.Background()
	disks := nodes{}
	for d := range objstore.DiskID(10) {
		disks[100+d] = "a"
	}
	store := memkv.New()
	n := Open(store, Options{Name: "m", Number: 1, Disks: disks, Policies: []objstore.Policy{{K: 8, M: 2, C: 9, X: 10}}})
	u := begin(t, n)
	m := &manifest.Manifest{ID: u.ID, Size: 64 << 20}
	for i := range uint32(2) {
		c := manifest.Chunk{K: 8, M: 2, Number: i, Size: 32 << 20}
		for d := range objstore.DiskID(10) {
			c.Fragments = append(c.Fragments, manifest.Fragment{Disk: 100 + d, Sum: 0xffffffff})
		}
		m.Chunks = append(m.Chunks, c)
	}
	name := strings.Repeat("n", 32)
	if err := n.Register(ctx, u, name, m); err != nil {
		t.Fatal(err)
	}
	total := 0
	err := store.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		for _, ks := range []kv.Keyspace{ksManifest, ksDegraded, ksObsolete, ksParked} { // ids and counters are shared by all
			if err := r.Range(ks, kv.Range{}, func(k, v []byte) bool { total += len(k) + len(v); return true }); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("%d bytes of metadata for 64 MiB in 2 chunks at (8,2), name of 32 bytes", total)
	if err != nil || total == 0 || total > 2500 {
		t.Fatal(total, err)
	}
}
