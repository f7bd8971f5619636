package memfs

import (
	"context"

	"github.com/gabionfs/gabion/fs"
)

func (f *FS) Rename(_ context.Context, parent fs.Ino, name string, newParent fs.Ino, newName string, flags fs.RenameFlags) error {
	return f.update("rename", parent, name, func(c *change) error {
		switch flags {
		case 0, fs.RenameNoReplace, fs.RenameExchange:
		default:
			return fs.ErrInvalid
		}
		from, src, err := c.existing(parent, name)
		if err != nil {
			return err
		}
		to, dst, err := c.entry(newParent, newName)
		if err != nil {
			return err
		}
		if err := mayRename(from, src, to, dst, flags); err != nil {
			return err
		}
		switch {
		case dst != nil && dst.ino == src.ino: // the same name, or links to one inode
		case flags == fs.RenameExchange:
			c.exchange(from, src, to, dst)
		default:
			c.move(from, src, to, newName, dst)
		}
		return nil
	})
}

// mayRename decides as rename(2) does. dst is nil when the new name is free.
func mayRename(from *inode, src *entry, to *inode, dst *entry, flags fs.RenameFlags) error {
	exchange := flags == fs.RenameExchange
	switch {
	case dst == nil && exchange:
		return fs.ErrNotExist
	case dst != nil && flags == fs.RenameNoReplace:
		return fs.ErrExist
	case to.attr.Nlink == 0: // removed
		return fs.ErrNotExist
	case contains(src.ino, to): // a directory into itself
		return fs.ErrInvalid
	case dst == nil || dst.ino == src.ino:
		return nil
	case contains(dst.ino, from):
		if exchange {
			return fs.ErrInvalid
		}
		return fs.ErrNotEmpty
	case exchange:
		return nil
	case src.ino.attr.IsDir() && !dst.ino.attr.IsDir():
		return fs.ErrNotDir
	case !src.ino.attr.IsDir() && dst.ino.attr.IsDir():
		return fs.ErrIsDir
	case len(dst.ino.names) > 0:
		return fs.ErrNotEmpty
	}
	return nil
}

// contains reports whether dir is n or above it.
func contains(dir, n *inode) bool {
	for n != dir {
		if n == nil || n.parent == n {
			return false
		}
		n = n.parent
	}
	return true
}

func (c *change) move(from *inode, src *entry, to *inode, newName string, dst *entry) {
	c.leave(from, src)
	if dst != nil {
		c.leave(to, dst)
		c.unlinked(dst.ino)
	}
	c.enter(to, newName, src.ino)
	c.touch(src.ino, false)
}

// exchange leaves both entries where they are, and swaps what they mean.
func (c *change) exchange(from *inode, src *entry, to *inode, dst *entry) {
	if src.ino.attr.IsDir() {
		from.attr.Nlink--
		to.attr.Nlink++
		src.ino.parent = to
	}
	if dst.ino.attr.IsDir() {
		to.attr.Nlink--
		from.attr.Nlink++
		dst.ino.parent = from
	}
	src.ino, dst.ino = dst.ino, src.ino
	c.touchDir(from, src.name)
	c.touchDir(to, dst.name)
	c.touch(src.ino, false)
	c.touch(dst.ino, false)
}
