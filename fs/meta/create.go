package meta

import (
	"context"
	"errors"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

// Setattr changes attributes, all but the size, which package data changes: with fs.SetSize the error
// is fs.ErrInvalid. An empty mask changes nothing.
func (t *Tree) Setattr(ctx context.Context, ino fs.Ino, s fs.SetAttr) (in Inode, err error) {
	if s.Mask == 0 {
		return t.Getattr(ctx, ino)
	}
	if s.Mask&fs.SetSize != 0 {
		return in, &fs.OpError{Op: "setattr", Ino: ino, Err: fs.ErrInvalid}
	}
	err = t.update(ctx, "setattr", ino, "", func(c *change) (err error) {
		if in, err = GetInode(c, ino); err != nil {
			return err
		}
		in.Apply(s, c.now)
		PutInode(c, &in)
		return nil
	})
	return in, err
}

// Mknod creates an inode of any type but directory and symlink; a mode without a type is of a regular
// file. fs.ErrExist when the name is taken.
func (t *Tree) Mknod(ctx context.Context, c fs.Cred, parent fs.Ino, name string, mode, rdev uint32) (Inode, error) {
	in := Inode{Attr: fs.Attr{Mode: mode & (fs.TypeMask | permMask), Nlink: 1}}
	switch mode & fs.TypeMask {
	case 0:
		in.Mode |= fs.TypeRegular
	case fs.TypeRegular, fs.TypeFifo, fs.TypeSocket:
	case fs.TypeChar, fs.TypeBlock:
		in.Rdev = rdev
	default:
		return Inode{}, &fs.OpError{Op: "mknod", Ino: parent, Name: name, Err: fs.ErrInvalid}
	}
	return t.create(ctx, "mknod", c, parent, name, in)
}

// Mkdir creates a directory.
func (t *Tree) Mkdir(ctx context.Context, c fs.Cred, parent fs.Ino, name string, mode uint32) (Inode, error) {
	in := Inode{Parent: parent, Attr: fs.Attr{Mode: mode&permMask | fs.TypeDir, Nlink: 2, Size: dirSize, Blocks: dirBlocks}}
	return t.create(ctx, "mkdir", c, parent, name, in)
}

// Symlink creates a symbolic link with mode 0777. A target that is empty or has a zero byte is
// fs.ErrInvalid, one that is too long fs.ErrNameTooLong.
func (t *Tree) Symlink(ctx context.Context, c fs.Cred, parent fs.Ino, name, target string) (Inode, error) {
	var err error
	if target == "" || strings.IndexByte(target, 0) >= 0 {
		err = fs.ErrInvalid
	} else if len(target) > fs.MaxSymlink {
		err = fs.ErrNameTooLong
	}
	if err != nil {
		return Inode{}, &fs.OpError{Op: "symlink", Ino: parent, Name: name, Err: err}
	}
	in := Inode{Target: target, Attr: fs.Attr{Mode: fs.TypeSymlink | 0o777, Nlink: 1, Size: int64(len(target))}}
	return t.create(ctx, "symlink", c, parent, name, in)
}

// create makes the inode in and its entry. The template has mode, links and what belongs to its type.
func (t *Tree) create(ctx context.Context, op string, cred fs.Cred, parent fs.Ino, name string, in Inode) (Inode, error) {
	err := checkName(name)
	if err == nil {
		in.Ino, err = t.allocate(ctx)
	}
	if err != nil {
		return Inode{}, &fs.OpError{Op: op, Ino: parent, Name: name, Err: err}
	}
	var made Inode
	err = t.update(ctx, op, parent, name, func(c *change) error {
		made = in
		dir, err := c.dir(parent)
		if err != nil {
			return err
		}
		if err := c.free(parent, name); err != nil {
			return err
		}
		if made.IsDir() {
			if dir.Nlink >= fs.MaxLink {
				return fs.ErrTooManyLinks
			}
			dir.Nlink++
		}
		if err := c.born(&made, &dir, cred); err != nil {
			return err
		}
		t.volume.putEntry(c, parent, name, &made)
		dir.Modified(c.now)
		PutInode(c, &dir)
		return nil
	})
	if err != nil {
		return Inode{}, err
	}
	return made, nil
}

// Tmpfile creates a regular file without a name: an orphan, which Link can give one. The volume has to
// hold it before the reaper sees it.
func (t *Tree) Tmpfile(ctx context.Context, cred fs.Cred, parent fs.Ino, mode uint32) (Inode, error) {
	var in Inode
	ino, err := t.allocate(ctx)
	if err != nil {
		return in, &fs.OpError{Op: "tmpfile", Ino: parent, Err: err}
	}
	err = t.update(ctx, "tmpfile", parent, "", func(c *change) error {
		dir, err := c.dir(parent)
		if err != nil {
			return err
		}
		in = Inode{Attr: fs.Attr{Ino: ino, Mode: mode&permMask | fs.TypeRegular}}
		putOrphan(c, ino, linkable)
		return c.born(&in, &dir, cred)
	})
	if err != nil {
		return Inode{}, err
	}
	return in, nil
}

// Link gives an inode another name, or one made by Tmpfile its first. A directory is
// fs.ErrNotPermitted, and an inode that lost its last name fs.ErrNotExist.
func (t *Tree) Link(ctx context.Context, ino, parent fs.Ino, name string) (in Inode, err error) {
	if err := checkName(name); err != nil {
		return in, &fs.OpError{Op: "link", Ino: parent, Name: name, Err: err}
	}
	err = t.update(ctx, "link", parent, name, func(c *change) error {
		if in, err = GetInode(c, ino); err != nil {
			return err
		}
		dir, err := c.dir(parent)
		if err != nil {
			return err
		}
		if err := c.free(parent, name); err != nil {
			return err
		}
		switch {
		case in.IsDir():
			return fs.ErrNotPermitted
		case in.Nlink >= fs.MaxLink:
			return fs.ErrTooManyLinks
		case in.Nlink == 0:
			if err := c.adopt(ino); err != nil {
				return err
			}
		}
		in.Nlink++
		in.Changed(c.now)
		PutInode(c, &in)
		t.volume.putEntry(c, parent, name, &in)
		dir.Modified(c.now)
		PutInode(c, &dir)
		return nil
	})
	return in, err
}

// free returns fs.ErrExist when the entry exists.
func (c *change) free(parent fs.Ino, name string) error {
	_, err := c.tree.volume.getEntry(c, parent, name)
	if err == nil {
		return fs.ErrExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// born gives a new inode its owner and times and writes it. In a directory with the setgid bit the
// group is the directory's, and a new directory has the bit too.
func (c *change) born(in, dir *Inode, cred fs.Cred) error {
	in.UID, in.GID = cred.UID, cred.GID
	if dir.Mode&fs.ModeSetgid != 0 {
		in.GID = dir.GID
		if in.IsDir() {
			in.Mode |= fs.ModeSetgid
		}
	}
	if in.IsRegular() {
		in.Content = uint64(in.Ino)
	}
	in.Btime, in.Atime, in.Mtime, in.Ctime = c.now, c.now, c.now, c.now
	in.Version = 1
	PutInode(c, in)
	return addFiles(c, 1)
}
