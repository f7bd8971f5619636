package meta

import (
	"cmp"
	"context"
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Renamed is what a rename did. Inodes are as they are afterwards.
type Renamed struct {
	Moved Inode
	// Target is what the new name meant before: the inode that was replaced (with Nlink 0 it has become
	// an orphan) or exchanged. Its Ino is 0 when the new name was free.
	Target Inode
	// Unchanged: both names mean the same inode, so nothing was done.
	Unchanged bool
}

// Rename moves an entry, as renameat2(2) does:
//
//   - a name that exists is replaced: a directory by a directory when it is empty (else
//     fs.ErrNotEmpty), a non-directory by a non-directory (else fs.ErrIsDir or fs.ErrNotDir);
//   - with fs.RenameNoReplace a name that exists is fs.ErrExist;
//   - with fs.RenameExchange both names must exist, and whatever they mean is swapped;
//   - two names of one inode are left as they are;
//   - a directory is never moved beneath itself (fs.ErrInvalid), and nothing over what holds it
//     (fs.ErrNotEmpty).
func (t *Tree) Rename(ctx context.Context, parent fs.Ino, name string, newParent fs.Ino, newName string, f fs.RenameFlags) (Renamed, error) {
	err := checkName(name)
	if err == nil {
		err = checkName(newName)
	}
	if f != 0 && f != fs.RenameNoReplace && f != fs.RenameExchange {
		err = fs.ErrInvalid
	}
	if err != nil {
		return Renamed{}, &fs.OpError{Op: "rename", Ino: parent, Name: name, Err: err}
	}
	var done Renamed
	err = t.update(ctx, "rename", parent, name, func(c *change) error {
		r := rename{change: c, name: name, newName: newName, flags: f}
		if err := r.load(parent, newParent); err != nil {
			return err
		}
		if r.found && r.moved.Ino == r.target.Ino {
			done = Renamed{Moved: r.moved, Target: r.target, Unchanged: true}
			return nil
		}
		err := r.check()
		if err == nil {
			err = r.apply()
		}
		done = Renamed{Moved: r.moved, Target: r.target}
		return err
	})
	if err != nil {
		return Renamed{}, err
	}
	return done, nil
}

// rename is one under evaluation.
type rename struct {
	*change
	name, newName string
	flags         fs.RenameFlags

	dirs          [2]Inode
	from, to      *Inode // parents, the same pointer when they are the same
	moved, target Inode
	found         bool // target exists
}

func (r *rename) load(parent, newParent fs.Ino) (err error) {
	v := &r.tree.volume
	if r.dirs[0], err = r.dir(parent); err != nil {
		return err
	}
	r.from, r.to = &r.dirs[0], &r.dirs[0]
	e, err := v.getEntry(r, parent, r.name)
	if err != nil {
		return err
	}
	if r.moved, err = v.named(r, parent, r.name, e); err != nil {
		return err
	}
	if newParent != parent {
		if r.dirs[1], err = r.dir(newParent); err != nil {
			return err
		}
		r.to = &r.dirs[1]
	}
	switch e, err = v.getEntry(r, newParent, r.newName); {
	case err == nil && r.flags == fs.RenameNoReplace:
		return fs.ErrExist
	case err == nil:
		r.found = true
		r.target, err = v.named(r, newParent, r.newName, e)
		return err
	case errors.Is(err, fs.ErrNotExist) && r.flags != fs.RenameExchange:
		return nil
	}
	return err
}

// check tests the rules in the order in which Linux does.
func (r *rename) check() error {
	exchange := r.flags == fs.RenameExchange
	if r.from != r.to {
		if within, err := contains(r, &r.moved, r.to); err != nil || within {
			return cmp.Or(err, fs.ErrInvalid)
		}
		if within, err := contains(r, &r.target, r.from); err != nil || within {
			if exchange {
				return cmp.Or(err, fs.ErrInvalid)
			}
			return cmp.Or(err, fs.ErrNotEmpty)
		}
		full := r.to // the parent that gains a directory, if one does
		if exchange && r.target.IsDir() {
			full = r.from
		}
		if r.moved.IsDir() != r.target.IsDir() && (exchange || r.moved.IsDir()) && full.Nlink >= fs.MaxLink {
			return fs.ErrTooManyLinks
		}
	}
	if exchange || !r.found {
		return nil
	}
	switch {
	case r.moved.IsDir() && !r.target.IsDir():
		return fs.ErrNotDir
	case !r.moved.IsDir() && r.target.IsDir():
		return fs.ErrIsDir
	case !r.target.IsDir():
		return nil
	}
	none, err := empty(r, r.target.Ino)
	if err == nil && !none {
		err = fs.ErrNotEmpty
	}
	return err
}

func (r *rename) apply() error {
	v := &r.tree.volume
	switch {
	case r.flags == fs.RenameExchange:
		r.move(&r.target, r.to, r.from)
		v.putEntry(r, r.from.Ino, r.name, &r.target)
	case r.found:
		if err := r.unlinked(&r.target, r.to); err != nil {
			return err
		}
		fallthrough
	default:
		v.deleteEntry(r, r.from.Ino, r.name)
	}
	r.move(&r.moved, r.from, r.to)
	v.putEntry(r, r.to.Ino, r.newName, &r.moved)
	r.from.Modified(r.now)
	if r.to != r.from {
		r.to.Modified(r.now)
		PutInode(r, r.to)
	}
	PutInode(r, r.from)
	return nil
}

// move notes in in that it went from one parent to another, and in the parents if it is a directory.
func (r *rename) move(in, from, to *Inode) {
	if in.IsDir() && from != to {
		from.Nlink--
		to.Nlink++
		in.Parent = to.Ino
	}
	in.Changed(r.now)
	PutInode(r, in)
}

// maxDepth bounds the walk to the root: a longer one goes in circles.
const maxDepth = 1 << 20

// contains reports whether in is the directory dir, or one above it.
func contains(r kv.Reader, in, dir *Inode) (bool, error) {
	if !in.IsDir() {
		return false, nil
	}
	ino, parent := dir.Ino, dir.Parent
	for range maxDepth {
		if ino == in.Ino {
			return true, nil
		}
		if ino == fs.Root {
			return false, nil
		}
		above, err := GetInode(r, parent)
		if errors.Is(err, fs.ErrNotExist) {
			return false, damaged(InodeKeyspace, inodeKey(ino), "its parent %d is missing", parent)
		}
		if err != nil {
			return false, err
		}
		ino, parent = above.Ino, above.Parent
	}
	return false, damaged(InodeKeyspace, inodeKey(dir.Ino), "its parents go in circles")
}
