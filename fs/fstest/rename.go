package fstest

import (
	"fmt"

	"github.com/gabionfs/gabion/fs"
)

// rename goes through what the old and the new name may be.
func rename(e *env) {
	const none, file, empty, full = "none", "file", "empty", "full"
	kinds := []string{none, file, empty, full}
	outcome := func(src, dst string, f fs.RenameFlags) error {
		switch {
		case src == none:
			return fs.ErrNotExist
		case f == fs.RenameExchange && dst == none:
			return fs.ErrNotExist
		case f == fs.RenameExchange || dst == none:
			return nil
		case f == fs.RenameNoReplace:
			return fs.ErrExist
		case src == file && dst != file:
			return fs.ErrIsDir
		case src != file && dst == file:
			return fs.ErrNotDir
		case dst == full:
			return fs.ErrNotEmpty
		}
		return nil
	}
	n := 0
	for _, src := range kinds {
		for _, dst := range kinds {
			for _, f := range []fs.RenameFlags{0, fs.RenameNoReplace, fs.RenameExchange} {
				for _, across := range []bool{false, true} {
					n++
					from := e.dir(fs.Root, fmt.Sprint("from", n))
					to := from
					if across {
						to = e.dir(fs.Root, fmt.Sprint("to", n))
					}
					what := fmt.Sprintf("%s over %s, flags %d, across %v", src, dst, f, across)
					e.renameCase(what, from, to, e.made(from, "old", src), e.made(to, "new", dst), f, outcome(src, dst, f))
				}
			}
		}
	}
	e.renameOdd()
}

// made makes something of a kind and returns its inode, 0 for none.
func (e *env) made(parent fs.Ino, name, kind string) fs.Ino {
	switch kind {
	case "file":
		return e.file(parent, name)
	case "empty":
		return e.dir(parent, name)
	case "full":
		d := e.dir(parent, name)
		e.dir(d, "child")
		return d
	}
	return 0
}

// inoOf returns what a name means, 0 for nothing.
func (e *env) inoOf(parent fs.Ino, name string) fs.Ino {
	a, err := e.Lookup(e.ctx, parent, name)
	if err != nil {
		e.want(err, fs.ErrNotExist)
	}
	return a.Ino
}

// renameCase renames "old" in from to "new" in to, and checks everything that follows.
func (e *env) renameCase(what string, from, to, src, dst fs.Ino, f fs.RenameFlags, outcome error) {
	e.Helper()
	err := e.Rename(e.ctx, from, "old", to, "new", f)
	switch {
	case outcome != nil:
		e.want(err, outcome, what)
	case err != nil:
		e.Fatalf("%s: %v", what, err)
	case f == fs.RenameExchange:
		src, dst = dst, src
	default:
		src, dst = 0, src
	}
	if gotSrc, gotDst := e.inoOf(from, "old"), e.inoOf(to, "new"); gotSrc != src || gotDst != dst {
		e.Fatalf("%s: names are %d and %d, want %d and %d", what, gotSrc, gotDst, src, dst)
	}
	for _, d := range []fs.Ino{from, to} {
		links := uint32(2)
		for name, entry := range e.list(d) {
			a := e.look(d, name)
			if entry.Ino != a.Ino || entry.Type != a.Mode&fs.TypeMask {
				e.Fatalf("%s: %q is listed as %+v", what, name, entry)
			}
			if !a.IsDir() {
				continue
			}
			links++
			if p, err := e.Parent(e.ctx, a.Ino); err != nil || p != d {
				e.Fatalf("%s: parent of %q is %d, %v; want %d", what, name, p, err, d)
			}
		}
		e.wantNlink(d, links)
	}
}

func (e *env) renameOdd() {
	d := e.dir(fs.Root, "odd")
	sub := e.dir(d, "sub")
	deep := e.dir(sub, "deep")
	f := e.file(d, "f")
	_, err := e.Link(e.ctx, f, d, "g")
	e.ok(err)

	// the same name, and two links to one inode: success, and nothing happens
	before := e.stat(d)
	e.ok(e.Rename(e.ctx, d, "f", d, "f", 0))
	e.ok(e.Rename(e.ctx, d, "f", d, "g", 0))
	e.ok(e.Rename(e.ctx, d, "sub", d, "sub", 0))
	if e.look(d, "f").Ino != f || e.look(d, "g").Ino != f || e.stat(d) != before {
		e.Fatal("a rename between links of one inode changed something")
	}
	e.want(e.Rename(e.ctx, d, "f", d, "g", fs.RenameNoReplace), fs.ErrExist)
	e.want(e.Rename(e.ctx, d, "f", d, "f", fs.RenameNoReplace), fs.ErrExist)

	// into itself and over an ancestor
	for _, flags := range []fs.RenameFlags{0, fs.RenameNoReplace} {
		e.want(e.Rename(e.ctx, d, "sub", sub, "x", flags), fs.ErrInvalid)
		e.want(e.Rename(e.ctx, d, "sub", deep, "x", flags), fs.ErrInvalid)
		e.want(e.Rename(e.ctx, fs.Root, "odd", deep, "x", flags), fs.ErrInvalid)
	}
	e.want(e.Rename(e.ctx, sub, "deep", fs.Root, "odd", 0), fs.ErrNotEmpty)
	e.want(e.Rename(e.ctx, sub, "deep", d, "sub", 0), fs.ErrNotEmpty)
	e.want(e.Rename(e.ctx, d, "sub", sub, "deep", fs.RenameExchange), fs.ErrInvalid)
	e.want(e.Rename(e.ctx, sub, "deep", d, "sub", fs.RenameExchange), fs.ErrInvalid)

	e.want(e.Rename(e.ctx, d, "f", d, "h", fs.RenameNoReplace|fs.RenameExchange), fs.ErrInvalid)
	e.want(e.Rename(e.ctx, d, "f", d, "h", 1<<7), fs.ErrInvalid)
	e.want(e.Rename(e.ctx, f, "x", d, "y", 0), fs.ErrNotDir)
	e.want(e.Rename(e.ctx, d, "f", f, "y", 0), fs.ErrNotDir)
	e.want(e.Rename(e.ctx, d, "none", f, "y", fs.RenameNoReplace), fs.ErrNotExist)

	// one link of several is replaced
	h := e.file(d, "h")
	e.ok(e.Rename(e.ctx, d, "h", d, "g", 0))
	e.wantNlink(f, 1)
	e.wantNlink(h, 1)
	if e.look(d, "g").Ino != h {
		e.Fatal("the name was not replaced")
	}
}

// exchange of a file with a directory moves the links to "..".
func exchange(e *env) {
	a, b := e.dir(fs.Root, "a"), e.dir(fs.Root, "b")
	sub, f := e.dir(a, "x"), e.file(b, "y")
	e.ok(e.Rename(e.ctx, a, "x", b, "y", fs.RenameExchange))
	e.wantNlink(a, 2)
	e.wantNlink(b, 3)
	if e.look(a, "x").Ino != f || e.look(b, "y").Ino != sub {
		e.Fatal("not exchanged")
	}
	if p, err := e.Parent(e.ctx, sub); err != nil || p != b {
		e.Fatalf("parent is %d, %v", p, err)
	}
	e.ok(e.Rename(e.ctx, b, "y", a, "x", fs.RenameExchange))
	e.wantNlink(a, 3)
	e.wantNlink(b, 2)
	e.want(e.Rmdir(e.ctx, fs.Root, "a"), fs.ErrNotEmpty)
	e.ok(e.Unlink(e.ctx, b, "y"))
	e.ok(e.Rmdir(e.ctx, fs.Root, "b"))
}
