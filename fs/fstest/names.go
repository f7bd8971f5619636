package fstest

import (
	"fmt"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

func names(e *env) {
	root := e.stat(fs.Root)
	if !root.IsDir() || root.Nlink != 2 {
		e.Fatalf("the root is %+v", root)
	}
	if p, err := e.Parent(e.ctx, fs.Root); err != nil || p != fs.Root {
		e.Fatalf("the root's parent is %d, %v", p, err)
	}
	f := e.file(fs.Root, "f")
	e.absent(fs.Root, "g")
	_, err := e.Lookup(e.ctx, f, "x")
	e.want(err, fs.ErrNotDir)
	_, err = e.Mknod(e.ctx, owner, f, "x", 0o644, 0)
	e.want(err, fs.ErrNotDir)
	_, err = e.Lookup(e.ctx, 1<<40, "x")
	e.want(err, fs.ErrNotExist)

	for _, name := range []string{
		strings.Repeat("n", fs.MaxName), strings.Repeat("ü", 127), " ", "...", "a\nb", "\xff\xfe", "-", "A", "a", "*?[",
	} {
		ino := e.file(fs.Root, name)
		if a := e.look(fs.Root, name); a.Ino != ino {
			e.Fatalf("%q is %d, want %d", name, a.Ino, ino)
		}
		if _, ok := e.list(fs.Root)[name]; !ok {
			e.Fatalf("%q is not listed", name)
		}
	}
	d := e.dir(fs.Root, "d")
	for name, wrong := range map[string]error{
		"": fs.ErrInvalid, ".": fs.ErrInvalid, "..": fs.ErrInvalid, "a/b": fs.ErrInvalid, "/": fs.ErrInvalid, "a\x00": fs.ErrInvalid,
		strings.Repeat("n", fs.MaxName+1): fs.ErrNameTooLong,
	} {
		for op, err := range eachNameOp(e, d, f, name) {
			e.want(err, wrong, op, name)
		}
	}
	if n := len(e.list(d)); n != 0 {
		e.Fatalf("%d entries came from bad names", n)
	}
}

// eachNameOp does everything that takes a name, below d, and returns how it failed.
func eachNameOp(e *env, d, f fs.Ino, name string) map[string]error {
	errs := map[string]error{}
	_, errs["lookup"] = e.Lookup(e.ctx, d, name)
	_, errs["mknod"] = e.Mknod(e.ctx, owner, d, name, fs.TypeRegular|0o644, 0)
	_, errs["mkdir"] = e.Mkdir(e.ctx, owner, d, name, 0o755)
	_, errs["symlink"] = e.Symlink(e.ctx, owner, d, name, "target")
	_, errs["link"] = e.Link(e.ctx, f, d, name)
	errs["unlink"] = e.Unlink(e.ctx, d, name)
	errs["rmdir"] = e.Rmdir(e.ctx, d, name)
	errs["rename from"] = e.Rename(e.ctx, d, name, d, "other", 0)
	errs["rename to"] = e.Rename(e.ctx, fs.Root, "f", d, name, 0)
	return errs
}

func kinds(e *env) {
	for i, mode := range []uint32{
		fs.TypeRegular | 0o644, fs.TypeRegular, fs.TypeRegular | 0o7777, fs.TypeFifo | 0o600, fs.TypeSocket | 0o755,
		fs.TypeBlock | 0o660, fs.TypeChar | 0o666,
	} {
		name := fmt.Sprint("node", i)
		a, err := e.Mknod(e.ctx, owner, fs.Root, name, mode, 0x0105)
		e.ok(err)
		rdev := uint32(0)
		if kind := mode & fs.TypeMask; kind == fs.TypeBlock || kind == fs.TypeChar {
			rdev = 0x0105
		}
		if a != e.look(fs.Root, name) || a.Mode != mode || a.Rdev != rdev || a.Nlink != 1 || a.Size != 0 || a.Blocks != 0 ||
			a.UID != owner.UID || a.GID != owner.GID || a.Atime != a.Mtime || a.Mtime != a.Ctime || a.Ctime != a.Btime || a.Btime == 0 {
			e.Fatalf("mode %o made %+v", mode, a)
		}
		if got := e.list(fs.Root)[name]; got.Type != mode&fs.TypeMask || got.Ino != a.Ino {
			e.Fatalf("mode %o is listed as %+v", mode, got)
		}
		_, err = e.Mknod(e.ctx, owner, fs.Root, name, mode, 0)
		e.want(err, fs.ErrExist)
		_, err = e.Readlink(e.ctx, a.Ino)
		e.want(err, fs.ErrInvalid)
	}
	for _, mode := range []uint32{fs.TypeDir | 0o755, fs.TypeSymlink | 0o777, 0o030000} {
		_, err := e.Mknod(e.ctx, owner, fs.Root, "bad", mode, 0)
		e.want(err, fs.ErrInvalid)
	}
	a, err := e.Mkdir(e.ctx, owner, fs.Root, "dir", 0o1750)
	e.ok(err)
	if a != e.look(fs.Root, "dir") || a.Mode != fs.TypeDir|0o1750 || a.Nlink != 2 || a.UID != owner.UID || a.GID != owner.GID {
		e.Fatalf("mkdir made %+v", a)
	}
	e.symlinks()
}

func (e *env) symlinks() {
	for i, target := range []string{"x", "/abs/olute", "../..", "\xff", strings.Repeat("t/", fs.MaxSymlink/2) + "t"} {
		name := fmt.Sprint("link", i)
		a, err := e.Symlink(e.ctx, owner, fs.Root, name, target)
		e.ok(err)
		if a != e.look(fs.Root, name) || a.Mode != fs.TypeSymlink|0o777 || a.Size != int64(len(target)) || a.Nlink != 1 || a.UID != owner.UID {
			e.Fatalf("symlink made %+v", a)
		}
		if got, err := e.Readlink(e.ctx, a.Ino); err != nil || got != target {
			e.Fatalf("readlink says %q, %v", got, err)
		}
		_, err = e.Symlink(e.ctx, owner, fs.Root, name, "y")
		e.want(err, fs.ErrExist)
	}
	_, err := e.Symlink(e.ctx, owner, fs.Root, "long", strings.Repeat("t", fs.MaxSymlink+1))
	e.want(err, fs.ErrNameTooLong)
	_, err = e.Symlink(e.ctx, owner, fs.Root, "empty", "")
	e.want(err, fs.ErrInvalid)
}

// setgid: in a directory with the set-group-ID bit everything gets the directory's group, and
// directories get the bit.
func setgid(e *env) {
	d := e.dir(fs.Root, "d")
	_, err := e.Setattr(e.ctx, d, fs.SetAttr{Mask: fs.SetMode | fs.SetGID, Mode: 0o2775, GID: 555})
	e.ok(err)
	f, err := e.Mknod(e.ctx, owner, d, "f", fs.TypeRegular|0o644, 0)
	e.ok(err)
	sub, err := e.Mkdir(e.ctx, owner, d, "sub", 0o755)
	e.ok(err)
	l, err := e.Symlink(e.ctx, owner, d, "l", "x")
	e.ok(err)
	tmp, err := e.Tmpfile(e.ctx, owner, d, 0o600)
	e.ok(err)
	defer e.Drop(tmp.Ino, 1)
	for _, a := range []fs.Attr{f, sub, l, tmp} {
		if a.GID != 555 || a.UID != owner.UID {
			e.Errorf("%+v did not get the directory's group", a)
		}
	}
	if f.Mode != fs.TypeRegular|0o644 || sub.Mode != fs.TypeDir|0o2755 {
		e.Errorf("modes are %o and %o", f.Mode, sub.Mode)
	}
}

func links(e *env) {
	d := e.dir(fs.Root, "d")
	f := e.fileWith(fs.Root, "f", []byte("content"))
	a, err := e.Link(e.ctx, f, d, "g")
	e.ok(err)
	if a.Ino != f || a.Nlink != 2 || a != e.look(d, "g") || a != e.look(fs.Root, "f") {
		e.Fatalf("link made %+v", a)
	}
	_, err = e.Link(e.ctx, f, d, "g")
	e.want(err, fs.ErrExist)
	_, err = e.Link(e.ctx, d, fs.Root, "h")
	e.want(err, fs.ErrNotPermitted)
	_, err = e.Link(e.ctx, 1<<40, fs.Root, "h")
	e.want(err, fs.ErrNotExist)
	_, err = e.Link(e.ctx, f, f, "h")
	e.want(err, fs.ErrNotDir)

	e.ok(e.Unlink(e.ctx, fs.Root, "f"))
	e.absent(fs.Root, "f")
	e.wantNlink(f, 1)
	e.wantContent(f, []byte("content"))
	e.ok(e.Unlink(e.ctx, d, "g"))
	e.wantGone(f)

	l, err := e.Symlink(e.ctx, owner, fs.Root, "l", "x")
	e.ok(err)
	_, err = e.Link(e.ctx, l.Ino, fs.Root, "l2")
	e.ok(err)
	e.wantNlink(l.Ino, 2)
	e.want(e.Unlink(e.ctx, fs.Root, "f"), fs.ErrNotExist)
	e.want(e.Unlink(e.ctx, fs.Root, "d"), fs.ErrIsDir)
	e.want(e.Rmdir(e.ctx, fs.Root, "l"), fs.ErrNotDir)
	e.want(e.Rmdir(e.ctx, fs.Root, "none"), fs.ErrNotExist)
}

func directories(e *env) {
	a := e.dir(fs.Root, "a")
	b := e.dir(a, "b")
	e.file(a, "f")
	e.wantNlink(fs.Root, 3)
	e.wantNlink(a, 3)
	e.wantNlink(b, 2)
	if p, err := e.Parent(e.ctx, b); err != nil || p != a {
		e.Fatalf("parent is %d, %v; want %d", p, err, a)
	}
	_, err := e.Parent(e.ctx, e.look(a, "f").Ino)
	e.want(err, fs.ErrNotDir)
	e.want(e.Rmdir(e.ctx, fs.Root, "a"), fs.ErrNotEmpty)
	e.ok(e.Rmdir(e.ctx, a, "b"))
	e.wantNlink(a, 2)
	e.want(e.Rmdir(e.ctx, fs.Root, "a"), fs.ErrNotEmpty)
	e.ok(e.Unlink(e.ctx, a, "f"))
	e.ok(e.Rmdir(e.ctx, fs.Root, "a"))
	e.wantNlink(fs.Root, 2)
	e.wantGone(a)
	e.wantGone(b)
}

// held: what is held stays usable without a name, to the last Drop.
func held(e *env) {
	f := e.fileWith(fs.Root, "f", []byte("kept"))
	e.hold(f)
	e.hold(f)
	e.ok(e.Unlink(e.ctx, fs.Root, "f"))
	e.wantNlink(f, 0)
	e.wantContent(f, []byte("kept"))
	e.write(f, 4, []byte(" and grown"))
	e.setSize(f, 8)
	e.ok(e.SetXattr(e.ctx, f, "user.a", []byte("v"), 0))
	e.ok(e.Fsync(e.ctx, f))
	e.wantContent(f, []byte("kept and"))
	_, err := e.Link(e.ctx, f, fs.Root, "back")
	e.want(err, fs.ErrNotExist)
	e.Drop(f, 1)
	e.wantContent(f, []byte("kept and"))
	e.Drop(f, 1)
	e.wantGone(f)

	f = e.file(fs.Root, "f") // a hold alone changes nothing
	e.hold(f)
	e.Drop(f, 1)
	e.wantNlink(f, 1)

	g := e.file(fs.Root, "g") // replaced by a rename
	e.hold(g)
	e.ok(e.Rename(e.ctx, fs.Root, "f", fs.Root, "g", 0))
	e.wantNlink(g, 0)
	e.Drop(g, 1)
	e.wantGone(g)
}

// gone: a removed directory that is held is empty, and takes nothing.
func gone(e *env) {
	d := e.dir(fs.Root, "d")
	e.hold(d)
	f := e.file(fs.Root, "f")
	e.ok(e.Rmdir(e.ctx, fs.Root, "d"))
	e.wantNlink(d, 0)
	if n := len(e.list(d)); n != 0 {
		e.Fatalf("%d entries", n)
	}
	e.absent(d, "x")
	_, err := e.Mknod(e.ctx, owner, d, "x", 0o644, 0)
	e.want(err, fs.ErrNotExist)
	_, err = e.Mkdir(e.ctx, owner, d, "x", 0o755)
	e.want(err, fs.ErrNotExist)
	_, err = e.Symlink(e.ctx, owner, d, "x", "y")
	e.want(err, fs.ErrNotExist)
	_, err = e.Tmpfile(e.ctx, owner, d, 0o600)
	e.want(err, fs.ErrNotExist)
	_, err = e.Link(e.ctx, f, d, "x")
	e.want(err, fs.ErrNotExist)
	e.want(e.Rename(e.ctx, fs.Root, "f", d, "x", 0), fs.ErrNotExist)
	_, err = e.Parent(e.ctx, d)
	e.want(err, fs.ErrNotExist)
	e.Drop(d, 1)
	e.wantGone(d)
	e.want(e.Unlink(e.ctx, d, "x"), fs.ErrNotExist)
	e.want(e.Write(e.ctx, d, 0, []byte("x")), fs.ErrNotExist)
}

func tmpfile(e *env) {
	before := e.stat(fs.Root)
	a, err := e.Tmpfile(e.ctx, owner, fs.Root, 0o640)
	e.ok(err)
	if a.Nlink != 0 || a.Mode != fs.TypeRegular|0o640 || a.UID != owner.UID || a.GID != owner.GID || a != e.stat(a.Ino) {
		e.Fatalf("tmpfile made %+v", a)
	}
	if e.stat(fs.Root) != before || len(e.list(fs.Root)) != 0 {
		e.Fatal("tmpfile changed the directory")
	}
	e.write(a.Ino, 0, []byte("temporary"))
	e.wantContent(a.Ino, []byte("temporary"))
	b, err := e.Link(e.ctx, a.Ino, fs.Root, "named")
	e.ok(err)
	if b.Nlink != 1 {
		e.Fatalf("linked it has %d links", b.Nlink)
	}
	e.Drop(a.Ino, 1)
	e.wantContent(e.look(fs.Root, "named").Ino, []byte("temporary"))

	a, err = e.Tmpfile(e.ctx, owner, fs.Root, 0o640)
	e.ok(err)
	e.Drop(a.Ino, 1)
	e.wantGone(a.Ino)
	_, err = e.Tmpfile(e.ctx, owner, b.Ino, 0o640)
	e.want(err, fs.ErrNotDir)
}
