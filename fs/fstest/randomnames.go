package fstest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
)

func is(err, kind error) bool { return errors.Is(err, kind) }

// randomNames does random operations on a tree of few names, so that they often collide.
func randomNames(e *env) {
	n := 0
	rapid.Check(e.T, func(rt *rapid.T) {
		n++
		p := &pair{env: e, rt: rt, model: memfs.New(), to: map[fs.Ino]fs.Ino{}}
		top := fmt.Sprint("tree", n) // in the model too, so that ".." of the top is nobody's business
		a, err := p.model.Mkdir(e.ctx, owner, fs.Root, top, 0o755)
		e.ok(err)
		p.to[a.Ino] = e.dir(fs.Root, top)
		o := &nameOps{pair: p, top: a.Ino, inodes: []fs.Ino{a.Ino}, held: map[fs.Ino]int{}}
		for range 10 { // each some 30 steps, as -rapid.steps says
			rt.Repeat(map[string]func(*rapid.T){
				"mknod": o.mknod, "mkdir": o.mkdir, "mkdir again": o.mkdir, "symlink": o.symlink, "link": o.link, "tmpfile": o.tmpfile,
				"unlink": o.unlink, "rmdir": o.rmdir, "rename": o.rename, "rename again": o.rename, "setattr": o.setattr, "xattr": o.xattr,
				"hold": o.hold, "drop": o.drop, "lookup": o.lookup, "": func(*rapid.T) {},
			})
		}
		o.walk(o.top, top)
		for _, ino := range o.inodes {
			o.getattr(ino)
		}
		for ino, n := range o.held {
			o.Drop(o.to[ino], uint64(n))
		}
	})
}

// nameOps draws from the inodes that were ever made, by the model's numbers, whether they live or not.
type nameOps struct {
	*pair
	top    fs.Ino
	inodes []fs.Ino
	held   map[fs.Ino]int
}

// dir draws a directory, and now and then something else, or something that is gone.
func (o *nameOps) dir(rt *rapid.T, label string) fs.Ino {
	if rapid.IntRange(0, 9).Draw(rt, label+" is any") == 0 {
		return o.ino(rt, label)
	}
	var dirs []fs.Ino
	for _, ino := range o.inodes {
		if a, err := o.model.Getattr(o.ctx, ino); err == nil && a.IsDir() {
			dirs = append(dirs, ino)
		}
	}
	return rapid.SampledFrom(dirs).Draw(rt, label)
}

func (o *nameOps) ino(rt *rapid.T, label string) fs.Ino {
	return rapid.SampledFrom(o.inodes).Draw(rt, label)
}

func (o *nameOps) name(rt *rapid.T, label string) string {
	return rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, label)
}

func (o *nameOps) made(what string, want, got fs.Attr, werr, gerr error) bool {
	if !o.both(what, werr, gerr) {
		return false
	}
	if _, known := o.to[want.Ino]; !known {
		for _, real := range o.to {
			if real == got.Ino {
				o.rt.Fatalf("%s: inode %d was used before", what, real)
			}
		}
		o.to[want.Ino] = got.Ino
		o.inodes = append(o.inodes, want.Ino)
	}
	o.same(what, want, got)
	return true
}

func (o *nameOps) mknod(rt *rapid.T) {
	d, name := o.dir(rt, "parent"), o.name(rt, "name")
	mode := rapid.SampledFrom([]uint32{fs.TypeRegular, fs.TypeFifo, fs.TypeChar}).Draw(rt, "type") | rapid.Uint32Range(0, 0o7777).Draw(rt, "mode")
	a, werr := o.model.Mknod(o.ctx, owner, d, name, mode, 0x103)
	b, gerr := o.Mknod(o.ctx, owner, o.to[d], name, mode, 0x103)
	o.made("mknod", a, b, werr, gerr)
}

func (o *nameOps) mkdir(rt *rapid.T) {
	d, name := o.dir(rt, "parent"), o.name(rt, "name")
	a, werr := o.model.Mkdir(o.ctx, owner, d, name, 0o755)
	b, gerr := o.Mkdir(o.ctx, owner, o.to[d], name, 0o755)
	o.made("mkdir", a, b, werr, gerr)
}

func (o *nameOps) symlink(rt *rapid.T) {
	d, name := o.dir(rt, "parent"), o.name(rt, "name")
	a, werr := o.model.Symlink(o.ctx, owner, d, name, "target")
	b, gerr := o.Symlink(o.ctx, owner, o.to[d], name, "target")
	o.made("symlink", a, b, werr, gerr)
}

func (o *nameOps) link(rt *rapid.T) {
	ino, d, name := o.ino(rt, "inode"), o.dir(rt, "parent"), o.name(rt, "name")
	a, werr := o.model.Link(o.ctx, ino, d, name)
	b, gerr := o.Link(o.ctx, o.to[ino], o.to[d], name)
	o.oneOf("link", a, b, werr, gerr)
}

// oneOf is made for operations that may fail for several reasons at once, in any order.
func (o *nameOps) oneOf(what string, want, got fs.Attr, werr, gerr error) {
	if werr != nil && gerr != nil {
		o.known(what, gerr)
		return
	}
	o.made(what, want, got, werr, gerr)
}

func (o *nameOps) known(what string, err error) {
	if !slices.ContainsFunc(kindsOfErrors, func(kind error) bool { return is(err, kind) }) {
		o.rt.Fatalf("%s: %v", what, err)
	}
}

func (o *nameOps) tmpfile(rt *rapid.T) {
	d := o.dir(rt, "parent")
	a, werr := o.model.Tmpfile(o.ctx, owner, d, 0o600)
	b, gerr := o.Tmpfile(o.ctx, owner, o.to[d], 0o600)
	if o.made("tmpfile", a, b, werr, gerr) {
		o.held[a.Ino]++
	}
}

func (o *nameOps) unlink(rt *rapid.T) {
	d, name := o.dir(rt, "parent"), o.name(rt, "name")
	o.both("unlink", o.model.Unlink(o.ctx, d, name), o.Unlink(o.ctx, o.to[d], name))
}

func (o *nameOps) rmdir(rt *rapid.T) {
	d, name := o.dir(rt, "parent"), o.name(rt, "name")
	o.both("rmdir", o.model.Rmdir(o.ctx, d, name), o.Rmdir(o.ctx, o.to[d], name))
}

func (o *nameOps) rename(rt *rapid.T) {
	from, name := o.dir(rt, "from"), o.name(rt, "old name")
	to, newName := o.dir(rt, "to"), o.name(rt, "new name")
	f := rapid.SampledFrom([]fs.RenameFlags{0, 0, fs.RenameNoReplace, fs.RenameExchange}).Draw(rt, "flags")
	werr := o.model.Rename(o.ctx, from, name, to, newName, f)
	gerr := o.Rename(o.ctx, o.to[from], name, o.to[to], newName, f)
	o.oneOf("rename", fs.Attr{Ino: o.top}, fs.Attr{Ino: o.to[o.top]}, werr, gerr)
}

func (o *nameOps) setattr(rt *rapid.T) {
	ino := o.ino(rt, "inode")
	s := fs.SetAttr{
		Mask: fs.SetMask(rapid.Uint8Range(0, 7).Draw(rt, "mask")),
		Mode: rapid.Uint32Range(0, 0o7777).Draw(rt, "mode"), UID: rapid.Uint32Range(0, 3).Draw(rt, "uid"), GID: rapid.Uint32Range(0, 3).Draw(rt, "gid"),
	}
	a, werr := o.model.Getattr(o.ctx, ino)
	if werr == nil && a.Mode&fs.TypeMask == fs.TypeSymlink {
		s.Mask &^= fs.SetMode // the mode of a symlink has no meaning
	}
	a, werr = o.model.Setattr(o.ctx, ino, s)
	b, gerr := o.Setattr(o.ctx, o.to[ino], s)
	o.made("setattr", a, b, werr, gerr)
}

func (o *nameOps) xattr(rt *rapid.T) {
	ino, name := o.ino(rt, "inode"), "user."+o.name(rt, "attribute")
	if rapid.Bool().Draw(rt, "remove") {
		o.both("removexattr", o.model.RemoveXattr(o.ctx, ino, name), o.RemoveXattr(o.ctx, o.to[ino], name))
		return
	}
	m := fs.XattrMode(rapid.Uint32Range(0, 2).Draw(rt, "mode"))
	o.both("setxattr", o.model.SetXattr(o.ctx, ino, name, []byte(name), m), o.SetXattr(o.ctx, o.to[ino], name, []byte(name), m))
}

func (o *nameOps) hold(rt *rapid.T) {
	ino := o.ino(rt, "inode")
	if o.both("hold", o.model.Hold(ino), o.Hold(o.to[ino])) {
		o.held[ino]++
	}
}

func (o *nameOps) drop(rt *rapid.T) {
	if len(o.held) == 0 {
		rt.Skip("nothing is held")
	}
	ino := rapid.SampledFrom(slices.Sorted(maps.Keys(o.held))).Draw(rt, "inode")
	n := rapid.IntRange(1, o.held[ino]).Draw(rt, "times")
	o.model.Drop(ino, uint64(n))
	o.Drop(o.to[ino], uint64(n))
	if o.held[ino] -= n; o.held[ino] == 0 {
		delete(o.held, ino)
	}
}

func (o *nameOps) lookup(rt *rapid.T) {
	d, name := o.dir(rt, "parent"), o.name(rt, "name")
	a, werr := o.model.Lookup(o.ctx, d, name)
	b, gerr := o.Lookup(o.ctx, o.to[d], name)
	o.made("lookup", a, b, werr, gerr)
	o.getattr(o.ino(rt, "inode"))
}

// getattr compares everything that belongs to one inode.
func (o *nameOps) getattr(ino fs.Ino) {
	a, werr := o.model.Getattr(o.ctx, ino)
	b, gerr := o.Getattr(o.ctx, o.to[ino])
	if !o.made("getattr", a, b, werr, gerr) {
		return
	}
	want, err := o.model.ListXattr(o.ctx, ino)
	o.ok(err)
	got, err := o.ListXattr(o.ctx, o.to[ino])
	o.ok(err)
	if slices.Sort(got); !slices.Equal(got, want) {
		o.rt.Fatalf("attributes of %d are %q, want %q", b.Ino, got, want)
	}
	if a.IsDir() && a.Nlink > 0 {
		p, err := o.model.Parent(o.ctx, ino)
		o.ok(err)
		q, err := o.Parent(o.ctx, o.to[ino])
		if o.ok(err); ino != o.top && q != o.to[p] {
			o.rt.Fatalf("the parent of %d is %d, want %d", b.Ino, q, o.to[p])
		}
	}
}

// walk compares everything below a directory.
func (o *nameOps) walk(dir fs.Ino, path string) {
	got := o.list(o.to[dir])
	n := 0
	var subs []fs.Dirent
	o.ok(o.model.ReadDir(o.ctx, dir, 0, false, func(d fs.Dirent, _ *fs.Attr) bool {
		n++
		if g := got[d.Name]; g.Ino != o.to[d.Ino] || g.Type != d.Type {
			o.rt.Fatalf("%s/%s is listed as %+v, want inode %d of type %o", path, d.Name, g, o.to[d.Ino], d.Type)
		}
		if d.Type == fs.TypeDir {
			subs = append(subs, d)
		}
		return true
	}))
	if n != len(got) {
		o.rt.Fatalf("%s lists %d entries, want %d: %v", path, len(got), n, got)
	}
	for _, d := range subs {
		o.walk(d.Ino, path+"/"+d.Name)
	}
}
