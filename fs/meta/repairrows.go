package meta

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Repairs that look at one row.

func (r *repair) damaged(p Problem) (string, error) {
	if p.Keyspace == InodeKeyspace && p.Ino != 0 {
		return r.rebuild(p.Ino, uint32(p.Want))
	}
	r.Delete(p.Keyspace, slices.Clone(p.Key))
	if p.Keyspace == InodeKeyspace {
		return "deleted", r.files(-1)
	}
	return "deleted", nil
}

// rebuild makes an inode whose row does not decode anew, as what its entries or its own entries say.
func (r *repair) rebuild(ino fs.Ino, typ uint32) (string, error) {
	if _, err := GetInode(r, ino); !errors.Is(err, fs.ErrIO) {
		return "", err
	}
	in := r.newInode(ino, typ)
	if (typ == fs.TypeRegular || typ == 0) && r.options.Content != nil {
		size, blocks, err := r.options.Content(r, uint64(ino))
		if err != nil {
			return "", err
		}
		if size > 0 {
			in = r.newInode(ino, fs.TypeRegular)
		}
		in.Size, in.Blocks = size, blocks
	}
	switch in.Mode & fs.TypeMask {
	case fs.TypeDir, fs.TypeRegular, fs.TypeFifo, fs.TypeSocket:
		PutInode(r, &in)
		return fmt.Sprintf("made anew with mode %o and size %d", in.Mode, in.Size), nil
	}
	r.Delete(InodeKeyspace, inodeKey(ino))
	return "deleted: what it was is lost", r.files(-1)
}

func (r *repair) root() (string, error) {
	in, ok, err := r.inode(fs.Root)
	if err != nil && !errors.Is(err, fs.ErrIO) || ok && in.IsDir() {
		return "", err
	}
	if !ok && err == nil {
		if err := r.files(1); err != nil {
			return "", err
		}
	}
	in = r.newInode(fs.Root, fs.TypeDir)
	PutInode(r, &in)
	return "made anew", nil
}

func (r *repair) entryType(p Problem) (string, error) {
	e, ok, err := r.entryAt(p)
	if !ok {
		return "", err
	}
	in, ok, err := r.inode(e.ino)
	if !ok || in.Mode&fs.TypeMask == e.typ {
		return "", err
	}
	e.typ = in.Mode & fs.TypeMask
	r.Put(DirentKeyspace, slices.Clone(p.Key), encodeEntry(e))
	return fmt.Sprintf("set to %o", e.typ), nil
}

func (r *repair) cookie(p Problem) (string, error) {
	e, ok, err := r.entryAt(p)
	if !ok {
		return "", err
	}
	key := r.volume.direntKey(p.Parent, p.Name)
	_, err = r.Get(DirentKeyspace, key)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return "", err
	}
	r.Delete(DirentKeyspace, slices.Clone(p.Key))
	if err == nil {
		return "deleted: the name exists where it has to be", nil
	}
	r.Put(DirentKeyspace, key, encodeEntry(e))
	return "moved", nil
}

// count corrects a number in an inode.
func (r *repair) count(p Problem) (string, error) {
	in, ok, err := r.inode(p.Ino)
	if !ok {
		return "", err
	}
	n := uint32(p.Want)
	if p.Kind == KindXattrCount {
		n = 0
		if _, err := xattrNames(r, p.Ino, func([]byte) { n++ }); err != nil {
			return "", err
		}
		in.Xattrs = n
	} else {
		in.Nlink = n
	}
	in.Changed(r.now)
	PutInode(r, &in)
	return fmt.Sprintf("set to %d", n), nil
}

func (r *repair) orphan(p Problem) (string, error) {
	in, ok, err := r.inode(p.Ino)
	switch {
	case err != nil:
		return "", err
	case p.Kind == KindOrphanMissing && ok && in.Nlink == 0:
		putOrphan(r, p.Ino, unlinked)
		return "added", nil
	case p.Kind == KindOrphanLinked, p.Kind == KindOrphanDangling && !ok:
		deleteOrphan(r, p.Ino)
		return "deleted", nil
	}
	return "", nil
}

func (r *repair) xattr(p Problem) (string, error) {
	if _, ok, err := r.inode(p.Ino); ok || err != nil {
		return "", err
	}
	r.Delete(XattrKeyspace, slices.Clone(p.Key))
	return "deleted", nil
}
