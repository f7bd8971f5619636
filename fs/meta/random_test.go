package meta_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
)

var ctx = context.Background()

// clock is the time of a test. It stands still unless the test moves it, because a store may evaluate
// a transaction more than once.
type clock struct{ now int64 }

func (c *clock) read() time.Time { return time.Unix(0, c.now) }

type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func open(t fataler, s kv.Store, c *clock) *meta.Tree {
	t.Helper()
	tree, err := meta.Open(ctx, s, meta.Options{Clock: c.read})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// newTree formats a model store.
func newTree(t fataler) (*meta.Tree, *memkv.Store, *clock) {
	t.Helper()
	s, c := memkv.New(memkv.Rerun()), &clock{1_000_000_000}
	if _, err := meta.Format(ctx, s, meta.FormatOptions{Clock: c.read}); err != nil {
		t.Fatal(err)
	}
	return open(t, s, c), s, c
}

// sound fails the test when Check finds anything.
func sound(t fataler, s kv.Store) meta.Summary {
	t.Helper()
	var all []string
	sum, err := meta.Check(ctx, s, func(p meta.Problem) { all = append(all, p.String()) })
	if err != nil || len(all) > 0 {
		t.Fatalf("check: %v, problems:\n%s", err, strings.Join(all, "\n"))
	}
	return sum
}

// dump describes a tree as model.dump does, read through the methods of Tree.
func dump(t fataler, tree *meta.Tree, s kv.Store) string {
	t.Helper()
	var inos []fs.Ino
	if err := s.View(ctx, kv.Pending, func(r kv.Reader) error {
		return r.Range(meta.InodeKeyspace, kv.Range{}, func(k, _ []byte) bool {
			inos = append(inos, fs.Ino(binary.BigEndian.Uint64(k)))
			return true
		})
	}); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, ino := range inos {
		in, err := tree.Getattr(ctx, ino)
		if err != nil {
			t.Fatal(err)
		}
		names, err := tree.ListXattr(ctx, ino)
		if err != nil {
			t.Fatal(err)
		}
		var xattrs []string
		for _, name := range names {
			v, err := tree.GetXattr(ctx, ino, name)
			if err != nil {
				t.Fatal(err)
			}
			xattrs = append(xattrs, name+"="+string(v))
		}
		fmt.Fprintf(&b, "%s xattrs %v\n", describe(in.Attr, in.Parent, in.Target), xattrs)
		if in.IsDir() {
			b.WriteString(dumpDir(t, tree, ino))
		}
	}
	return b.String()
}

func dumpDir(t fataler, tree *meta.Tree, dir fs.Ino) string {
	var lines []string
	after := uint64(0)
	err := tree.ReadDir(ctx, dir, 0, true, func(d fs.Dirent, a *fs.Attr) bool {
		if d.Cookie <= after || d.Cookie < 3 || d.Cookie >= 1<<63 {
			t.Fatalf("cookie %d after %d", d.Cookie, after)
		}
		after = d.Cookie
		if in, err := tree.Lookup(ctx, dir, d.Name); err != nil || in.Attr != *a || in.Ino != d.Ino {
			t.Fatalf("entry %+v with %+v: lookup says %+v, %v", d, a, in, err)
		}
		lines = append(lines, fmt.Sprintf("  %q -> %d %o\n", d.Name, d.Ino, d.Type))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// machine runs the same operations on a tree and on the model.
type machine struct {
	*rapid.T
	tree  *meta.Tree
	store *memkv.Store
	clock *clock
	model *model
	used  []fs.Ino       // every number that there ever was
	state map[int]string // the model's dump, by how many updates were not durable after it
}

func (m *machine) ino(label string) fs.Ino { return rapid.SampledFrom(m.used).Draw(m.T, label) }

// dir prefers directories.
func (m *machine) dir(label string) fs.Ino {
	var dirs []fs.Ino
	for _, ino := range m.used {
		if f := m.model.inos[ino]; f != nil && f.entries != nil {
			dirs = append(dirs, ino)
		}
	}
	if rapid.IntRange(0, 9).Draw(m.T, "any") == 0 {
		return m.ino(label)
	}
	return rapid.SampledFrom(dirs).Draw(m.T, label)
}

func (m *machine) name(label string) string {
	n := rapid.IntRange(0, 60).Draw(m.T, label)
	if n >= 6 {
		return string(rune('a' + n%6))
	}
	return []string{"", ".", "..", "x/y", strings.Repeat("n", 255), strings.Repeat("n", 256)}[n]
}

func (m *machine) cred() fs.Cred {
	return fs.Cred{UID: rapid.Uint32Range(0, 3).Draw(m.T, "uid"), GID: rapid.Uint32Range(0, 3).Draw(m.T, "gid")}
}

func (m *machine) agree(op string, got, want error) bool {
	if want == nil && got == nil {
		return true
	}
	if want == nil || !errors.Is(got, want) {
		m.Fatalf("%s: %v, want %v", op, got, want)
	}
	return false
}

// born adds what both created.
func (m *machine) born(op string, in meta.Inode, got error, f *file, want error) {
	if m.agree(op, got, want) {
		if slices.Contains(m.used, in.Ino) {
			m.Fatalf("inode number %d was used before", in.Ino)
		}
		f.Ino = in.Ino
		m.used = append(m.used, in.Ino)
		m.model.inos[in.Ino] = f
		m.same(op, in, f)
	}
}

func (m *machine) same(op string, in meta.Inode, f *file) {
	if in.Attr != f.Attr {
		m.Fatalf("%s returned %+v, want %+v", op, in.Attr, f.Attr)
	}
}

func (m *machine) actions() map[string]func(*rapid.T) {
	act := func(fn func()) func(*rapid.T) {
		return func(t *rapid.T) {
			m.T = t
			m.clock.now += 1000
			m.model.now = m.clock.now
			fn()
			m.state[m.store.Unsynced()] = m.model.dump()
		}
	}
	acts := map[string]func(*rapid.T){
		"mknod": act(func() {
			typ := rapid.SampledFrom([]uint32{fs.TypeRegular, fs.TypeFifo, fs.TypeSocket, fs.TypeChar, fs.TypeBlock}).Draw(m.T, "type")
			rdev := uint32(0)
			if typ == fs.TypeChar || typ == fs.TypeBlock {
				rdev = rapid.Uint32().Draw(m.T, "rdev")
			}
			c, dir, name, mode := m.cred(), m.dir("dir"), m.name("name"), rapid.Uint32Range(0, 0o7777).Draw(m.T, "mode")|typ
			f, want := m.model.create(c, dir, name, mode, rdev, "")
			in, got := m.tree.Mknod(ctx, c, dir, name, mode, rdev)
			m.born("mknod", in, got, f, want)
		}),
		"mkdir": act(func() {
			c, dir, name, mode := m.cred(), m.dir("dir"), m.name("name"), rapid.Uint32Range(0, 0o7777).Draw(m.T, "mode")
			f, want := m.model.create(c, dir, name, mode|fs.TypeDir, 0, "")
			in, got := m.tree.Mkdir(ctx, c, dir, name, mode)
			m.born("mkdir", in, got, f, want)
		}),
		"symlink": act(func() {
			c, dir, name, target := m.cred(), m.dir("dir"), m.name("name"), m.name("target")+"t"
			f, want := m.model.create(c, dir, name, fs.TypeSymlink|0o777, 0, target)
			in, got := m.tree.Symlink(ctx, c, dir, name, target)
			m.born("symlink", in, got, f, want)
		}),
		"tmpfile": act(func() {
			c, dir, mode := m.cred(), m.dir("dir"), rapid.Uint32Range(0, 0o7777).Draw(m.T, "mode")
			f, want := m.model.tmpfile(c, dir, mode)
			in, got := m.tree.Tmpfile(ctx, c, dir, mode)
			m.born("tmpfile", in, got, f, want)
		}),
		"link": act(func() {
			ino, dir, name := m.ino("ino"), m.dir("dir"), m.name("name")
			want := m.model.link(ino, dir, name)
			in, got := m.tree.Link(ctx, ino, dir, name)
			if m.agree("link", got, want) {
				m.same("link", in, m.model.inos[ino])
			}
		}),
		"setattr": act(func() {
			ino := m.ino("ino")
			s := fs.SetAttr{Mask: fs.SetMask(rapid.Byte().Draw(m.T, "mask")) &^ fs.SetSize,
				Mode: rapid.Uint32Range(0, 0o177777).Draw(m.T, "mode"), UID: 7, GID: 8,
				Atime: rapid.Int64().Draw(m.T, "atime"), Mtime: rapid.Int64().Draw(m.T, "mtime")}
			want := m.model.setattr(ino, s)
			in, got := m.tree.Setattr(ctx, ino, s)
			if m.agree("setattr", got, want) {
				m.same("setattr", in, m.model.inos[ino])
			}
		}),
		"xattr": act(func() {
			ino := m.ino("ino")
			name := rapid.SampledFrom([]string{"user.a", "user.b", "trusted.a", "security.capability"}).Draw(m.T, "xattr")
			mode := rapid.SampledFrom([]fs.XattrMode{0, 0, fs.XattrCreate, fs.XattrReplace}).Draw(m.T, "flags")
			value := m.name("value")
			m.agree("setxattr", m.tree.SetXattr(ctx, ino, name, []byte(value), mode), m.model.setxattr(ino, name, value, mode))
		}),
		"removexattr": act(func() {
			ino, name := m.ino("ino"), rapid.SampledFrom([]string{"user.a", "trusted.a"}).Draw(m.T, "xattr")
			m.agree("removexattr", m.tree.RemoveXattr(ctx, ino, name), m.model.removexattr(ino, name))
		}),
		"drop": act(func() {
			ino := m.ino("ino")
			want := m.model.drop(ino)
			got := m.store.Update(ctx, kv.Ordered, func(t kv.Txn) error { return meta.DropInode(t, ino) })
			m.agree("drop", got, want)
		}),
		"": func(t *rapid.T) {
			if got, want := dump(t, m.tree, m.store), m.model.dump(); got != want {
				t.Fatalf("the tree is\n%s\nand has to be\n%s", got, want)
			}
			sum := sound(t, m.store)
			if n, err := m.tree.Files(ctx); err != nil || n != sum.Inodes {
				t.Fatalf("%d files (%v), counted %d", n, err, sum.Inodes)
			}
		},
	}
	for name, wantDir := range map[string]bool{"unlink": false, "rmdir": true} {
		acts[name] = act(func() {
			dir, entry := m.dir("dir"), m.name("name")
			f, want := m.model.remove(dir, entry, wantDir)
			remove := m.tree.Unlink
			if wantDir {
				remove = m.tree.Rmdir
			}
			in, got := remove(ctx, dir, entry)
			if m.agree(name, got, want) {
				m.same(name, in, f)
			}
		})
	}
	for _, name := range []string{"rename", "rename again"} { // as often as it deserves
		acts[name] = act(m.rename)
	}
	return acts
}

func (m *machine) rename() {
	from, to, name, newName := m.dir("from"), m.dir("to"), m.name("name"), m.name("new name")
	flags := rapid.SampledFrom([]fs.RenameFlags{0, 0, fs.RenameNoReplace, fs.RenameExchange}).Draw(m.T, "flags")
	moved, _ := m.model.lookup(from, name)
	target, _ := m.model.lookup(to, newName)
	want := m.model.rename(from, name, to, newName, flags)
	r, got := m.tree.Rename(ctx, from, name, to, newName, flags)
	if !m.agree("rename", got, want) {
		return
	}
	m.same("rename", r.Moved, moved)
	if target == nil {
		target = &file{}
	}
	m.same("rename", r.Target, target)
	if r.Unchanged != (moved == target) {
		m.Fatalf("rename: unchanged %v", r.Unchanged)
	}
}

// TestRandom: random operations do what they do in the model, the invariants hold after each, and
// every crash leaves the model's state after some prefix of them.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree, store, c := newTree(t)
		m := &machine{T: t, tree: tree, store: store, clock: c, model: newModel(c.now), used: []fs.Ino{fs.Root}, state: map[int]string{}}
		m.state[store.Unsynced()] = m.model.dump()
		t.Repeat(m.actions())

		last := m.state[0]
		for n := range store.Unsynced() + 1 {
			if s, ok := m.state[n]; ok {
				last = s // else the update reserved inode numbers
			}
			if n%5 != 0 && n != store.Unsynced() {
				continue
			}
			crashed := store.Crash(n)
			sound(t, crashed)
			after := open(t, crashed, c)
			if got := dump(t, after, crashed); got != last {
				t.Fatalf("after a crash that keeps %d updates the tree is\n%s\nand has to be\n%s", n, got, last)
			}
			in, err := after.Mknod(ctx, fs.Cred{}, fs.Root, "after the crash", 0o600, 0)
			if err != nil || strings.Contains(last, fmt.Sprintf("Ino:%d ", in.Ino)) {
				t.Fatalf("inode %d after the crash: %v", in.Ino, err)
			}
		}
	})
}
