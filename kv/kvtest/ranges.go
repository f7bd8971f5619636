package kvtest

import (
	"testing"

	"github.com/gabionfs/gabion/kv"
)

var rangeCases = []struct {
	name string
	r    kv.Range
	want string
}{
	{"all", kv.Range{}, "a=1 b=2 ba=3 c=4 d=5"},
	{"reverse", kv.Range{Reverse: true}, "d=5 c=4 ba=3 b=2 a=1"},
	{"from", kv.Range{From: []byte("b")}, "b=2 ba=3 c=4 d=5"},
	{"from between", kv.Range{From: []byte("b\x00")}, "ba=3 c=4 d=5"},
	{"to", kv.Range{To: []byte("c")}, "a=1 b=2 ba=3"},
	{"to between", kv.Range{To: []byte("bz")}, "a=1 b=2 ba=3"},
	{"both", kv.Range{From: []byte("b"), To: []byte("c")}, "b=2 ba=3"},
	{"both reverse", kv.Range{From: []byte("b"), To: []byte("c"), Reverse: true}, "ba=3 b=2"},
	{"reverse to absent", kv.Range{To: []byte("bb"), Reverse: true}, "ba=3 b=2 a=1"},
	{"reverse to past the end", kv.Range{To: []byte("z"), Reverse: true}, "d=5 c=4 ba=3 b=2 a=1"},
	{"reverse from past the end", kv.Range{From: []byte("z"), Reverse: true}, ""},
	{"limit", kv.Range{Limit: 2}, "a=1 b=2"},
	{"limit reverse", kv.Range{Limit: 2, Reverse: true}, "d=5 c=4"},
	{"limit past the end", kv.Range{From: []byte("d"), Limit: 9}, "d=5"},
	{"empty", kv.Range{From: []byte("b"), To: []byte("b")}, ""},
	{"inverted", kv.Range{From: []byte("c"), To: []byte("b")}, ""},
	{"inverted reverse", kv.Range{From: []byte("c"), To: []byte("b"), Reverse: true}, ""},
	{"empty to", kv.Range{To: []byte{}}, ""},
	{"empty to reverse", kv.Range{To: []byte{}, Reverse: true}, ""},
	{"past the end", kv.Range{From: []byte("z")}, ""},
	{"prefix", kv.Prefix([]byte("b")), "b=2 ba=3"},
}

func checkRanges(t *testing.T, r kv.Reader) {
	t.Helper()
	for _, c := range rangeCases {
		if got, err := list(r, "m", c.r); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	for stop := 1; stop <= 5; stop++ {
		n := 0
		err := r.Range("m", kv.Range{}, func(_, _ []byte) bool { n++; return n < stop })
		if err != nil || n != stop {
			t.Errorf("stopping at key %d: %d calls, %v", stop, n, err)
		}
	}
}

func testRange(t *testing.T, f *fixture) {
	f.must(f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error {
		for _, ks := range []kv.Keyspace{"l", "m", "n"} { // neighbours that must not show
			for i, k := range []string{"d", "ba", "a", "c", "b"} {
				tx.Put(ks, []byte(k), []byte{"53142"[i]})
			}
			if ks != "m" {
				tx.Put(ks, []byte("z"), []byte("neighbour"))
				tx.Put(ks, []byte{0}, []byte("neighbour"))
			}
		}
		return nil
	}))
	for _, l := range []kv.Level{kv.Pending, kv.Linearizable, kv.Stale} {
		f.must(f.View(f.ctx, l, func(r kv.Reader) error { checkRanges(t, r); return nil }))
	}
}

// testRangeOwnWrites: the same picture when part of it is the transaction's own.
func testRangeOwnWrites(t *testing.T, f *fixture) {
	for k, v := range map[string]string{"a": "old", "b": "2", "bb": "gone", "d": "5", "e": "gone"} {
		f.put(kv.Ordered, "m", k, v)
	}
	f.must(f.Update(f.ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Put("l", []byte("z"), []byte("neighbour"))
		tx.Put("m", []byte("c"), []byte("4"))
		tx.Put("m", []byte("ba"), []byte("3"))
		tx.Put("m", []byte("a"), []byte("1"))
		tx.Delete("m", []byte("bb"))
		tx.Delete("m", []byte("e"))
		tx.Put("m", []byte("x"), []byte("gone too"))
		tx.Delete("m", []byte("x"))
		tx.Put("n", []byte{0}, []byte("neighbour"))
		checkRanges(t, tx)
		// Get inside Range is allowed.
		return tx.Range("m", kv.Range{}, func(k, v []byte) bool {
			if got, err := tx.Get("m", k); err != nil || string(got) != string(v) {
				t.Errorf("get of %q inside a range: %q, %v; want %q", k, got, err, v)
			}
			return true
		})
	}))
	f.must(f.View(f.ctx, kv.Linearizable, func(r kv.Reader) error { checkRanges(t, r); return nil }))
}
