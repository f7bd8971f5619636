package fsck_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/fsck"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore/memns"
)

// row is one row of a store.
type row struct {
	ks         kv.Keyspace
	key, value []byte
}

// keyspaces are those that a volume writes.
var keyspaces = []kv.Keyspace{"volume", "inode", "dirent", "xattr", "orphan", "extent", "inline", "fold", "blob", "pack", "dead", "doomed", "data"}

func rows(t *testing.T, s kv.Store) (all []row) {
	t.Helper()
	err := s.View(ctx, kv.Pending, func(r kv.Reader) error {
		for _, ks := range keyspaces {
			if err := r.Range(ks, kv.Range{}, func(k, v []byte) bool {
				all = append(all, row{ks, bytes.Clone(k), bytes.Clone(v)})
				return true
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// site is a volume with one of everything, and what its files hold.
type site struct {
	store *memkv.Store
	ns    *memns.Namespace
	files map[string][]byte
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{memkv.New(), memns.New(), map[string][]byte{}}
	v, err := volume.Open(ctx, s.store, s.ns, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := v.Session(nil)
	rng := rand.NewChaCha8([32]byte{1})
	dir, err := f.Mkdir(ctx, fs.Cred{}, fs.Root, "d", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	file := func(parent fs.Ino, name string, size, tail int) {
		a, err := f.Mknod(ctx, fs.Cred{}, parent, name, 0o644, 0)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, size+tail)
		rng.Read(p)
		s.files[name] = p
		for _, part := range [][2]int{{0, size}, {size, size + tail}} {
			if err := f.Write(ctx, a.Ino, int64(part[0]), p[part[0]:part[1]]); err != nil {
				t.Fatal(err)
			}
			if err := f.Fsync(ctx, a.Ino); err != nil { // the tail is small enough to go inline
				t.Fatal(err)
			}
		}
		if err := f.SetXattr(ctx, a.Ino, "user.a", []byte("b"), 0); err != nil {
			t.Fatal(err)
		}
	}
	file(fs.Root, "large", 5<<20, 100)
	file(dir.Ino, "small", 200<<10, 100)
	file(dir.Ino, "inline", 300, 0)
	if _, err := f.Symlink(ctx, fs.Cred{}, dir.Ino, "link", "target"); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// check runs fsck over an open volume, as it is run.
func (s *site) check(t *testing.T, repair, deep bool) (fsck.Report, error) {
	t.Helper()
	v, err := volume.Open(ctx, s.store, s.ns, volume.Options{})
	if err != nil {
		return fsck.Report{}, err
	}
	defer v.Close(ctx)
	return fsck.Run(ctx, fsck.Options{KV: s.store, Repair: repair, Layers: []fsck.Layer{{Name: "content", Check: func(ctx context.Context, p fsck.Pass) error {
		o := data.CheckOptions{Deep: deep, Repair: p.Repair, Volume: v.Data(), Progress: p.Progress}
		_, err := data.Check(ctx, s.store, s.ns, o, func(d data.Problem) {
			p.Report(fsck.Problem{Kind: d.Kind, Object: d.Object, Text: d.Text, Repairable: d.Repairable, Repaired: d.Repaired})
		})
		return err
	}}}})
}

// read returns what a file holds, wherever it is.
func (s *site) read(t *testing.T, name string) ([]byte, error) {
	t.Helper()
	v, err := volume.Open(ctx, s.store, s.ns, volume.Options{})
	if err != nil {
		return nil, err
	}
	defer v.Close(ctx)
	f := v.Session(nil)
	parent := fs.Root
	if name != "large" {
		d, err := f.Lookup(ctx, fs.Root, "d")
		if err != nil {
			return nil, err
		}
		parent = d.Ino
	}
	a, err := f.Lookup(ctx, parent, name)
	if err != nil {
		return nil, err
	}
	p := make([]byte, a.Size)
	_, err = f.Read(ctx, a.Ino, 0, p)
	return p, err
}

func (s *site) copy() *site { return &site{s.store.Crash(s.store.Unsynced()), s.ns, s.files} }

// damages of one row.
var rowDamages = map[string]func(t kv.Txn, r row){
	"deleted": func(t kv.Txn, r row) { t.Delete(r.ks, r.key) },
	"emptied": func(t kv.Txn, r row) { t.Put(r.ks, r.key, nil) },
	"garbage": func(t kv.Txn, r row) {
		t.Put(r.ks, r.key, []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	},
	"longer":   func(t kv.Txn, r row) { t.Put(r.ks, r.key, append(bytes.Clone(r.value), 1)) },
	"key long": func(t kv.Txn, r row) { t.Put(r.ks, append(bytes.Clone(r.key), 'x'), r.value) },
	"key cut":  func(t kv.Txn, r row) { t.Put(r.ks, bytes.Clone(r.key[:len(r.key)-1]), r.value) },
	"key turned": func(t kv.Txn, r row) {
		k := bytes.Clone(r.key)
		k[len(k)-1] ^= 0x55
		t.Put(r.ks, k, r.value)
	},
}

// TestEveryRow damages every row of a volume in turn, in every way. The check finds it, or it does no
// harm; it never panics; after the repair nothing is left that could be repaired; and the files that
// the damage did not touch read as before.
func TestEveryRow(t *testing.T) {
	whole := newSite(t)
	if r, err := whole.check(t, false, true); err != nil || !r.Clean {
		t.Fatalf("%+v, %v", r, err)
	}
	all := rows(t, whole.store)
	for _, r := range all {
		for how, damage := range rowDamages {
			t.Run(fmt.Sprintf("%s/%x/%s", r.ks, r.key, how), func(t *testing.T) { everyRow(t, whole.copy(), r, damage) })
		}
	}
}

func everyRow(t *testing.T, s *site, r row, damage func(kv.Txn, row)) {
	if err := s.store.Update(ctx, kv.Durable, func(t kv.Txn) error { damage(t, r); return nil }); err != nil {
		t.Fatal(err)
	}
	before, err := s.check(t, false, true)
	if err != nil {
		if r.ks == "volume" && string(r.key) == "format" || r.ks == "data" {
			return // without these nothing can be read: it has to be said, and is
		}
		t.Fatalf("the check failed: %v", err)
	}
	for range 3 {
		if _, err := s.check(t, true, true); err != nil {
			t.Fatalf("the repair failed: %v; found before %+v", err, before.Problems)
		}
	}
	after, err := s.check(t, false, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range after.Problems {
		if p.Repairable {
			t.Errorf("left after the repair: %+v; found before %+v", p, before.Problems)
		}
	}
	for name, want := range s.files {
		got, err := s.read(t, name)
		if err == nil && bytes.Equal(got, want) {
			continue
		}
		if before.Clean {
			t.Errorf("%s is damaged (%v), and the check says nothing", name, err)
		} else if err == nil && !mentioned(before, after) {
			t.Errorf("%s reads %d bytes without an error, want %d; found %+v", name, len(got), len(want), before.Problems)
		}
	}
}

// mentioned reports whether a check told that content or an inode was lost.
func mentioned(reports ...fsck.Report) bool {
	for _, r := range reports {
		for _, p := range r.Problems {
			if p.Kind == "damaged-row" || strings.HasPrefix(p.Kind, "lost-") || p.Kind == data.KindBlocks || p.Kind == data.KindStrayContent ||
				p.Kind == data.KindStrayInline || p.Kind == "dangling-entry" || p.Kind == data.KindContent {
				return true
			}
		}
	}
	return false
}
