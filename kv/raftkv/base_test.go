package raftkv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
)

// TestBaseAgrees writes the same random transactions into a store that flushes all the time, and
// outgrows its mapping again and again, and into the reference model, and compares what they show. Keys
// and values are such that the state file gets branches, overflow pages and empty leaves.
func TestBaseAgrees(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "raftkv")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	s, err := Open(ctx, Options{Dir: dir, FlushBytes: 300 << 10, mapBytes: 256 << 10, partBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	model := memkv.New()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	key := func() []byte {
		b := binary.BigEndian.AppendUint64(nil, uint64(rng.IntN(9000)))
		if b[7]%16 == 0 {
			b = append(b, bytes.Repeat([]byte{'k'}, rng.IntN(2000))...)
		}
		if b[7] == 1 && rng.IntN(4) == 0 { // few beginnings, so that some long keys share theirs
			b[6] &= 1
			b = append(b, bytes.Repeat([]byte{'k'}, maxPlain-9+rng.IntN(4)*rng.IntN(kv.MaxKey-maxPlain)/3)...)
		}
		return b
	}
	spaces := []kv.Keyspace{"inode", "dirent", "x"}

	// Readers that are in the way of every exchange of the file.
	readers, stop := sync.WaitGroup{}, make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.View(ctx, kv.Pending, func(r kv.Reader) error {
					n := 0
					return r.Range("inode", kv.Range{}, func(_, _ []byte) bool { n++; return n < 300 })
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rounds := 30
	if testing.Short() {
		rounds = 10
	}
	for round := range rounds {
		type change struct {
			ks         kv.Keyspace
			key, value []byte
		}
		var changes []change
		deleting := round%5 == 4 // shrink, so that leaves merge
		for range 400 {
			c := change{ks: spaces[rng.IntN(len(spaces))], key: key()}
			if !deleting || rng.IntN(4) == 0 {
				n := rng.IntN(120)
				if rng.IntN(60) == 0 {
					n = rng.IntN(30000)
				}
				c.value = bytes.Repeat([]byte{byte(round)}, n)
			}
			changes = append(changes, c)
		}
		apply := func(tx kv.Txn) error {
			for _, c := range changes {
				if c.value == nil {
					tx.Delete(c.ks, c.key)
				} else {
					tx.Put(c.ks, c.key, c.value)
				}
			}
			return nil
		}
		if deleting {
			from := uint64(rng.IntN(8000))
			for i := range uint64(700) {
				changes = append(changes, change{ks: "inode", key: binary.BigEndian.AppendUint64(nil, from+i)})
			}
		}
		for _, store := range []kv.Store{s, model} {
			if err := store.Update(ctx, kv.Ordered, apply); err != nil {
				t.Fatal(err)
			}
		}
		if round%10 == 9 {
			if err := s.flush(nil); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Verify(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			g := kv.Range{From: key(), Limit: rng.IntN(900), Reverse: rng.IntN(2) == 0}
			if rng.IntN(2) == 0 {
				g.To = key()
			}
			if rng.IntN(3) == 0 {
				g.From = nil
			}
			ks := spaces[rng.IntN(len(spaces))]
			if a, b := digest(t, s, ks, g), digest(t, model, ks, g); a != b {
				t.Fatalf("round %d: %s %+v differs:\n%.300s\nwant\n%.300s", round, ks, g, a, b)
			}
		}
	}
	close(stop)
	readers.Wait()
	s.mu.Lock()
	mapped := s.gen.base.mapped
	s.mu.Unlock()
	if mapped == 256<<10 {
		t.Error("the file never outgrew its mapping")
	}
	// And again from the files alone.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(ctx, Options{Dir: dir, mapBytes: 256 << 10}); err != nil {
		t.Fatal(err)
	}
	for _, ks := range spaces {
		for _, reverse := range []bool{false, true} {
			if a, b := digest(t, s, ks, kv.Range{Reverse: reverse}), digest(t, model, ks, kv.Range{Reverse: reverse}); a != b {
				t.Errorf("%s differs after the restart", ks)
			}
		}
	}
}

func digest(t *testing.T, s kv.Store, ks kv.Keyspace, g kv.Range) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.View(context.Background(), kv.Pending, func(r kv.Reader) error {
		return r.Range(ks, g, func(k, v []byte) bool {
			fmt.Fprintf(&b, "%x/%d=%x ", k[:8], len(k), crc(v))
			if got, err := r.Get(ks, k); err != nil || !bytes.Equal(got, v) {
				t.Errorf("get of %x: %d bytes, %v; the range says %d", k, len(got), err, len(v))
			}
			return true
		})
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestSumsAfterCrash: the list of checksums may be one transaction behind the state file, damaged, or
// missing; it may not be ahead.
func TestSumsAfterCrash(t *testing.T) {
	ctx := context.Background()
	write := func(dir string, n int) {
		s, err := Open(ctx, Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range n {
			if err := s.Update(ctx, kv.Durable, func(tx kv.Txn) error {
				for j := range 300 {
					tx.Put("a", []byte(fmt.Sprint(i, j)), bytes.Repeat([]byte{byte(i)}, 100))
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if err := s.flush(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(older, newer []byte, path string) error
	}{
		"one behind": {func(older, _ []byte, path string) error { return os.WriteFile(path, older, 0o600) }},
		"damaged": {func(_, newer []byte, path string) error {
			newer[100] ^= 1
			return os.WriteFile(path, newer, 0o600)
		}},
		"missing": {func(_, _ []byte, path string) error { return os.Remove(path) }},
	} {
		dir := t.TempDir()
		path := dir + "/" + sumsFile
		write(dir, 2)
		older, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(dir, 1)
		newer, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.change(older, newer, path); err != nil {
			t.Fatal(err)
		}
		s, err := Open(ctx, Options{Dir: dir})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if n, err := s.Verify(ctx); err != nil || n == 0 {
			t.Errorf("%s: verified %d bytes, %v", name, n, err)
		}
		s.Close()
	}
}

func FuzzSums(f *testing.F) {
	f.Add(newSums([]uint32{0, 1, 2, 3}, 9).marshal(4096))
	f.Add([]byte(sumsMagic))
	old := newSums([]uint32{0, 1, 2, 3}, 9)
	b := old.marshal(4096)
	next := old.grown(6, 10)
	next.table[5] = 77
	b = append(b, next.record([]pageID{1, 5})...)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, rest, err := parseSums(b, 4096, 1<<16)
		if err != nil {
			return
		}
		again, none, err := parseSums(s.marshal(4096), 4096, 1<<16)
		if err != nil || len(none) != 0 || again.tx != s.tx || !slices.Equal(again.table, s.table) {
			t.Fatalf("does not survive a round trip: %v", err)
		}
		if len(rest) > len(b) {
			t.Fatal("more is left than there was")
		}
	})
}
