package meta

import (
	"context"

	"github.com/gabionfs/gabion/fs"
)

// Unlink removes the entry of anything but a directory (fs.ErrIsDir) and returns its inode as it is
// afterwards: with Nlink 0 it has become an orphan.
func (t *Tree) Unlink(ctx context.Context, parent fs.Ino, name string) (Inode, error) {
	return t.remove(ctx, "unlink", parent, name, func(c *change, dir, in *Inode) error {
		if in.IsDir() {
			return fs.ErrIsDir
		}
		return nil
	})
}

// Rmdir removes an empty directory and returns its inode as it is afterwards: an orphan.
func (t *Tree) Rmdir(ctx context.Context, parent fs.Ino, name string) (Inode, error) {
	return t.remove(ctx, "rmdir", parent, name, func(c *change, dir, in *Inode) error {
		if !in.IsDir() {
			return fs.ErrNotDir
		}
		none, err := empty(c, in.Ino)
		if err == nil && !none {
			err = fs.ErrNotEmpty
		}
		return err
	})
}

func (t *Tree) remove(ctx context.Context, op string, parent fs.Ino, name string, allowed func(c *change, dir, in *Inode) error) (Inode, error) {
	if err := checkName(name); err != nil {
		return Inode{}, &fs.OpError{Op: op, Ino: parent, Name: name, Err: err}
	}
	var in Inode
	err := t.update(ctx, op, parent, name, func(c *change) error {
		dir, err := c.dir(parent)
		if err != nil {
			return err
		}
		e, err := t.volume.getEntry(c, parent, name)
		if err != nil {
			return err
		}
		if in, err = t.volume.named(c, parent, name, e); err != nil {
			return err
		}
		if err := allowed(c, &dir, &in); err != nil {
			return err
		}
		if err := c.unlinked(&in, &dir); err != nil {
			return err
		}
		t.volume.deleteEntry(c, parent, name)
		dir.Modified(c.now)
		PutInode(c, &dir)
		return nil
	})
	if err != nil {
		return Inode{}, err
	}
	return in, nil
}

// unlinked takes a link from in, whose entry in dir goes away, and writes it. The caller writes dir.
func (c *change) unlinked(in, dir *Inode) error {
	if in.Nlink == 0 {
		return damaged(InodeKeyspace, inodeKey(in.Ino), "it has an entry and no links")
	}
	if in.IsDir() {
		if dir.Nlink <= 2 {
			return damaged(InodeKeyspace, inodeKey(dir.Ino), "a directory that holds another has %d links", dir.Nlink)
		}
		in.Nlink = 0
		dir.Nlink--
	} else {
		in.Nlink--
	}
	in.Changed(c.now)
	PutInode(c, in)
	if in.Nlink == 0 {
		putOrphan(c, in.Ino, unlinked)
	}
	return nil
}
