package meta

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Lookup returns the inode that an entry names: fs.ErrNotExist when there is no such entry.
func (t *Tree) Lookup(ctx context.Context, parent fs.Ino, name string) (in Inode, err error) {
	if err := checkName(name); err != nil {
		return in, err
	}
	err = t.view(ctx, func(r kv.Reader) (err error) {
		in, err = t.volume.lookup(r, parent, name)
		return err
	})
	return in, translate(err)
}

// lookup reads the parent only where the entry is missing, to tell why.
func (v *Volume) lookup(r kv.Reader, parent fs.Ino, name string) (Inode, error) {
	e, err := v.getEntry(r, parent, name)
	if errors.Is(err, fs.ErrNotExist) {
		dir, err := GetInode(r, parent)
		if err == nil && !dir.IsDir() {
			return Inode{}, fs.ErrNotDir
		}
		if err == nil {
			err = fs.ErrNotExist
		}
		return Inode{}, err
	}
	if err != nil {
		return Inode{}, err
	}
	return v.named(r, parent, name, e)
}

// named reads the inode of an entry, which must be there.
func (v *Volume) named(r kv.Reader, parent fs.Ino, name string, e entry) (Inode, error) {
	in, err := GetInode(r, e.ino)
	if errors.Is(err, fs.ErrNotExist) {
		return in, damaged(DirentKeyspace, v.direntKey(parent, name), "it names inode %d, which is missing", e.ino)
	}
	return in, err
}

// Getattr returns an inode, whether it has a name or not.
func (t *Tree) Getattr(ctx context.Context, ino fs.Ino) (in Inode, err error) {
	err = t.view(ctx, func(r kv.Reader) (err error) {
		in, err = GetInode(r, ino)
		return err
	})
	return in, translate(err)
}

// Parent returns the directory that holds directory dir; Root is its own. A removed directory has none:
// fs.ErrNotExist.
func (t *Tree) Parent(ctx context.Context, dir fs.Ino) (fs.Ino, error) {
	in, err := t.Getattr(ctx, dir)
	switch {
	case err != nil:
	case !in.IsDir():
		err = fs.ErrNotDir
	case in.Nlink == 0:
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, err
	}
	return in.Parent, nil
}

// Readlink returns the target of a symlink; fs.ErrInvalid for anything else.
func (t *Tree) Readlink(ctx context.Context, ino fs.Ino) (string, error) {
	in, err := t.Getattr(ctx, ino)
	if err == nil && in.Mode&fs.TypeMask != fs.TypeSymlink {
		err = fs.ErrInvalid
	}
	if err != nil {
		return "", &fs.OpError{Op: "readlink", Ino: ino, Err: err}
	}
	return in.Target, nil
}
