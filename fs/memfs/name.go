package memfs

import (
	"context"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fs.ErrInvalid
	case len(name) > fs.MaxName:
		return fs.ErrNameTooLong
	}
	return nil
}

// entry returns the entry name of the directory parent, nil when there is none.
func (st *state) entry(parent fs.Ino, name string) (*inode, *entry, error) {
	if err := checkName(name); err != nil {
		return nil, nil, err
	}
	d, err := st.dir(parent)
	if err != nil {
		return nil, nil, err
	}
	return d, d.names[name], nil
}

// existing is entry for names that must be there.
func (st *state) existing(parent fs.Ino, name string) (*inode, *entry, error) {
	d, e, err := st.entry(parent, name)
	if err == nil && e == nil {
		err = fs.ErrNotExist
	}
	return d, e, err
}

// vacant is entry for names that must not be there yet, in a directory that can take them.
func (st *state) vacant(parent fs.Ino, name string) (*inode, error) {
	d, e, err := st.entry(parent, name)
	switch {
	case err != nil:
		return nil, err
	case e != nil:
		return nil, fs.ErrExist
	case d.attr.Nlink == 0:
		return nil, fs.ErrNotExist
	}
	return d, nil
}

// enter gives n a name. It does not count the link.
func (c *change) enter(d *inode, name string, n *inode) {
	d.cookie++
	e := &entry{name: name, cookie: d.cookie, ino: n}
	d.names[name] = e
	d.cookies.Set(e.cookie, e)
	d.attr.Size = int64(len(d.names))
	if n.attr.IsDir() {
		n.parent = d
		d.attr.Nlink++
	}
	c.touchDir(d, name)
}

// leave takes the name away. It does not count the link.
func (c *change) leave(d *inode, e *entry) {
	delete(d.names, e.name)
	d.cookies.Delete(e.cookie)
	d.attr.Size = int64(len(d.names))
	if e.ino.attr.IsDir() {
		d.attr.Nlink--
	}
	c.touchDir(d, e.name)
}

// unlinked counts the loss of one name; the last one of a directory takes "." with it.
func (c *change) unlinked(n *inode) {
	n.attr.Nlink--
	if n.attr.IsDir() {
		n.attr.Nlink, n.parent = 0, nil
	}
	c.touch(n, false)
	c.reap(n)
}

func (f *FS) Lookup(_ context.Context, parent fs.Ino, name string) (a fs.Attr, err error) {
	err = f.view("lookup", parent, name, func(st *state) error {
		_, e, err := st.existing(parent, name)
		if err == nil {
			a = e.ino.stat()
		}
		return err
	})
	return a, err
}

func (f *FS) Parent(_ context.Context, dir fs.Ino) (p fs.Ino, err error) {
	err = f.view("parent", dir, "", func(st *state) error {
		d, err := st.dir(dir)
		if err != nil {
			return err
		}
		if d.parent == nil {
			return fs.ErrNotExist
		}
		p = d.parent.attr.Ino
		return nil
	})
	return p, err
}

// create makes an inode below parent. As in any directory with the set-group-ID bit, the group comes
// from the directory, and a directory inherits the bit.
func (c *change) create(cred fs.Cred, d *inode, mode uint32) *inode {
	if d.attr.Mode&fs.ModeSetgid != 0 {
		cred.GID = d.attr.GID
		if mode&fs.TypeMask == fs.TypeDir {
			mode |= fs.ModeSetgid
		}
	}
	n := c.newInode(cred, mode)
	n.attr.Nlink = 1
	if n.attr.IsDir() {
		n.attr.Nlink = 2
	}
	return n
}

func (f *FS) make(op string, cred fs.Cred, parent fs.Ino, name string, mode uint32, init func(n *inode)) (a fs.Attr, err error) {
	err = f.update(op, parent, name, func(c *change) error {
		d, err := c.vacant(parent, name)
		if err != nil {
			return err
		}
		n := c.create(cred, d, mode)
		init(n)
		c.enter(d, name, n)
		a = n.stat()
		return nil
	})
	return a, err
}

func (f *FS) Mknod(_ context.Context, cred fs.Cred, parent fs.Ino, name string, mode, rdev uint32) (fs.Attr, error) {
	mode &= fs.TypeMask | 0o7777
	switch mode & fs.TypeMask {
	case 0:
		mode |= fs.TypeRegular
		rdev = 0
	case fs.TypeRegular, fs.TypeFifo, fs.TypeSocket:
		rdev = 0
	case fs.TypeBlock, fs.TypeChar:
	default:
		return fs.Attr{}, &fs.OpError{Op: "mknod", Ino: parent, Name: name, Err: fs.ErrInvalid}
	}
	return f.make("mknod", cred, parent, name, mode, func(n *inode) { n.attr.Rdev = rdev })
}

func (f *FS) Mkdir(_ context.Context, cred fs.Cred, parent fs.Ino, name string, mode uint32) (fs.Attr, error) {
	return f.make("mkdir", cred, parent, name, fs.TypeDir|mode&0o7777, func(*inode) {})
}

func (f *FS) Symlink(_ context.Context, cred fs.Cred, parent fs.Ino, name, target string) (fs.Attr, error) {
	var err error
	switch {
	case target == "" || strings.Contains(target, "\x00"):
		err = fs.ErrInvalid
	case len(target) > fs.MaxSymlink:
		err = fs.ErrNameTooLong
	}
	if err != nil {
		return fs.Attr{}, &fs.OpError{Op: "symlink", Ino: parent, Name: name, Err: err}
	}
	return f.make("symlink", cred, parent, name, fs.TypeSymlink|0o777, func(n *inode) {
		n.target, n.attr.Size = target, int64(len(target))
	})
}

func (f *FS) Readlink(_ context.Context, ino fs.Ino) (target string, err error) {
	err = f.view("readlink", ino, "", func(st *state) error {
		n, err := st.get(ino)
		if err != nil {
			return err
		}
		if n.attr.Mode&fs.TypeMask != fs.TypeSymlink {
			return fs.ErrInvalid
		}
		target = n.target
		return nil
	})
	return target, err
}

func (f *FS) Tmpfile(_ context.Context, cred fs.Cred, parent fs.Ino, mode uint32) (a fs.Attr, err error) {
	err = f.update("tmpfile", parent, "", func(c *change) error {
		d, err := c.dir(parent)
		if err != nil {
			return err
		}
		if d.attr.Nlink == 0 {
			return fs.ErrNotExist
		}
		n := c.create(cred, d, fs.TypeRegular|mode&0o7777)
		n.attr.Nlink, n.holds, n.linkable = 0, 1, true
		a = n.stat()
		return nil
	})
	return a, err
}

func (f *FS) Link(_ context.Context, ino, parent fs.Ino, name string) (a fs.Attr, err error) {
	err = f.update("link", parent, name, func(c *change) error {
		n, err := c.get(ino)
		if err != nil {
			return err
		}
		d, err := c.vacant(parent, name)
		switch {
		case err != nil:
			return err
		case n.attr.IsDir():
			return fs.ErrNotPermitted
		case n.attr.Nlink == 0 && !n.linkable:
			return fs.ErrNotExist
		case n.attr.Nlink >= fs.MaxLink:
			return fs.ErrTooManyLinks
		}
		n.linkable = false
		n.attr.Nlink++
		c.touch(n, false)
		c.enter(d, name, n)
		a = n.stat()
		return nil
	})
	return a, err
}

func (f *FS) Unlink(_ context.Context, parent fs.Ino, name string) error {
	return f.update("unlink", parent, name, func(c *change) error {
		d, e, err := c.existing(parent, name)
		if err != nil {
			return err
		}
		if e.ino.attr.IsDir() {
			return fs.ErrIsDir
		}
		c.leave(d, e)
		c.unlinked(e.ino)
		return nil
	})
}

func (f *FS) Rmdir(_ context.Context, parent fs.Ino, name string) error {
	return f.update("rmdir", parent, name, func(c *change) error {
		d, e, err := c.existing(parent, name)
		switch {
		case err != nil:
			return err
		case !e.ino.attr.IsDir():
			return fs.ErrNotDir
		case len(e.ino.names) > 0:
			return fs.ErrNotEmpty
		}
		c.leave(d, e)
		c.unlinked(e.ino)
		return nil
	})
}

func (f *FS) ReadDir(_ context.Context, dir fs.Ino, after uint64, plus bool, fn func(d fs.Dirent, a *fs.Attr) bool) error {
	return f.view("readdir", dir, "", func(st *state) error {
		d, err := st.dir(dir)
		if err != nil {
			return err
		}
		d.cookies.Ascend(after, func(cookie uint64, e *entry) bool {
			if cookie == after {
				return true
			}
			var a *fs.Attr
			if plus {
				s := e.ino.stat()
				a = &s
			}
			return fn(fs.Dirent{Ino: e.ino.attr.Ino, Type: e.ino.attr.Mode & fs.TypeMask, Cookie: cookie, Name: e.name}, a)
		})
		return nil
	})
}
