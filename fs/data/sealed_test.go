package data_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/memns"
)

// secretive is a namespace that says that it is encrypted.
type secretive struct {
	*memns.Namespace
	secret byte
	locked bool
}

func (s *secretive) Secret(purpose string) (key [32]byte, ok bool) {
	copy(key[1:], purpose)
	key[0] = s.secret
	return key, !s.locked
}

// still is a clock that stands: inline rows stay where they are, however long the test takes.
var still = data.Options{Clock: func() time.Time { return time.Unix(1e9, 0) }}

// rows returns every key and value of the keyspaces that hold content or say something about it.
func rows(t *testing.T, store kv.Store, spaces ...kv.Keyspace) (out []byte, count int) {
	t.Helper()
	err := store.View(context.Background(), kv.Pending, func(r kv.Reader) error {
		for _, ks := range spaces {
			err := r.Range(ks, kv.Range{}, func(k, v []byte) bool {
				out = append(append(out, k...), v...)
				count++
				return true
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, count
}

// TestSealedVolume: the key-value store of an encrypted volume has no content in the clear, everything can be read
// with the key, also after a restart, and what needs no key works without.
func TestSealedVolume(t *testing.T) {
	ctx := context.Background()
	const marker = "plain text marker"
	ns := &secretive{Namespace: memns.New(), secret: 1}
	store := memkv.New(memkv.Rerun())
	t.Cleanup(func() { _ = store.Close() })
	if _, err := meta.Format(ctx, store, meta.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	tree, err := meta.Open(ctx, store, meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var s *data.Store
	reopen := func() {
		t.Helper()
		if s != nil {
			if err := s.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if s, err = data.Open(ctx, store, ns, still); err != nil {
			t.Fatal(err)
		}
	}
	reopen()
	t.Cleanup(func() { _ = s.Close(ctx) })
	want := make(map[fs.Ino][]byte)
	for i := range 20 {
		in, err := tree.Mknod(ctx, fs.Cred{}, fs.Root, fmt.Sprint(i), fs.TypeRegular|0o644, 0)
		if err != nil {
			t.Fatal(err)
		}
		// Small synced writes go inline; some overlap, and so cut each other.
		p := make([]byte, 3000)
		for j := range 4 {
			b := bytes.Repeat([]byte(fmt.Sprintf("%s %d %d|", marker, i, j)), 30)
			off := 100 * j * (i + 1) % 2000
			if err := s.Write(ctx, in.Ino, int64(off), b); err != nil {
				t.Fatal(err)
			}
			if err := s.Fsync(ctx, in.Ino); err != nil {
				t.Fatal(err)
			}
			copy(p[off:], b)
			want[in.Ino] = p[:max(off+len(b), len(bytes.TrimRight(p, "\x00")))]
		}
	}
	all, count := rows(t, store, "inline", "extent", "blob", "pack", "data", "fold")
	if count == 0 || bytes.Contains(all, []byte(marker)) {
		t.Fatalf("%d rows; content in the clear: %v", count, bytes.Contains(all, []byte(marker)))
	}
	if _, n := rows(t, store, "inline"); n == 0 {
		t.Fatal("nothing was inline: the test shows nothing")
	}
	check := func() {
		t.Helper()
		for ino, p := range want {
			got := make([]byte, len(p)+1)
			if n, err := s.Read(ctx, ino, 0, got); err != nil || !bytes.Equal(got[:n], p) {
				t.Fatalf("inode %d: %d bytes, want %d: %v", ino, n, len(p), err)
			}
		}
	}
	clean := func(deep bool) {
		t.Helper()
		_, err := data.Check(ctx, store, ns, data.CheckOptions{Deep: deep}, func(p data.Problem) { t.Errorf("%+v", p) })
		if err != nil {
			t.Fatal(err)
		}
	}
	check()
	reopen()
	check()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	clean(true)
	ns.locked = true
	clean(false)
	if _, err := data.Check(ctx, store, ns, data.CheckOptions{Deep: true}, func(data.Problem) {}); !errors.Is(err, objstore.ErrLocked) {
		t.Fatal(err)
	}
	if _, err := data.Open(ctx, store, ns, still); !errors.Is(err, objstore.ErrLocked) {
		t.Fatal(err)
	}
	ns.locked, ns.secret = false, 2
	if _, err := data.Open(ctx, store, ns, still); !errors.Is(err, objstore.ErrWrongKey) {
		t.Fatal(err)
	}
	ns.secret = 1
	if s, err = data.Open(ctx, store, ns, still); err != nil {
		t.Fatal(err)
	}
	check()
}

// TestSealedRowsStayWhereTheyBelong: an inline row that was changed, or moved to another place, is damage.
func TestSealedRowsStayWhereTheyBelong(t *testing.T) {
	ctx := context.Background()
	for name, tamper := range map[string]func(keys, values [][]byte) []byte{
		"changed": func(_, values [][]byte) []byte { v := bytes.Clone(values[0]); v[len(v)-1] ^= 1; return v },
		"moved":   func(_, values [][]byte) []byte { return values[1] },
		"cut":     func(_, values [][]byte) []byte { return values[0][:len(values[0])-1] },
		"short":   func(_, values [][]byte) []byte { return values[0][:10] },
	} {
		ns := &secretive{Namespace: memns.New(), secret: 1}
		store := memkv.New()
		if _, err := meta.Format(ctx, store, meta.FormatOptions{}); err != nil {
			t.Fatal(err)
		}
		tree, err := meta.Open(ctx, store, meta.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := data.Open(ctx, store, ns, still)
		if err != nil {
			t.Fatal(err)
		}
		var inos []fs.Ino
		for i := range 2 {
			in, err := tree.Mknod(ctx, fs.Cred{}, fs.Root, fmt.Sprint(i), fs.TypeRegular|0o644, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Write(ctx, in.Ino, 0, []byte("some content")); err != nil {
				t.Fatal(err)
			}
			if err := s.Fsync(ctx, in.Ino); err != nil {
				t.Fatal(err)
			}
			inos = append(inos, in.Ino)
		}
		err = store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
			var keys, values [][]byte
			err := tx.Range("inline", kv.Range{}, func(k, v []byte) bool {
				keys, values = append(keys, bytes.Clone(k)), append(values, bytes.Clone(v))
				return true
			})
			if len(keys) != 2 {
				t.Fatalf("%d inline rows", len(keys))
			}
			tx.Put("inline", keys[0], tamper(keys, values))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var damage *data.DamageError
		for i, ino := range inos {
			_, err := s.Read(ctx, ino, 0, make([]byte, 12))
			if i == 0 && err == nil || i == 1 && err != nil {
				t.Errorf("%s: file %d: %v", name, i, err)
			}
		}
		_, err = data.Check(ctx, store, ns, data.CheckOptions{Volume: s}, func(data.Problem) {})
		if err != nil && !errors.As(err, &damage) {
			t.Errorf("%s: %v", name, err)
		}
		_ = s.Close(ctx)
		_ = store.Close()
	}
}
