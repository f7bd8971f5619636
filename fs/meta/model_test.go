package meta_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

// model is the reference: a tree of pointers that says what every operation has to do. Its methods
// return the error that the tree's have to match.
type model struct {
	now  int64
	inos map[fs.Ino]*file
}

type file struct {
	fs.Attr
	target  string
	xattrs  map[string]string
	entries map[string]*file // of directories
	parent  *file

	linkable bool // made without a name, and has none yet
}

func newModel(now int64) *model {
	root := &file{Attr: fs.Attr{Ino: fs.Root, Mode: fs.TypeDir | 0o755, Nlink: 2, Size: 4096, Blocks: 8,
		Atime: now, Mtime: now, Ctime: now, Btime: now, Version: 1}, entries: map[string]*file{}}
	root.parent = root
	return &model{now: now, inos: map[fs.Ino]*file{fs.Root: root}}
}

func badName(s string) error {
	switch {
	case len(s) > 255:
		return fs.ErrNameTooLong
	case s == "" || s == "." || s == ".." || strings.Contains(s, "/") || strings.Contains(s, "\x00"):
		return fs.ErrInvalid
	}
	return nil
}

func (m *model) changed(f *file) { f.Ctime = m.now; f.Version++ }
func (m *model) modified(f *file) {
	f.Mtime = m.now
	m.changed(f)
}

func (m *model) get(ino fs.Ino) (*file, error) {
	if f := m.inos[ino]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

// dir is a directory that is not removed.
func (m *model) dir(ino fs.Ino) (*file, error) {
	f, err := m.get(ino)
	switch {
	case err != nil:
		return nil, err
	case f.entries == nil:
		return nil, fs.ErrNotDir
	case f.Nlink == 0:
		return nil, fs.ErrNotExist
	}
	return f, nil
}

func (m *model) lookup(parent fs.Ino, name string) (*file, error) {
	if err := badName(name); err != nil {
		return nil, err
	}
	d, err := m.get(parent)
	if err != nil {
		return nil, err
	}
	if d.entries == nil {
		return nil, fs.ErrNotDir
	}
	if f := d.entries[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

// create makes an inode with the number that the tree gave it.
func (m *model) create(c fs.Cred, parent fs.Ino, name string, mode, rdev uint32, target string) (*file, error) {
	if err := badName(name); err != nil {
		return nil, err
	}
	d, err := m.dir(parent)
	if err != nil {
		return nil, err
	}
	if d.entries[name] != nil {
		return nil, fs.ErrExist
	}
	f := m.born(c, d, mode)
	f.Rdev, f.target = rdev, target
	if target != "" {
		f.Size = int64(len(target))
	}
	f.Nlink = 1
	if f.entries != nil {
		f.Nlink = 2
		d.Nlink++
	}
	d.entries[name] = f
	m.modified(d)
	return f, nil
}

func (m *model) born(c fs.Cred, d *file, mode uint32) *file {
	f := &file{Attr: fs.Attr{Mode: mode, UID: c.UID, GID: c.GID, Version: 1,
		Atime: m.now, Mtime: m.now, Ctime: m.now, Btime: m.now}}
	if f.IsDir() {
		f.entries, f.parent, f.Size, f.Blocks = map[string]*file{}, d, 4096, 8
	}
	if d.Mode&fs.ModeSetgid != 0 {
		f.GID = d.GID
		if f.IsDir() {
			f.Mode |= fs.ModeSetgid
		}
	}
	return f
}

func (m *model) tmpfile(c fs.Cred, parent fs.Ino, mode uint32) (*file, error) {
	d, err := m.dir(parent)
	if err != nil {
		return nil, err
	}
	f := m.born(c, d, mode&0o7777|fs.TypeRegular)
	f.linkable = true
	return f, nil
}

func (m *model) link(ino, parent fs.Ino, name string) error {
	if err := badName(name); err != nil {
		return err
	}
	f, err := m.get(ino)
	if err != nil {
		return err
	}
	d, err := m.dir(parent)
	switch {
	case err != nil:
		return err
	case d.entries[name] != nil:
		return fs.ErrExist
	case f.entries != nil:
		return fs.ErrNotPermitted
	case f.Nlink == 0 && !f.linkable:
		return fs.ErrNotExist
	}
	f.linkable = false
	f.Nlink++
	d.entries[name] = f
	m.changed(f)
	m.modified(d)
	return nil
}

func (m *model) remove(parent fs.Ino, name string, wantDir bool) (*file, error) {
	if err := badName(name); err != nil {
		return nil, err
	}
	d, err := m.dir(parent)
	if err != nil {
		return nil, err
	}
	f := d.entries[name]
	switch {
	case f == nil:
		return nil, fs.ErrNotExist
	case wantDir && f.entries == nil:
		return nil, fs.ErrNotDir
	case !wantDir && f.entries != nil:
		return nil, fs.ErrIsDir
	case len(f.entries) > 0:
		return nil, fs.ErrNotEmpty
	}
	m.unlinked(f, d)
	delete(d.entries, name)
	m.modified(d)
	return f, nil
}

func (m *model) unlinked(f, d *file) {
	if f.entries != nil {
		f.Nlink = 0
		d.Nlink--
	} else {
		f.Nlink--
	}
	m.changed(f)
}

func (m *model) rename(parent fs.Ino, name string, newParent fs.Ino, newName string, flags fs.RenameFlags) error {
	if err := badName(name); err != nil {
		return err
	}
	if err := badName(newName); err != nil {
		return err
	}
	from, err := m.dir(parent)
	if err != nil {
		return err
	}
	f := from.entries[name]
	if f == nil {
		return fs.ErrNotExist
	}
	to, err := m.dir(newParent)
	if err != nil {
		return err
	}
	g := to.entries[newName]
	exchange := flags == fs.RenameExchange
	switch {
	case g != nil && flags == fs.RenameNoReplace:
		return fs.ErrExist
	case g == nil && exchange:
		return fs.ErrNotExist
	case f == g:
		return nil
	case beneath(to, f), exchange && beneath(from, g):
		return fs.ErrInvalid
	}
	if g != nil && !exchange {
		switch {
		case beneath(from, g):
			return fs.ErrNotEmpty
		case f.entries != nil && g.entries == nil:
			return fs.ErrNotDir
		case f.entries == nil && g.entries != nil:
			return fs.ErrIsDir
		case len(g.entries) > 0:
			return fs.ErrNotEmpty
		}
		m.unlinked(g, to)
	}
	delete(from.entries, name)
	m.arrive(f, from, to, newName)
	if exchange {
		m.arrive(g, to, from, name)
	}
	m.modified(from)
	if to != from {
		m.modified(to)
	}
	return nil
}

func (m *model) arrive(f, from, to *file, name string) {
	to.entries[name] = f
	if f.entries != nil {
		f.parent = to
		from.Nlink--
		to.Nlink++
	}
	m.changed(f)
}

// beneath reports whether d is f or lies beneath it.
func beneath(d, f *file) bool {
	for ; d != f; d = d.parent {
		if d.parent == d {
			return false
		}
	}
	return true
}

func (m *model) setattr(ino fs.Ino, s fs.SetAttr) error {
	f, err := m.get(ino)
	if err != nil || s.Mask == 0 {
		return err
	}
	for _, x := range []struct {
		bit fs.SetMask
		set func()
	}{
		{fs.SetMode, func() { f.Mode = f.Mode&fs.TypeMask | s.Mode&0o7777 }},
		{fs.SetUID, func() { f.UID = s.UID }},
		{fs.SetGID, func() { f.GID = s.GID }},
		{fs.SetAtime, func() { f.Atime = s.Atime }},
		{fs.SetMtime, func() { f.Mtime = s.Mtime }},
		{fs.SetAtimeNow, func() { f.Atime = m.now }},
		{fs.SetMtimeNow, func() { f.Mtime = m.now }},
	} {
		if s.Mask&x.bit != 0 {
			x.set()
		}
	}
	m.changed(f)
	return nil
}

func (m *model) setxattr(ino fs.Ino, name, value string, mode fs.XattrMode) error {
	f, err := m.get(ino)
	if err != nil {
		return err
	}
	_, have := f.xattrs[name]
	switch {
	case have && mode&fs.XattrCreate != 0:
		return fs.ErrExist
	case !have && mode&fs.XattrReplace != 0:
		return fs.ErrNoAttr
	}
	if f.xattrs == nil {
		f.xattrs = map[string]string{}
	}
	f.xattrs[name] = value
	m.changed(f)
	return nil
}

func (m *model) removexattr(ino fs.Ino, name string) error {
	f, err := m.get(ino)
	if err != nil {
		return err
	}
	if _, have := f.xattrs[name]; !have {
		return fs.ErrNoAttr
	}
	delete(f.xattrs, name)
	m.changed(f)
	return nil
}

// drop is the reaper's.
func (m *model) drop(ino fs.Ino) error {
	f, err := m.get(ino)
	if err != nil {
		return err
	}
	if f.Nlink != 0 {
		return fs.ErrBusy
	}
	delete(m.inos, ino)
	return nil
}

// dump describes every inode, with its entries, one line each.
func (m *model) dump() string {
	var b strings.Builder
	for _, ino := range slices.Sorted(maps.Keys(m.inos)) {
		f := m.inos[ino]
		parent := fs.Ino(0)
		if f.entries != nil {
			parent = f.parent.Ino
		}
		fmt.Fprintf(&b, "%s xattrs %v\n", describe(f.Attr, parent, f.target), sorted(f.xattrs))
		for _, name := range slices.Sorted(maps.Keys(f.entries)) {
			e := f.entries[name]
			fmt.Fprintf(&b, "  %q -> %d %o\n", name, e.Ino, e.Mode&fs.TypeMask)
		}
	}
	return b.String()
}

// describe leaves out the parent of a removed directory, which means nothing.
func describe(a fs.Attr, parent fs.Ino, target string) string {
	if a.Nlink == 0 {
		parent = 0
	}
	return fmt.Sprintf("%+v parent %d target %q", a, parent, target)
}

func sorted(x map[string]string) (s []string) {
	for _, k := range slices.Sorted(maps.Keys(x)) {
		s = append(s, k+"="+x[k])
	}
	return s
}
