package raftkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// examine reads everything that the damaged store should have, in several ways, and makes it write. It
// returns the first error; wrong data fail the test.
func examine(t *testing.T, dir string, want uint64) error {
	o := crashOptions(dir)
	s, err := raftkv.Open(context.Background(), o)
	if err != nil {
		return err
	}
	defer s.Close()
	look := func() error {
		return s.View(context.Background(), kv.Linearizable, func(r kv.Reader) error {
			for i := want; i > want-window; i-- {
				v, err := r.Get("data", crashKey(i))
				if err != nil && !errors.Is(err, kv.ErrNotFound) {
					return err
				}
				if !bytes.Equal(v, crashValue(i)) {
					return fmt.Errorf("key %d silently has %d bytes, %v", i, len(v), err)
				}
			}
			return nil
		})
	}
	if err := look(); err != nil {
		return err
	}
	if err := lookAtLong(s); err != nil {
		return err
	}
	n, err := lookAt(s)
	if err != nil {
		return err
	}
	if n != want {
		return fmt.Errorf("silently shows %d transactions, want %d", n, want)
	}
	// Enough to flush, which must not turn damage into something that looks whole.
	for range 40 {
		if err := s.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error {
			for i := range 20 {
				tx.Put("other", crashKey(uint64(i)), make([]byte, 300))
			}
			tx.Put("data", crashKey(want), crashValue(want))
			tx.Put("long", damageKey(longKeys), nil)
			tx.Delete("long", damageKey(longKeys))
			return nil
		}); err != nil {
			return err
		}
	}
	if err := s.Sync(context.Background()); err != nil {
		return err
	}
	if err := look(); err != nil {
		return err
	}
	if _, err := s.Verify(context.Background()); err != nil {
		return err
	}
	return s.Close()
}

// longKeys is how many keys the damaged store has that bbolt does not take as they are.
const longKeys = 12

func damageKey(i int) []byte {
	return append(bytes.Repeat([]byte{byte(i / 4)}, 32<<10), bytes.Repeat([]byte{byte(i)}, 1+i*100)...)
}

func lookAtLong(s kv.Store) error {
	return s.View(context.Background(), kv.Linearizable, func(r kv.Reader) error {
		n := 0
		err := r.Range("long", kv.Range{}, func(k, v []byte) bool {
			if !bytes.Equal(k, damageKey(n)) || len(v) != 2000 {
				return false
			}
			n++
			return true
		})
		if err == nil && n != longKeys {
			err = fmt.Errorf("silently shows %d long keys, want %d", n, longKeys)
		}
		return err
	})
}

// TestFlippedByte: one damaged bit in any file is reported with a typed error or does no harm.
func TestFlippedByte(t *testing.T) {
	master := memDir(t)
	o := crashOptions(master)
	s := open(t, o)
	for range 900 {
		if _, err := crashStep(s, kv.Ordered); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Update(context.Background(), kv.Durable, func(tx kv.Txn) error {
		for i := range longKeys {
			tx.Put("long", damageKey(i), make([]byte, 2000))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wait(t, "for a flush", func() bool { return s.Stats().RecentBytes < 100<<10 })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(master, "state.db"), usedBytes(t, filepath.Join(master, "state.db"))); err != nil {
		t.Fatal(err)
	}
	rounds := 60
	if testing.Short() {
		rounds = 5
	}
	rng := rand.New(rand.NewPCG(5, 6))
	if err := fs.WalkDir(os.DirFS(master), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(name, "spare") {
			return err
		}
		content, err := os.ReadFile(filepath.Join(master, name))
		if err != nil || len(content) == 0 {
			return err
		}
		reported := 0
		for round := range rounds {
			at := rng.IntN(len(content))
			if round%3 == 0 {
				at = rng.IntN(min(len(content), 4096))
			}
			dir := memDir(t)
			if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
				return err
			}
			b := bytes.Clone(content)
			b[at] ^= 1 << rng.IntN(8)
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				return err
			}
			err := examine(t, dir, 900)
			var corrupt *kv.CorruptError
			switch {
			case err == nil:
			case errors.As(err, &corrupt) && strings.Contains(corrupt.What, filepath.Join(dir, strings.Split(name, "/")[0])):
				reported++
			default:
				t.Errorf("byte %d of %s: %v", at, name, err)
			}
			_ = os.RemoveAll(dir)
		}
		t.Logf("%s: %d of %d reported, the others harmless", name, reported, rounds)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// usedBytes is the size of a file without the zeroes at its end, in whole pages.
func usedBytes(t *testing.T, path string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := len(bytes.TrimRight(b, "\x00"))
	return int64(n+4095) &^ 4095
}
