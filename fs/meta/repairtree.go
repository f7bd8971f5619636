package meta

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gabionfs/gabion/fs"
)

// Repairs that change what holds what.

// lostAndFound is the entry of the root for what has no place.
const lostAndFound = "lost+found"

func (r *repair) dangling(p Problem) (string, error) {
	e, ok, err := r.entryAt(p)
	if !ok {
		return "", err
	}
	if _, ok, err := r.inode(e.ino); ok || err != nil {
		return "", err
	}
	if e.typ == fs.TypeDir {
		none, err := empty(r, e.ino)
		if err != nil {
			return "", err
		}
		if !none {
			in := r.newInode(e.ino, fs.TypeDir)
			in.Parent = p.Parent
			PutInode(r, &in)
			return "made the directory anew", r.files(1)
		}
	}
	r.Delete(DirentKeyspace, slices.Clone(p.Key))
	return "deleted", nil
}

func (r *repair) stray(p Problem) (string, error) {
	if p.Name != "" {
		if dir, ok, err := r.inode(p.Parent); !ok || dir.IsDir() {
			return "", err
		}
		r.Delete(DirentKeyspace, slices.Clone(p.Key))
		return "deleted", nil
	}
	if _, ok, err := r.inode(p.Ino); ok || err != nil {
		return "", err
	}
	in := r.newInode(p.Ino, fs.TypeDir)
	done, err := r.adopt(&in)
	if err != nil {
		return "", err
	}
	return done, r.files(1)
}

// extraEntry deletes an entry of a directory that another, which the directory believes in, names too.
func (r *repair) extraEntry(p Problem) (string, error) {
	e, ok, err := r.entryAt(p)
	if !ok {
		return "", err
	}
	if e.ino != fs.Root {
		in, ok, err := r.inode(e.ino)
		if !ok {
			return "", err
		}
		if other, err := r.holds(in.Parent, e.ino, p.Key); !other {
			return "", err // its idea of its parent is wrong, too
		}
	}
	r.Delete(DirentKeyspace, slices.Clone(p.Key))
	return "deleted", nil
}

func (r *repair) parent(p Problem) (string, error) {
	in, ok, err := r.inode(p.Ino)
	if !ok || in.Parent == p.Parent {
		return "", err
	}
	if p.Ino != fs.Root {
		if held, err := r.holds(p.Parent, p.Ino, nil); !held {
			return "", err
		}
	}
	in.Parent = p.Parent
	PutInode(r, &in)
	return fmt.Sprintf("set to %d", p.Parent), nil
}

// cycle takes a directory out of its circle.
func (r *repair) cycle(p Problem) (string, error) {
	e, ok, err := r.entryAt(p)
	if !ok || e.ino != p.Ino {
		return "", err
	}
	in, ok, err := r.inode(p.Ino)
	if !ok || in.Parent != p.Parent {
		return "", err
	}
	done, err := r.adopt(&in)
	if err == nil {
		r.Delete(DirentKeyspace, slices.Clone(p.Key))
	}
	return done, err
}

func (r *repair) unreachable(p Problem) (string, error) {
	in, ok, err := r.inode(p.Ino)
	if !ok {
		return "", err
	}
	if in.IsDir() {
		if held, err := r.holds(in.Parent, p.Ino, nil); held || err != nil {
			return "", err
		}
	}
	return r.adopt(&in)
}

// adopt links an inode in lost+found and writes it. Its link count may be corrected after.
func (r *repair) adopt(in *Inode) (string, error) {
	home, err := r.lostFound()
	if err != nil {
		return "", err
	}
	if home.Ino == in.Ino {
		return "", errLater
	}
	name := fmt.Sprintf("#%d", in.Ino)
	for n := 2; ; n++ {
		_, err := r.volume.getEntry(r, home.Ino, name)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", err
		}
		name = fmt.Sprintf("#%d.%d", in.Ino, n)
	}
	if in.IsDir() {
		in.Parent = home.Ino
		in.Nlink = max(in.Nlink, 2)
		home.Nlink++
	} else {
		in.Nlink = 1
	}
	in.Changed(r.now)
	PutInode(r, in)
	deleteOrphan(r, in.Ino)
	r.volume.putEntry(r, home.Ino, name, in)
	home.Modified(r.now)
	PutInode(r, &home)
	return fmt.Sprintf("linked as %q in inode %d", name, home.Ino), nil
}

// lostFound returns the directory for what has no place, which it makes when there is none.
func (r *repair) lostFound() (Inode, error) {
	root, err := GetInode(r, fs.Root)
	if err != nil {
		return root, later(err)
	}
	if !root.IsDir() {
		return root, errLater
	}
	for name, n := lostAndFound, 2; ; name, n = fmt.Sprint(lostAndFound, ".", n), n+1 {
		e, err := r.volume.getEntry(r, fs.Root, name)
		if errors.Is(err, fs.ErrNotExist) {
			return r.makeLostFound(&root, name)
		}
		if err != nil {
			return root, err
		}
		if in, err := GetInode(r, e.ino); err != nil || in.IsDir() {
			return in, later(err)
		}
	}
}

func (r *repair) makeLostFound(root *Inode, name string) (Inode, error) {
	next, err := r.next()
	if err != nil {
		return *root, err
	}
	putCounter(r, nextKey, next+1)
	in := r.newInode(fs.Ino(next), fs.TypeDir)
	PutInode(r, &in)
	r.volume.putEntry(r, fs.Root, name, &in)
	root.Nlink++
	root.Modified(r.now)
	PutInode(r, root)
	return in, r.files(1)
}

// later turns a missing inode, which is a problem of its own, into errLater.
func later(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errLater
	}
	return err
}
