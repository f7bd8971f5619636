package dav

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

// copyPiece is how much one CopyRange copies; between pieces a cancelled request stops.
const copyPiece = 1 << 30

// copyContent gives dst the first size bytes of src, by reference where blocks align.
func copyContent(ctx context.Context, f fs.FS, src, dst fs.Ino, size int64) error {
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.CopyRange(ctx, src, off, dst, off, min(size-off, copyPiece))
		if err != nil {
			return err
		}
		if n == 0 {
			return nil // src became shorter
		}
		off += n
	}
	return nil
}

// copy copies a resource, a collection with everything below it unless Depth is 0. The copy is made
// beside its destination, where nobody sees it, and appears when it is whole.
func (h *Handler) copy(ctx context.Context, rq *request) error {
	dstPath, err := h.destination(rq.r)
	if err != nil {
		return err
	}
	deep := true
	switch rq.depth() {
	case "", "infinity":
	case "0":
		deep = false
	default:
		return fail(http.StatusBadRequest, "COPY has Depth 0 or infinity")
	}
	overwrite, err := overwriteHeader(rq.r)
	if err != nil {
		return err
	}
	if within(dstPath, rq.path) || within(rq.path, dstPath) {
		return fail(http.StatusForbidden, "source and destination contain each other")
	}
	g := guard{path: dstPath, member: true, tree: true}
	release, err := h.claims.take(ctx, append(claimsOf(g), claim{path: rq.path, kind: change})...)
	if err != nil {
		return err
	}
	defer release()
	for range attempts {
		src, dst, err := h.admitTransfer(ctx, rq, dstPath, overwrite, []guard{g})
		if err != nil {
			return err
		}
		if err := h.apart(ctx, &src, &dst); err != nil {
			return err
		}
		err = h.copyNode(ctx, &src, &dst, deep)
		if errors.Is(err, fs.ErrExist) && dst.entry.Ino == 0 {
			continue // it came meanwhile, through a mount
		}
		if err != nil {
			return err
		}
		ctx := context.WithoutCancel(ctx)
		if dst.entry.IsDir() || src.attr.IsDir() {
			if err := h.dropInnerLocks(ctx, dstPath); err != nil {
				return err
			}
		}
		if err := h.settle(ctx, dst.parent); err != nil {
			return err
		}
		rq.w.WriteHeader(createdStatus(dst.entry.Ino == 0))
		return nil
	}
	return fs.ErrBusy
}

// dropInnerLocks removes the locks below a collection that was replaced; one on its root stays.
func (h *Handler) dropInnerLocks(ctx context.Context, p string) error {
	found, err := h.locks.find(ctx, p, below, h.now())
	for _, l := range found {
		if l.path != p && err == nil {
			err = h.locks.removeTree(ctx, l.path, h.now())
		}
	}
	return err
}

// apart refuses a copy of a directory into itself and over one that holds it, which symbolic links can
// hide from a look at the paths, and of a file onto itself.
func (h *Handler) apart(ctx context.Context, src, dst *node) error {
	contain := fail(http.StatusForbidden, "source and destination contain each other")
	if dst.found() && src.attr.Ino == dst.attr.Ino {
		return fail(http.StatusForbidden, "source and destination are the same")
	}
	check := func(from, forbidden fs.Ino) error {
		for ino := from; ; {
			if ino == forbidden {
				return contain
			}
			if ino == fs.Root {
				return nil
			}
			up, err := h.fs.Parent(ctx, ino)
			if err != nil {
				return err
			}
			ino = up
		}
	}
	if src.attr.IsDir() {
		if err := check(dst.parent, src.attr.Ino); err != nil {
			return err
		}
	}
	if dst.entry.IsDir() {
		return check(src.parent, dst.entry.Ino)
	}
	return nil
}

func (h *Handler) copyNode(ctx context.Context, src, dst *node, deep bool) error {
	switch {
	case src.attr.IsDir():
		return h.copyDir(ctx, src, dst, deep)
	case !src.attr.IsRegular():
		return fail(http.StatusForbidden, "not a regular file")
	case dst.entry.IsDir():
		return h.copyOver(ctx, src, dst)
	case dst.entry.Ino != 0 && !dst.attr.IsRegular():
		return fail(http.StatusForbidden, "the destination is not a regular file")
	}
	staged, err := h.stageFile(ctx, &src.attr, dst.parent)
	if err != nil {
		return err
	}
	defer h.fs.Drop(staged, 1)
	ctx = context.WithoutCancel(ctx)
	if dst.entry.Ino == 0 {
		_, err = h.fs.Link(ctx, staged, dst.parent, dst.name)
		return err
	}
	if _, err := h.replace(ctx, dst.attr.Ino, staged); err != nil {
		return err
	}
	if err := h.copyXattrs(ctx, staged, dst.attr.Ino); err != nil {
		return err
	}
	_, err = h.fs.Setattr(ctx, dst.attr.Ino, fs.SetAttr{Mask: fs.SetMtime, Mtime: src.attr.Mtime})
	return err
}

// stageFile returns a nameless copy of the file a, held once.
func (h *Handler) stageFile(ctx context.Context, a *fs.Attr, parent fs.Ino) (fs.Ino, error) {
	t, err := h.fs.Tmpfile(ctx, h.owner, parent, a.Mode&0o777)
	if err != nil {
		return 0, err
	}
	if err := h.fillCopy(ctx, a, t.Ino); err != nil {
		h.fs.Drop(t.Ino, 1)
		return 0, err
	}
	return t.Ino, nil
}

// fillCopy gives dst the content, properties and time of the file a.
func (h *Handler) fillCopy(ctx context.Context, a *fs.Attr, dst fs.Ino) error {
	if err := copyContent(ctx, h.fs, a.Ino, dst, a.Size); err != nil {
		return err
	}
	if err := h.copyXattrs(ctx, a.Ino, dst); err != nil {
		return err
	}
	_, err := h.fs.Setattr(ctx, dst, fs.SetAttr{Mask: fs.SetMtime, Mtime: a.Mtime})
	return err
}

// copyXattrs makes the user attributes of dst, dead properties among them, those of src.
func (h *Handler) copyXattrs(ctx context.Context, src, dst fs.Ino) error {
	want, err := h.fs.ListXattr(ctx, src)
	if err != nil {
		return err
	}
	have, err := h.fs.ListXattr(ctx, dst)
	if err != nil {
		return err
	}
	stale := map[string]bool{}
	for _, name := range have {
		stale[name] = strings.HasPrefix(name, "user.")
	}
	for _, name := range want {
		delete(stale, name)
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		v, err := h.fs.GetXattr(ctx, src, name)
		if errors.Is(err, fs.ErrNoAttr) {
			continue
		}
		if err == nil {
			err = h.fs.SetXattr(ctx, dst, name, v, 0)
		}
		if err != nil {
			return err
		}
	}
	for name, user := range stale {
		if user {
			if err := h.fs.RemoveXattr(ctx, dst, name); err != nil && !errors.Is(err, fs.ErrNoAttr) {
				return err
			}
		}
	}
	return nil
}
