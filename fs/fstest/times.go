package fstest

import (
	"fmt"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

// times does each operation among a few inodes and checks whose times moved: "m" for mtime and ctime
// together, "c" for ctime alone, nothing for neither. Access times never move.
func times(e *env) {
	ctx := e.ctx
	ok := e.ok
	for _, c := range []struct {
		name string
		op   func(w *world)
		want map[string]string
	}{
		{"mknod", func(w *world) { e.file(w.d, "new") }, map[string]string{"d": "m"}},
		{"mkdir", func(w *world) { e.dir(w.d, "new") }, map[string]string{"d": "m"}},
		{"symlink", func(w *world) { _, err := e.Symlink(ctx, owner, w.d, "new", "x"); ok(err) }, map[string]string{"d": "m"}},
		{"link", func(w *world) { _, err := e.Link(ctx, w.f, w.d2, "new"); ok(err) }, map[string]string{"d2": "m", "f": "c"}},
		{"unlink", func(w *world) { ok(e.Unlink(ctx, w.d, "f")) }, map[string]string{"d": "m", "f": "c"}},
		{"rmdir", func(w *world) { ok(e.Rmdir(ctx, w.d, "sub")) }, map[string]string{"d": "m", "sub": "c"}},
		{"rename inside", func(w *world) { ok(e.Rename(ctx, w.d, "f", w.d, "new", 0)) }, map[string]string{"d": "m", "f": "c"}},
		{"rename across", func(w *world) { ok(e.Rename(ctx, w.d, "f", w.d2, "new", 0)) }, map[string]string{"d": "m", "d2": "m", "f": "c"}},
		{"rename over", func(w *world) { ok(e.Rename(ctx, w.d, "f", w.d2, "g", 0)) }, map[string]string{"d": "m", "d2": "m", "f": "c", "g": "c"}},
		{"rename a directory", func(w *world) { ok(e.Rename(ctx, w.d, "sub", w.d2, "new", 0)) }, map[string]string{"d": "m", "d2": "m", "sub": "c"}},
		{"exchange", func(w *world) { ok(e.Rename(ctx, w.d, "f", w.d2, "g", fs.RenameExchange)) }, map[string]string{"d": "m", "d2": "m", "f": "c", "g": "c"}},
		{"write", func(w *world) { e.write(w.f, 1, []byte("x")) }, map[string]string{"f": "m"}},
		{"write nothing", func(w *world) { e.write(w.f, 1, nil) }, nil},
		{"truncate", func(w *world) { e.setSize(w.f, 2) }, map[string]string{"f": "m"}},
		{"truncate to the same size", func(w *world) { e.setSize(w.f, 4) }, map[string]string{"f": "m"}},
		{"allocate", func(w *world) { ok(e.Allocate(ctx, w.f, 0, 0, 100)) }, map[string]string{"f": "m"}},
		{"punch", func(w *world) { ok(e.Allocate(ctx, w.f, fs.AllocPunchHole|fs.AllocKeepSize, 0, 2)) }, map[string]string{"f": "m"}},
		{"copy", func(w *world) { _, err := e.CopyRange(ctx, w.f, 0, w.g, 0, 2); ok(err) }, map[string]string{"g": "m"}},
		{"copy nothing", func(w *world) { _, err := e.CopyRange(ctx, w.f, 99, w.g, 0, 2); ok(err) }, nil},
		{"replace content", func(w *world) { _, err := e.ReplaceContent(ctx, w.f, w.g); ok(err) }, map[string]string{"f": "m", "g": "m"}},
		{"chmod", func(w *world) { _, err := e.Setattr(ctx, w.f, fs.SetAttr{Mask: fs.SetMode, Mode: 1}); ok(err) }, map[string]string{"f": "c"}},
		{"chown", func(w *world) { _, err := e.Setattr(ctx, w.d, fs.SetAttr{Mask: fs.SetUID, UID: 1}); ok(err) }, map[string]string{"d": "c"}},
		{"setxattr", func(w *world) { ok(e.SetXattr(ctx, w.f, "user.b", nil, 0)) }, map[string]string{"f": "c"}},
		{"removexattr", func(w *world) { ok(e.RemoveXattr(ctx, w.f, "user.a")) }, map[string]string{"f": "c"}},
		{"fsync", func(w *world) { ok(e.Fsync(ctx, w.f)) }, nil},
		{"reading", func(w *world) {
			e.list(w.d)
			e.look(w.d, "f")
			_, err := e.GetXattr(ctx, w.f, "user.a")
			ok(err)
		}, nil},
		{"failing", func(w *world) {
			e.want(e.Rmdir(ctx, w.d, "f"), fs.ErrNotDir)
			e.want(e.Rename(ctx, w.d, "f", w.d2, "g", fs.RenameNoReplace), fs.ErrExist)
			e.want(e.Rename(ctx, w.d, "f", w.d, "sub", 0), fs.ErrIsDir)
			_, err := e.Link(ctx, w.f, w.d2, "g")
			e.want(err, fs.ErrExist)
		}, nil},
	} {
		w := e.world(strings.ReplaceAll(c.name, " ", "-"))
		before := w.stat(e)
		at := instant()
		c.op(w)
		after := w.stat(e)
		for who, b := range before {
			a := after[who]
			moved := c.want[who]
			checkTime(e, c.name, who+" mtime", b.Mtime, a.Mtime, at, moved == "m")
			checkTime(e, c.name, who+" ctime", b.Ctime, a.Ctime, at, moved != "")
			checkTime(e, c.name, who+" btime", b.Btime, a.Btime, at, false)
			checkTime(e, c.name, who+" atime", b.Atime, a.Atime, at, false)
			if moved != "" && a.Version <= b.Version {
				e.Errorf("%s: the version of %s did not rise", c.name, who)
			}
		}
		w.drop(e)
	}
}

func checkTime(e *env, op, what string, before, after, at int64, moved bool) {
	e.Helper()
	switch {
	case moved && after < at:
		e.Errorf("%s: %s did not move", op, what)
	case !moved && after != before:
		e.Errorf("%s: %s moved", op, what)
	}
}

// world is a small tree: d holds f and the directory sub, d2 holds g. Everything is held.
type world struct{ d, d2, f, g, sub fs.Ino }

func (e *env) world(name string) *world {
	w := &world{d: e.dir(fs.Root, name), d2: e.dir(fs.Root, name+"2")}
	w.f, w.g = e.fileWith(w.d, "f", []byte("ffff")), e.fileWith(w.d2, "g", []byte("gggg"))
	w.sub = e.dir(w.d, "sub")
	e.ok(e.SetXattr(e.ctx, w.f, "user.a", []byte("a"), 0))
	for _, ino := range w.all() {
		e.hold(ino)
	}
	return w
}

func (w *world) all() map[string]fs.Ino {
	return map[string]fs.Ino{"d": w.d, "d2": w.d2, "f": w.f, "g": w.g, "sub": w.sub}
}

func (w *world) stat(e *env) map[string]fs.Attr {
	attrs := map[string]fs.Attr{}
	for who, ino := range w.all() {
		attrs[who] = e.stat(ino)
	}
	return attrs
}

func (w *world) drop(e *env) {
	for _, ino := range w.all() {
		e.Drop(ino, 1)
	}
}

func readdir(e *env) {
	d := e.dir(fs.Root, "d")
	if len(e.list(d)) != 0 {
		e.Fatal("a new directory lists entries")
	}
	want := map[string]fs.Ino{}
	for i := range 300 {
		name := fmt.Sprint("entry", i)
		if i%3 == 0 {
			want[name] = e.dir(d, name)
		} else {
			want[name] = e.file(d, name)
		}
	}
	whole := e.list(d)
	for name, ino := range want {
		if whole[name].Ino != ino {
			e.Fatalf("%q is listed as %+v", name, whole[name])
		}
	}
	// with attributes, in parts of growing length
	got := 0
	for after, part := uint64(0), 0; part >= 0; part++ {
		n := 0
		e.ok(e.ReadDir(e.ctx, d, after, true, func(entry fs.Dirent, a *fs.Attr) bool {
			if entry != whole[entry.Name] || entry.Cookie <= after {
				e.Errorf("%+v is listed after %d; it was %+v", entry, after, whole[entry.Name])
			}
			if a == nil || a.Ino != entry.Ino || a.Mode&fs.TypeMask != entry.Type || a.Nlink == 0 {
				e.Errorf("%+v comes with %+v", entry, a)
			}
			after = entry.Cookie
			n++
			return n <= part
		}))
		if n == 0 {
			break
		}
		got += n
	}
	if got != len(want) || len(whole) != len(want) {
		e.Fatalf("%d and %d entries are listed, want %d", len(whole), got, len(want))
	}
	f := e.file(fs.Root, "f")
	e.want(e.ReadDir(e.ctx, f, 0, false, func(fs.Dirent, *fs.Attr) bool { return true }), fs.ErrNotDir)
	e.want(e.ReadDir(e.ctx, 1<<40, 0, false, func(fs.Dirent, *fs.Attr) bool { return true }), fs.ErrNotExist)
}

// readdirChanging lists a directory in parts while entries come and go: what stays is listed once.
func readdirChanging(e *env) {
	d := e.dir(fs.Root, "d")
	const n = 400
	for i := range n {
		e.file(d, fmt.Sprint("stay", i))
		e.file(d, fmt.Sprint("go", i))
	}
	cookies := e.list(d)
	seen := map[string]int{}
	after, removed := uint64(0), 0
	for part := 0; ; part++ {
		var batch []fs.Dirent
		e.ok(e.ReadDir(e.ctx, d, after, false, func(entry fs.Dirent, _ *fs.Attr) bool {
			batch = append(batch, entry)
			return len(batch) < 7
		}))
		if len(batch) == 0 {
			break
		}
		for _, entry := range batch {
			seen[entry.Name]++
			after = entry.Cookie
			if strings.HasPrefix(entry.Name, "go") && removed < n { // also the very one the cookie is of
				e.ok(e.Unlink(e.ctx, d, entry.Name))
				removed++
			}
		}
		if part < n/2 {
			e.file(d, fmt.Sprint("came", part))
			e.ok(e.Rename(e.ctx, d, fmt.Sprint("came", part), d, fmt.Sprint("moved", part), 0))
		}
		if part > 2*n {
			e.Fatal("the listing does not end")
		}
	}
	for i := range n {
		if name := fmt.Sprint("stay", i); seen[name] != 1 {
			e.Errorf("%q was listed %d times", name, seen[name])
		}
	}
	for name, entry := range e.list(d) {
		if strings.HasPrefix(name, "stay") && entry != cookies[name] {
			e.Errorf("%+v was %+v before", entry, cookies[name])
		}
	}
}
