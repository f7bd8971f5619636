package kvtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
)

// model is the store as a plain map from keyspace and key to value.
type model map[[2]string]string

func (m model) list(ks string, g kv.Range) string {
	var keys []string
	for k := range m {
		if k[0] == ks && k[1] >= string(g.From) && (g.To == nil || k[1] < string(g.To)) {
			keys = append(keys, k[1])
		}
	}
	slices.Sort(keys)
	if g.Reverse {
		slices.Reverse(keys)
	}
	if g.Limit > 0 && len(keys) > g.Limit {
		keys = keys[:g.Limit]
	}
	for i, k := range keys {
		keys[i] = k + "=" + m[[2]string{ks, k}]
	}
	return strings.Join(keys, " ")
}

var (
	genKeyspace = rapid.SampledFrom([]string{"p", "pq", "q"})
	genKey      = rapid.StringMatching(`[ab]{1,4}`)
	genValue    = rapid.StringMatching(`[x-z]{0,12}`)
	genBound    = rapid.OneOf(rapid.Just[[]byte](nil), rapid.SliceOfN(rapid.SampledFrom([]byte("ab\x00z")), 0, 4))
	genRange    = rapid.Custom(func(t *rapid.T) kv.Range {
		return kv.Range{
			From: genBound.Draw(t, "from"), To: genBound.Draw(t, "to"),
			Reverse: rapid.Bool().Draw(t, "reverse"), Limit: rapid.IntRange(0, 4).Draw(t, "limit"),
		}
	})
)

func (m model) check(t *rapid.T, r kv.Reader) {
	ks, key, g := genKeyspace.Draw(t, "ks"), genKey.Draw(t, "key"), genRange.Draw(t, "range")
	want, ok := m[[2]string{ks, key}]
	if !ok {
		want = "<none>"
	}
	if got, err := get(r, kv.Keyspace(ks), key); err != nil || got != want {
		t.Fatalf("get %s/%q: %q, %v; want %q", ks, key, got, err, want)
	}
	if got, err := list(r, kv.Keyspace(ks), g); err != nil || got != m.list(ks, g) {
		t.Fatalf("range %s %+v: %q, %v; want %q", ks, g, got, err, m.list(ks, g))
	}
}

var errAbort = errors.New("abort")

// testModel runs random transactions against the store and the model and compares what they show.
func testModel(t *testing.T, f *fixture) {
	rapid.Check(t, func(t *rapid.T) {
		// One store for all runs: each begins by emptying it.
		m := model{}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error {
			for _, ks := range []kv.Keyspace{"p", "pq", "q"} {
				var keys [][]byte
				if err := tx.Range(ks, kv.Range{}, func(k, _ []byte) bool { keys = append(keys, k); return true }); err != nil {
					return err
				}
				for _, k := range keys {
					tx.Delete(ks, k)
				}
			}
			return nil
		}))
		t.Repeat(map[string]func(*rapid.T){
			"update": func(t *rapid.T) {
				commit := kv.Commit(0)
				if rapid.IntRange(0, 7).Draw(t, "commit") > 0 {
					commit = kv.Ordered
				}
				abort := rapid.IntRange(0, 5).Draw(t, "abort") == 0
				n := rapid.IntRange(0, 6).Draw(t, "ops")
				var next model
				err := f.Update(f.ctx, commit, func(tx kv.Txn) error {
					next = maps.Clone(m)
					for i := range n {
						ks, key := genKeyspace.Draw(t, "ks"), genKey.Draw(t, "key")
						switch rapid.IntRange(0, 3).Draw(t, fmt.Sprint("op", i)) {
						case 0, 1:
							v := genValue.Draw(t, "value")
							tx.Put(kv.Keyspace(ks), []byte(key), []byte(v))
							next[[2]string{ks, key}] = v
						case 2:
							tx.Delete(kv.Keyspace(ks), []byte(key))
							delete(next, [2]string{ks, key})
						case 3:
							next.check(t, tx)
						}
					}
					if abort {
						return errAbort
					}
					return nil
				})
				if abort && err == errAbort {
					return
				}
				must(err)
				m = next
			},
			"view": func(t *rapid.T) {
				l := rapid.SampledFrom([]kv.Level{kv.Pending, kv.Linearizable}).Draw(t, "level")
				must(f.View(f.ctx, l, func(r kv.Reader) error { m.check(t, r); return nil }))
			},
			"sync": func(t *rapid.T) { must(f.Sync(f.ctx)) },
		})
	})
}
