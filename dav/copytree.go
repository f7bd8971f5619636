package dav

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/fs"
)

// copyDir copies a directory beside dst under a name that only we use, and moves it there.
func (h *Handler) copyDir(ctx context.Context, src, dst *node, deep bool) error {
	return h.withStage(ctx, dst, func(name string) error {
		a, err := h.fs.Mkdir(ctx, h.owner, dst.parent, name, src.attr.Mode&0o777)
		if err != nil {
			return err
		}
		if deep {
			if err := h.copyMembers(ctx, src.attr.Ino, a.Ino); err != nil {
				return err
			}
		}
		return h.copyXattrs(ctx, src.attr.Ino, a.Ino)
	})
}

// copyOver copies a file over a directory.
func (h *Handler) copyOver(ctx context.Context, src, dst *node) error {
	return h.withStage(ctx, dst, func(name string) error {
		a, err := h.fs.Mknod(ctx, h.owner, dst.parent, name, fs.TypeRegular|src.attr.Mode&0o777, 0)
		if err != nil {
			return err
		}
		return h.fillCopy(ctx, &src.attr, a.Ino)
	})
}

// withStage runs build, which makes what name means, and gives it the name of dst, whose old resource
// is removed. Whatever fails, name is gone afterwards.
func (h *Handler) withStage(ctx context.Context, dst *node, build func(name string) error) error {
	s := stage{parent: dst.parent, name: stagePrefix + newToken().String()[len(tokenScheme):]}
	if err := h.noteStage(ctx, s); err != nil {
		return err
	}
	err := build(s.name)
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		flags := fs.RenameNoReplace
		if dst.entry.Ino != 0 {
			flags = fs.RenameExchange
		}
		err = h.fs.Rename(ctx, dst.parent, s.name, dst.parent, dst.name, flags)
	}
	return errors.Join(err, h.clearStage(ctx, s))
}

// copyMembers copies what is in directory src to directory dst, and below it. Symbolic links are
// copied as such; special files, which WebDAV does not show, are not.
func (h *Handler) copyMembers(ctx context.Context, src, dst fs.Ino) error {
	type member struct {
		name string
		attr fs.Attr
	}
	for after := uint64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var batch []member
		err := h.fs.ReadDir(ctx, src, after, true, func(d fs.Dirent, a *fs.Attr) bool {
			batch = append(batch, member{d.Name, *a})
			after = d.Cookie
			return len(batch) < removeBatch
		})
		if err != nil || len(batch) == 0 {
			return err
		}
		for i := range batch {
			if err := h.copyMember(ctx, batch[i].name, &batch[i].attr, dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
}

func (h *Handler) copyMember(ctx context.Context, name string, a *fs.Attr, dst fs.Ino) error {
	switch a.Mode & fs.TypeMask {
	case fs.TypeDir:
		d, err := h.fs.Mkdir(ctx, h.owner, dst, name, a.Mode&0o777)
		if err != nil {
			return err
		}
		if err := h.copyMembers(ctx, a.Ino, d.Ino); err != nil {
			return err
		}
		return h.copyXattrs(ctx, a.Ino, d.Ino)
	case fs.TypeSymlink:
		target, err := h.fs.Readlink(ctx, a.Ino)
		if err != nil {
			return err
		}
		_, err = h.fs.Symlink(ctx, h.owner, dst, name, target)
		return err
	case fs.TypeRegular:
		if err := h.fs.Hold(a.Ino); err != nil {
			return err // gone meanwhile
		}
		defer h.fs.Drop(a.Ino, 1)
		f, err := h.fs.Mknod(ctx, h.owner, dst, name, fs.TypeRegular|a.Mode&0o777, 0)
		if err != nil {
			return err
		}
		return h.fillCopy(ctx, a, f.Ino)
	}
	return nil
}
