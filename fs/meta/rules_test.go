package meta_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
)

// world is a tree with some of everything in it.
type world struct {
	*testing.T
	*meta.Tree
	store *memkv.Store
	clock *clock
}

func newWorld(t *testing.T) *world {
	tree, s, c := newTree(t)
	return &world{t, tree, s, c}
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) want(err, target error) {
	w.Helper()
	if !errors.Is(err, target) {
		w.Fatalf("error %v, want %v", err, target)
	}
}

func (w *world) mk(in meta.Inode, err error) fs.Ino {
	w.Helper()
	w.ok(err)
	return in.Ino
}

func (w *world) file(parent fs.Ino, name string) fs.Ino {
	w.Helper()
	return w.mk(w.Mknod(ctx, fs.Cred{}, parent, name, 0o644, 0))
}

func (w *world) dir(parent fs.Ino, name string) fs.Ino {
	w.Helper()
	return w.mk(w.Mkdir(ctx, fs.Cred{}, parent, name, 0o755))
}

// edit changes rows behind the tree's back.
func (w *world) edit(fn func(t kv.Txn)) {
	w.Helper()
	w.ok(w.store.Update(ctx, kv.Ordered, func(t kv.Txn) error { fn(t); return nil }))
}

func (w *world) editInode(ino fs.Ino, fn func(in *meta.Inode)) {
	w.Helper()
	w.edit(func(t kv.Txn) {
		in, err := meta.GetInode(t, ino)
		w.ok(err)
		fn(&in)
		meta.PutInode(t, &in)
	})
}

func (w *world) orphans() (all []fs.Ino) {
	w.Helper()
	w.ok(w.Orphans(ctx, func(ino fs.Ino) bool { all = append(all, ino); return true }))
	return all
}

func TestLinkLimit(t *testing.T) {
	w := newWorld(t)
	f, d, e := w.file(fs.Root, "f"), w.dir(fs.Root, "d"), w.dir(fs.Root, "e")
	sub := w.dir(e, "sub")
	for _, ino := range []fs.Ino{f, d} {
		w.editInode(ino, func(in *meta.Inode) { in.Nlink = fs.MaxLink })
	}
	_, err := w.Link(ctx, f, fs.Root, "g")
	w.want(err, fs.ErrTooManyLinks)
	_, err = w.Mkdir(ctx, fs.Cred{}, d, "sub", 0o755)
	w.want(err, fs.ErrTooManyLinks)
	_, err = w.Rename(ctx, e, "sub", d, "sub", 0)
	w.want(err, fs.ErrTooManyLinks)
	w.file(d, "file")
	_, err = w.Rename(ctx, d, "file", e, "sub", fs.RenameExchange)
	w.want(err, fs.ErrTooManyLinks)
	if in, err := w.Lookup(ctx, e, "sub"); err != nil || in.Ino != sub {
		t.Fatal(in, err)
	}
	w.file(e, "file") // files do not count
	_, err = w.Rename(ctx, e, "file", d, "moved", 0)
	w.ok(err)
}

// TestReplaceAtLinkLimit: a rename that takes as many links as it gives is never too many.
func TestReplaceAtLinkLimit(t *testing.T) {
	w := newWorld(t)
	d, e := w.dir(fs.Root, "d"), w.dir(fs.Root, "e")
	w.dir(d, "x")
	w.dir(e, "x")
	w.editInode(e, func(in *meta.Inode) { in.Nlink = fs.MaxLink })
	_, err := w.Rename(ctx, d, "x", e, "x", fs.RenameExchange)
	w.ok(err)
	_, err = w.Rename(ctx, d, "x", e, "x", 0)
	w.ok(err)
	if in, err := w.Getattr(ctx, e); err != nil || in.Nlink != fs.MaxLink {
		t.Fatal(in.Nlink, err)
	}
}

func TestParent(t *testing.T) {
	w := newWorld(t)
	d := w.dir(fs.Root, "d")
	for ino, want := range map[fs.Ino]fs.Ino{fs.Root: fs.Root, d: fs.Root, w.dir(d, "e"): d} {
		if p, err := w.Parent(ctx, ino); err != nil || p != want {
			t.Errorf("parent of %d is %d, %v", ino, p, err)
		}
	}
	_, err := w.Parent(ctx, w.file(d, "f"))
	w.want(err, fs.ErrNotDir)
	_, err = w.Parent(ctx, 999)
	w.want(err, fs.ErrNotExist)
}

func TestReadlink(t *testing.T) {
	w := newWorld(t)
	l := w.mk(w.Symlink(ctx, fs.Cred{}, fs.Root, "l", "to/where"))
	if s, err := w.Readlink(ctx, l); err != nil || s != "to/where" {
		t.Fatal(s, err)
	}
	_, err := w.Readlink(ctx, fs.Root)
	w.want(err, fs.ErrInvalid)
	for target, want := range map[string]error{"": fs.ErrInvalid, "a\x00b": fs.ErrInvalid, strings.Repeat("t", fs.MaxSymlink+1): fs.ErrNameTooLong} {
		_, err := w.Symlink(ctx, fs.Cred{}, fs.Root, "bad", target)
		w.want(err, want)
	}
	in, err := w.Symlink(ctx, fs.Cred{}, fs.Root, "long", strings.Repeat("t", fs.MaxSymlink))
	if w.ok(err); in.Size != fs.MaxSymlink {
		t.Fatal(in.Size)
	}
}

// TestHotErrors: what is asked all the time fails without an allocation for the error.
func TestHotErrors(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Lookup(ctx, fs.Root, "none"); err != fs.ErrNotExist {
		t.Error(err)
	}
	if _, err := w.Getattr(ctx, 999); err != fs.ErrNotExist {
		t.Error(err)
	}
	if _, err := w.GetXattr(ctx, fs.Root, "security.capability"); err != fs.ErrNoAttr {
		t.Error(err)
	}
	var op *fs.OpError
	if _, err := w.Unlink(ctx, fs.Root, "none"); !errors.As(err, &op) || op.Op != "unlink" || op.Ino != fs.Root || op.Name != "none" || op.Err != fs.ErrNotExist {
		t.Error(err)
	}
}

func TestSetattrSize(t *testing.T) {
	w := newWorld(t)
	_, err := w.Setattr(ctx, w.file(fs.Root, "f"), fs.SetAttr{Mask: fs.SetSize | fs.SetMode, Size: 1})
	w.want(err, fs.ErrInvalid)
}

func TestOrphans(t *testing.T) {
	w := newWorld(t)
	var want []fs.Ino
	for i := range 2500 {
		want = append(want, w.mk(w.Tmpfile(ctx, fs.Cred{}, fs.Root, 0o600)))
		w.file(fs.Root, fmt.Sprint(i))
	}
	in, err := w.Unlink(ctx, fs.Root, "17")
	w.ok(err)
	want = append(want, in.Ino)
	slices.Sort(want)
	w.edit(func(t kv.Txn) { // rows that are damaged are not its business
		t.Put(meta.OrphanKeyspace, []byte{0}, nil)
		t.Put(meta.OrphanKeyspace, append(key(want[1023]), 0), nil)
	})
	if got := w.orphans(); !slices.Equal(got, want) {
		t.Fatalf("%d orphans, want %d", len(got), len(want))
	}
	n := 0 // dropping them on the way is what the reaper does
	w.ok(w.Orphans(ctx, func(ino fs.Ino) bool {
		n++
		w.ok(w.store.Update(ctx, kv.Ordered, func(t kv.Txn) error { return meta.DropInode(t, ino) }))
		return n < 2000
	}))
	if got := w.orphans(); !slices.Equal(got, want[2000:]) {
		t.Fatalf("%d orphans are left, want %d", len(got), len(want)-2000)
	}
}

func TestDropInode(t *testing.T) {
	w := newWorld(t)
	f := w.file(fs.Root, "f")
	for i := range 100 {
		w.ok(w.SetXattr(ctx, f, fmt.Sprint("user.", i), []byte("value"), 0))
	}
	drop := func(ino fs.Ino) error {
		return w.store.Update(ctx, kv.Ordered, func(t kv.Txn) error { return meta.DropInode(t, ino) })
	}
	w.want(drop(f), fs.ErrBusy)
	_, err := w.Unlink(ctx, fs.Root, "f")
	w.ok(err)
	w.ok(drop(f))
	w.want(drop(f), fs.ErrNotExist)
	if sum := sound(t, w.store); sum.Inodes != 1 || sum.Xattrs != 0 || sum.Orphans != 0 {
		t.Fatalf("left: %+v", sum)
	}
}

func TestXattrLimits(t *testing.T) {
	w := newWorld(t)
	w.ok(w.SetXattr(ctx, fs.Root, "user.max", make([]byte, fs.MaxXattr), 0))
	w.want(w.SetXattr(ctx, fs.Root, "user.max", make([]byte, fs.MaxXattr+1), 0), fs.ErrTooBig)
	w.want(w.SetXattr(ctx, fs.Root, "user.m", nil, 4), fs.ErrInvalid)
	w.want(w.SetXattr(ctx, fs.Root, strings.Repeat("x", 256), nil, 0), fs.ErrNameTooLong)
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		w.want(w.SetXattr(ctx, fs.Root, name, nil, 0), fs.ErrNotSupported)
		_, err := w.GetXattr(ctx, fs.Root, name)
		w.want(err, fs.ErrNotSupported)
	}
	_, err := w.GetXattr(ctx, 999, "user.x")
	w.want(err, fs.ErrNotExist)
	w.want(w.RemoveXattr(ctx, fs.Root, "user.none"), fs.ErrNoAttr)

	// the list holds 64 KiB, each name with a zero byte
	f := w.file(fs.Root, "f")
	for i := range 256 {
		w.ok(w.SetXattr(ctx, f, fmt.Sprintf("user.%0250d", i), nil, 0))
	}
	w.want(w.SetXattr(ctx, f, "u", nil, 0), fs.ErrNoSpace)
	w.ok(w.SetXattr(ctx, f, fmt.Sprintf("user.%0250d", 3), []byte("again"), fs.XattrReplace))
	names, err := w.ListXattr(ctx, f)
	if w.ok(err); len(names) != 256 || !slices.IsSorted(names) {
		t.Fatal(len(names))
	}
	sound(t, w.store)
}

// TestInodeNumbers: no number comes twice, whichever tree gives it and whatever a crash takes.
func TestInodeNumbers(t *testing.T) {
	w := newWorld(t)
	seen := map[fs.Ino]bool{}
	store := w.store
	for round := range 5 {
		trees := []*meta.Tree{open(t, store, w.clock), open(t, store, w.clock)}
		for i := range 6000 {
			in, err := trees[i%2].Tmpfile(ctx, fs.Cred{}, fs.Root, 0o600)
			w.ok(err)
			if seen[in.Ino] {
				t.Fatalf("inode %d comes again in round %d", in.Ino, round)
			}
			seen[in.Ino] = true
		}
		store = store.Crash(store.Unsynced() * round / 5)
		sound(t, store)
		// What a crash took may come again only if nobody was ever told of it durably; here everybody
		// was told, so forget just those numbers.
		for ino := range seen {
			if _, err := open(t, store, w.clock).Getattr(ctx, ino); errors.Is(err, fs.ErrNotExist) {
				delete(seen, ino)
			}
		}
	}
}

func TestFormat(t *testing.T) {
	s, c := memkv.New(memkv.Rerun()), &clock{42}
	if _, err := meta.Open(ctx, s, meta.Options{}); !errors.Is(err, meta.ErrNotFormatted) {
		t.Fatal(err)
	}
	if _, err := meta.Check(ctx, s, nil); !errors.Is(err, meta.ErrNotFormatted) {
		t.Fatal(err)
	}
	v, err := meta.Format(ctx, s, meta.FormatOptions{Clock: c.read, RootMode: 0o1777, UID: 3, GID: 4})
	if err != nil {
		t.Fatal(err)
	}
	if s.Unsynced() != 0 {
		t.Error("format is not durable")
	}
	tree := open(t, s, c)
	if tree.Volume() != v || v.Secret == [32]byte{} || v.CookieKey == [16]byte{} || len(v.String()) != 36 {
		t.Errorf("%+v, %+v", tree.Volume(), v)
	}
	root, err := tree.Getattr(ctx, fs.Root)
	if err != nil || root.Mode != fs.TypeDir|0o1777 || root.UID != 3 || root.GID != 4 || root.Btime != 42 || root.Nlink != 2 {
		t.Errorf("%+v, %v", root, err)
	}
	if _, err := meta.Format(ctx, s, meta.FormatOptions{}); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if got := open(t, s, c).Volume(); got != v {
		t.Error("a second format changed the volume")
	}
	sound(t, s)
}

func TestNewerFormat(t *testing.T) {
	w := newWorld(t)
	w.edit(func(t kv.Txn) {
		b, err := t.Get(meta.VolumeKeyspace, []byte("format"))
		w.ok(err)
		b = slices.Clone(b)
		b[8] = 9
		t.Put(meta.VolumeKeyspace, []byte("format"), b)
	})
	_, err := meta.Open(ctx, w.store, meta.Options{})
	var newer *meta.VersionError
	if !errors.As(err, &newer) || newer.Found != 9 || newer.Known != meta.FormatVersion {
		t.Fatal(err)
	}
}

func TestClosedStore(t *testing.T) {
	w := newWorld(t)
	w.ok(w.store.Close())
	_, err := w.Getattr(ctx, fs.Root)
	w.want(err, fs.ErrClosed)
	w.want(err, kv.ErrClosed)
	_, err = w.Mkdir(ctx, fs.Cred{}, fs.Root, "d", 0)
	w.want(err, fs.ErrClosed)
}

func TestCancelled(t *testing.T) {
	w := newWorld(t)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err := w.Mkdir(gone, fs.Cred{}, fs.Root, "d", 0)
	w.want(err, context.Canceled)
	_, err = w.Lookup(ctx, fs.Root, "d")
	w.want(err, fs.ErrNotExist)
}

// TestDamage: contradictions between rows are errors that name the row, never panics or wrong answers.
func TestDamage(t *testing.T) {
	w := newWorld(t)
	d := w.dir(fs.Root, "d")
	f := w.file(d, "f")
	w.file(d, "g")
	w.edit(func(t kv.Txn) { t.Put(meta.InodeKeyspace, key(f), []byte{1, 2, 3}) })
	for op, err := range map[string]error{
		"getattr": second(w.Getattr(ctx, f)), "lookup": second(w.Lookup(ctx, d, "f")), "unlink": second(w.Unlink(ctx, d, "f")),
		"link": second(w.Link(ctx, f, d, "h")), "rename": second(w.Rename(ctx, d, "f", d, "h", 0)), "over": second(w.Rename(ctx, d, "g", d, "f", 0)),
	} {
		var damaged *meta.DamagedError
		if !errors.As(err, &damaged) || !errors.Is(err, fs.ErrIO) || damaged.Keyspace != meta.InodeKeyspace {
			t.Errorf("%s: %v", op, err)
		}
	}
	n := 0
	w.ok(w.ReadDir(ctx, d, 0, true, func(e fs.Dirent, a *fs.Attr) bool {
		n++
		if (a == nil) != (e.Name == "f") {
			t.Errorf("%+v with %+v", e, a)
		}
		return true
	}))
	if n != 2 {
		t.Errorf("%d entries", n)
	}
	w.edit(func(t kv.Txn) { t.Delete(meta.InodeKeyspace, key(f)) })
	_, err := w.Lookup(ctx, d, "f")
	w.want(err, fs.ErrIO) // an entry without an inode is not "no such file"
}

func second[T any](_ T, err error) error { return err }
