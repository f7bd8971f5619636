package kvtest

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/kv"
)

var levels = []kv.Level{kv.Linearizable, kv.Pending}

func testBasics(t *testing.T, f *fixture) {
	for _, l := range []kv.Level{kv.Linearizable, kv.Pending, kv.Stale} {
		f.want(l, "a", "k", "<none>")
	}
	for _, c := range []kv.Commit{kv.Durable, kv.Ordered} {
		f.put(c, "a", "k", "one")
		f.put(c, "a", "empty", "")
		f.put(c, "a", "\x00\xff\x00", "binary")
		for _, l := range levels {
			f.want(l, "a", "k", "one")
			f.want(l, "a", "empty", "")
			f.want(l, "a", "\x00\xff\x00", "binary")
		}
		f.put(c, "a", "k", "two")
		f.want(kv.Pending, "a", "k", "two")
		f.must(f.Update(f.ctx, c, func(tx kv.Txn) error {
			tx.Delete("a", []byte("k"))
			tx.Delete("a", []byte("empty"))
			tx.Delete("a", []byte("never"))
			tx.Delete("never", []byte("never"))
			return nil
		}))
		for _, l := range levels {
			f.want(l, "a", "k", "<none>")
			f.want(l, "a", "empty", "<none>")
		}
		f.must(f.Update(f.ctx, c, func(kv.Txn) error { return nil }))
	}
	f.must(f.Sync(f.ctx))
	f.want(kv.Linearizable, "a", "\x00\xff\x00", "binary")
}

func testOwnWrites(t *testing.T, f *fixture) {
	f.put(kv.Durable, "a", "k", "old")
	f.must(f.Update(f.ctx, kv.Durable, func(tx kv.Txn) error {
		steps := []struct {
			do   func()
			want string
		}{
			{func() {}, "old"},
			{func() { tx.Put("a", []byte("k"), []byte("new")) }, "new"},
			{func() { tx.Delete("a", []byte("k")) }, "<none>"},
			{func() { tx.Delete("a", []byte("k")) }, "<none>"},
			{func() { tx.Put("a", []byte("k"), nil) }, ""},
			{func() { tx.Put("a", []byte("k"), []byte("last")) }, "last"},
		}
		for i, s := range steps {
			s.do()
			if got, err := get(tx, "a", "k"); err != nil || got != s.want {
				t.Errorf("step %d: %q, %v; want %q", i, got, err, s.want)
			}
		}
		return nil
	}))
	f.want(kv.Linearizable, "a", "k", "last")
}

func testAbort(t *testing.T, f *fixture) {
	f.put(kv.Durable, "a", "k", "kept")
	mine := errors.New("mine")
	for _, c := range []kv.Commit{kv.Durable, kv.Ordered} {
		err := f.Update(f.ctx, c, func(tx kv.Txn) error {
			tx.Put("a", []byte("k"), []byte("lost"))
			tx.Put("b", []byte("new"), []byte("lost"))
			return mine
		})
		if err != mine { // the error itself, not a wrapper
			t.Fatalf("update returned %v, want the function's error", err)
		}
	}
	if err := f.View(f.ctx, kv.Pending, func(kv.Reader) error { return mine }); err != mine {
		t.Fatalf("view returned %v, want the function's error", err)
	}
	for _, l := range levels {
		f.want(l, "a", "k", "kept")
		f.want(l, "b", "new", "<none>")
	}
}

// testPanic: a function that panics writes nothing and leaves a usable store.
func testPanic(t *testing.T, f *fixture) {
	recovered := func(run func()) (v any) {
		defer func() { v = recover() }()
		run()
		return nil
	}
	if v := recovered(func() {
		_ = f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error {
			tx.Put("a", []byte("k"), []byte("lost"))
			panic("update")
		})
	}); v != "update" {
		t.Fatalf("recovered %v", v)
	}
	if v := recovered(func() { _ = f.View(f.ctx, kv.Pending, func(kv.Reader) error { panic("view") }) }); v != "view" {
		t.Fatalf("recovered %v", v)
	}
	f.want(kv.Linearizable, "a", "k", "<none>")
	f.put(kv.Durable, "a", "k", "fine")
	f.want(kv.Linearizable, "a", "k", "fine")
}

// testReput: what a reader handed out may be put again, under the same key and another.
func testReput(t *testing.T, f *fixture) {
	f.put(kv.Durable, "a", "from", "moved")
	f.must(f.Sync(f.ctx))
	f.must(f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error {
		v, err := tx.Get("a", []byte("from"))
		if err != nil {
			return err
		}
		tx.Delete("a", []byte("from"))
		tx.Put("a", []byte("to"), v)
		var keys [][]byte
		if err := tx.Range("a", kv.Range{}, func(k, v []byte) bool { keys = append(keys, k, v); return true }); err != nil {
			return err
		}
		if len(keys) != 2 {
			t.Errorf("%d slices, want 2", len(keys))
		}
		tx.Put("b", keys[0], keys[1])
		return nil
	}))
	f.put(kv.Durable, "a", "other", "x")
	for _, l := range levels {
		f.want(l, "a", "from", "<none>")
		f.want(l, "a", "to", "moved")
		f.want(l, "b", "to", "moved")
	}
}

// testKeyspaces: keyspaces with names that are prefixes of each other, or that end in zero bytes, do
// not mix.
func testKeyspaces(t *testing.T, f *fixture) {
	names := []kv.Keyspace{"a", "ab", "a\x00", "b", kv.Keyspace(strings.Repeat("n", kv.MaxKeyspace))}
	f.must(f.Update(f.ctx, kv.Durable, func(tx kv.Txn) error {
		for _, ks := range names {
			tx.Put(ks, []byte("k"), []byte("of "+ks))
			tx.Put(ks, []byte("\x00"), []byte("zero of "+ks))
		}
		return nil
	}))
	f.must(f.Update(f.ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Delete("ab", []byte("k"))
		return nil
	}))
	f.must(f.View(f.ctx, kv.Linearizable, func(r kv.Reader) error {
		for _, ks := range names {
			for _, reverse := range []bool{false, true} {
				want := "\x00=zero of " + string(ks)
				if last := "k=of " + string(ks); ks != "ab" && reverse {
					want = last + " " + want
				} else if ks != "ab" {
					want += " " + last
				}
				if got, err := list(r, ks, kv.Range{Reverse: reverse}); err != nil || got != want {
					t.Errorf("%q reverse %v: %q, %v; want %q", ks, reverse, got, err, want)
				}
			}
		}
		got, err := list(r, "absent", kv.Range{})
		if err != nil || got != "" {
			t.Errorf("absent keyspace: %q, %v", got, err)
		}
		return nil
	}))
}

func testLimits(t *testing.T, f *fixture) {
	long := strings.Repeat("k", kv.MaxKey)
	keyspace := kv.Keyspace(strings.Repeat("s", kv.MaxKeyspace))
	for _, c := range []struct {
		name string
		what string
		fn   func(kv.Txn)
	}{
		{"no keyspace", "keyspace", func(tx kv.Txn) { tx.Put("", []byte("k"), nil) }},
		{"long keyspace", "keyspace", func(tx kv.Txn) { tx.Put(keyspace+"s", []byte("k"), nil) }},
		{"no key", "key", func(tx kv.Txn) { tx.Put("a", nil, nil) }},
		{"long key", "key", func(tx kv.Txn) { tx.Put("a", []byte(long+"k"), nil) }},
		{"delete no key", "key", func(tx kv.Txn) { tx.Delete("a", nil) }},
		{"delete long key", "key", func(tx kv.Txn) { tx.Delete("a", []byte(long+"k")) }},
		{"long value", "value", func(tx kv.Txn) { tx.Put("a", []byte("k"), make([]byte, kv.MaxValue+1)) }},
		{"large batch", "batch", func(tx kv.Txn) {
			v := make([]byte, kv.MaxValue)
			for i := range 5 {
				tx.Put("a", []byte{'k', byte(i)}, v)
			}
		}},
	} {
		err := f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error {
			tx.Put("a", []byte("innocent"), nil)
			c.fn(tx)
			tx.Put("a", []byte("innocent too"), nil)
			return nil
		})
		var large *kv.TooLargeError
		if !errors.As(err, &large) || large.What != c.what {
			t.Errorf("%s: %v, want a TooLargeError of the %s", c.name, err, c.what)
		}
		if large != nil && len(large.KeyPreview) > 64 {
			t.Errorf("%s: the preview has %d bytes", c.name, len(large.KeyPreview))
		}
	}
	f.must(f.View(f.ctx, kv.Linearizable, func(r kv.Reader) error {
		got, err := list(r, "a", kv.Range{})
		if got != "" {
			t.Errorf("a refused update left %q", got)
		}
		// Reading outside the limits finds nothing.
		for _, k := range []string{"", long + "k"} {
			if _, err := r.Get("a", []byte(k)); !errors.Is(err, kv.ErrNotFound) {
				t.Errorf("get of a key of %d bytes: %v", len(k), err)
			}
		}
		return err
	}))
	// The function's own error wins over a limit.
	mine := errors.New("mine")
	if err := f.Update(f.ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("", nil, nil); return mine }); err != mine {
		t.Errorf("got %v, want the function's error", err)
	}
	// Exactly at the limit is allowed.
	f.put(kv.Durable, keyspace, long, "fits")
	f.want(kv.Linearizable, keyspace, long, "fits")
}

// testLargeValues: values up to the limit, and a batch that is just within it, survive whole.
func testLargeValues(t *testing.T, f *fixture) {
	sizes := []int{1, 100, 4096, 300 << 10, 1 << 20, kv.MaxValue}
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, sizes[i]) }
	for i := range sizes {
		f.must(f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error {
			tx.Put("a", []byte{byte(i)}, value(i))
			return nil
		}))
	}
	f.must(f.Update(f.ctx, kv.Durable, func(tx kv.Txn) error {
		v := make([]byte, kv.MaxValue-1)
		for i := range 4 {
			tx.Put("b", []byte{byte(i)}, v)
		}
		return nil
	}))
	f.must(f.View(f.ctx, kv.Linearizable, func(r kv.Reader) error {
		for i := range sizes {
			if got, err := r.Get("a", []byte{byte(i)}); err != nil || !bytes.Equal(got, value(i)) {
				t.Errorf("value of %d bytes: got %d bytes, %v", sizes[i], len(got), err)
			}
		}
		return nil
	}))
}
