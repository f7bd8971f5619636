package kvtest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
)

// longKey makes keys around places where a store may change the way in which it keeps them. Many share
// their first 32 KiB.
func longKey(first byte, length int, tail string) string {
	return string(first) + strings.Repeat("k", length-1-len(tail)) + tail
}

// testLongKeys: keys up to the limit are found, ordered and deleted like short ones.
func testLongKeys(t *testing.T, f *fixture) {
	var keys []string
	for _, first := range []byte("ace") {
		for _, n := range []int{1, 1000, 32<<10 - 1, 32 << 10, 32<<10 + 1, 48 << 10, kv.MaxKey - 1, kv.MaxKey} {
			keys = append(keys, longKey(first, n, ""))
		}
		keys = append(keys, longKey(first, 40<<10, "a"), longKey(first, 40<<10, "z"), longKey(first, 32<<10, "z"))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for i, k := range keys {
		f.put(kv.Commit(i%2), "a", k, fmt.Sprint(i))
	}
	f.must(f.Sync(f.ctx))
	f.put(kv.Durable, "b", longKey('x', kv.MaxKey, ""), "neighbour")
	check := func(keys []string, r kv.Range) {
		t.Helper()
		var want []string
		for _, k := range keys {
			if k >= string(r.From) && (r.To == nil || k < string(r.To)) {
				want = append(want, k)
			}
		}
		if r.Reverse {
			slices.Reverse(want)
		}
		if r.Limit > 0 {
			want = want[:min(len(want), r.Limit)]
		}
		var got []string
		f.must(f.View(f.ctx, kv.Linearizable, func(rd kv.Reader) error {
			return rd.Range("a", r, func(k, _ []byte) bool { got = append(got, string(k)); return true })
		}))
		if !slices.Equal(got, want) {
			t.Errorf("range from %d to %d bytes, reverse %v, limit %d: %d keys, want %d", len(r.From), len(r.To), r.Reverse, r.Limit, len(got), len(want))
		}
	}
	bounds := [][]byte{nil, []byte("b"), []byte(keys[2]), []byte(longKey('c', 32<<10+1, "")), []byte(longKey('c', 40<<10, "b")), []byte(longKey('e', kv.MaxKey, ""))}
	ranges := func(keys []string) {
		t.Helper()
		for _, from := range bounds {
			for _, to := range bounds {
				check(keys, kv.Range{From: from, To: to})
				check(keys, kv.Range{From: from, To: to, Reverse: true, Limit: 7})
			}
		}
	}
	ranges(keys)
	for i, k := range keys {
		f.want(kv.Linearizable, "a", k, fmt.Sprint(i))
	}
	f.want(kv.Linearizable, "a", longKey('c', 40<<10, "b"), "<none>")
	f.want(kv.Linearizable, "a", longKey('b', 40<<10, ""), "<none>")
	// Delete all that begin with "c", then every other one.
	_, err := kv.Apply(f.ctx, f, kv.Durable, []kv.Step{{Op: kv.OpDeletePrefix, Keyspace: "a", Key: []byte("c")}})
	f.must(err)
	keys = slices.DeleteFunc(keys, func(k string) bool { return k[0] == 'c' })
	ranges(keys)
	var left []string
	for i, k := range keys {
		if i%2 == 0 {
			left = append(left, k)
			continue
		}
		f.must(f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error { tx.Delete("a", []byte(k)); return nil }))
	}
	ranges(left)
}

// genLongKey draws keys that mostly differ far behind their beginning.
var genLongKey = rapid.Custom(func(t *rapid.T) string {
	n := rapid.SampledFrom([]int{1, 32<<10 - 1, 32 << 10, 32<<10 + 1, 32<<10 + 2, kv.MaxKey}).Draw(t, "length")
	tail := rapid.StringMatching(`[ab]{0,2}`).Draw(t, "tail")
	return longKey(rapid.SampledFrom([]byte("pq")).Draw(t, "first"), max(n, 1+len(tail)), tail)
})

// testLongModel runs random transactions over long keys against a map.
func testLongModel(t *testing.T, f *fixture) {
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		ks, m := fmt.Sprint("long", round), model{}
		for range rapid.IntRange(1, 4).Draw(t, "transactions") {
			n := rapid.IntRange(1, 4).Draw(t, "ops")
			var next model
			if err := f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error {
				next = model{}
				for k, v := range m {
					next[k] = v
				}
				for i := range n {
					key := genLongKey.Draw(t, "key")
					if rapid.IntRange(0, 2).Draw(t, "op") == 0 {
						tx.Delete(kv.Keyspace(ks), []byte(key))
						delete(next, [2]string{ks, key})
					} else {
						tx.Put(kv.Keyspace(ks), []byte(key), []byte{byte(i)})
						next[[2]string{ks, key}] = string([]byte{byte(i)})
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			m = next
			g := kv.Range{Reverse: rapid.Bool().Draw(t, "reverse"), Limit: rapid.IntRange(0, 3).Draw(t, "limit")}
			if rapid.Bool().Draw(t, "bounded") {
				g.From, g.To = []byte(genLongKey.Draw(t, "from")), []byte(genLongKey.Draw(t, "to"))
			}
			if err := f.View(f.ctx, kv.Pending, func(r kv.Reader) error {
				got, err := list(r, kv.Keyspace(ks), g)
				if want := m.list(ks, g); err != nil || got != want {
					t.Fatalf("a range shows %d bytes, want %d, %v", len(got), len(want), err)
				}
				key := genLongKey.Draw(t, "get")
				want, ok := m[[2]string{ks, key}]
				if v, err := r.Get(kv.Keyspace(ks), []byte(key)); (err == nil) != ok || !bytes.Equal(v, []byte(want)) {
					t.Fatalf("get of %d bytes: %q, %v; want %q", len(key), v, err, want)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
