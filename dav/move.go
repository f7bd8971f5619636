package dav

import (
	"context"
	"errors"
	"net/http"

	"github.com/gabionfs/gabion/fs"
)

// move renames a resource, in one transaction.
func (h *Handler) move(ctx context.Context, rq *request) error {
	dstPath, err := h.destination(rq.r)
	if err != nil {
		return err
	}
	if d := rq.depth(); d != "" && d != "infinity" {
		return fail(http.StatusBadRequest, "MOVE has no Depth but infinity")
	}
	overwrite, err := overwriteHeader(rq.r)
	if err != nil {
		return err
	}
	if rq.path == "/" || dstPath == "/" {
		return fail(http.StatusForbidden, "the root can be neither moved nor replaced")
	}
	if within(dstPath, rq.path) || within(rq.path, dstPath) {
		return fail(http.StatusForbidden, "source and destination contain each other")
	}
	gs := []guard{{path: rq.path, member: true, tree: true}, {path: dstPath, member: true, tree: true}}
	release, err := h.claims.take(ctx, claimsOf(gs...)...)
	if err != nil {
		return err
	}
	defer release()
	for range attempts {
		src, dst, err := h.admitTransfer(ctx, rq, dstPath, overwrite, gs)
		if err != nil {
			return err
		}
		ctx := context.WithoutCancel(ctx)
		err = h.rename(ctx, &src, &dst)
		if errors.Is(err, fs.ErrExist) && dst.entry.Ino == 0 || errors.Is(err, fs.ErrNotExist) {
			continue // others came or went meanwhile, through a mount
		}
		if err != nil {
			return err
		}
		// Locks do not move with the resource, and what was replaced took its own with it.
		for _, p := range []string{src.path, dst.path} {
			if err := h.locks.removeTree(ctx, p, h.now()); err != nil {
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

// admitTransfer resolves and checks source and destination of COPY and MOVE.
func (h *Handler) admitTransfer(ctx context.Context, rq *request, dstPath string, overwrite bool, gs []guard) (src, dst node, err error) {
	if src, err = h.existing(ctx, rq.path); err != nil {
		return src, dst, err
	}
	if dst, err = h.locate(ctx, dstPath); err != nil {
		return src, dst, err
	}
	if err = h.admit(ctx, rq, &src, gs...); err != nil {
		return src, dst, err
	}
	if dst.entry.Ino != 0 && !overwrite {
		return src, dst, fail(http.StatusPreconditionFailed, "the destination exists and Overwrite is F")
	}
	return src, dst, nil
}

// overwriteHeader reads Overwrite, which is T when it is absent.
func overwriteHeader(r *http.Request) (bool, error) {
	switch v := r.Header.Get("Overwrite"); v {
	case "", "T", "t":
		return true, nil
	case "F", "f":
		return false, nil
	default:
		return false, fail(http.StatusBadRequest, "Overwrite is T or F, not %.32q", v)
	}
}

// rename moves src over dst, whatever the two are.
func (h *Handler) rename(ctx context.Context, src, dst *node) error {
	if dst.entry.Ino == 0 {
		return h.fs.Rename(ctx, src.parent, src.name, dst.parent, dst.name, fs.RenameNoReplace)
	}
	if src.entry.Ino == dst.entry.Ino { // two names of one file, of which rename(2) would leave both
		return h.fs.Unlink(ctx, src.parent, src.name)
	}
	if src.entry.IsDir() == dst.entry.IsDir() {
		err := h.fs.Rename(ctx, src.parent, src.name, dst.parent, dst.name, 0)
		if !errors.Is(err, fs.ErrNotEmpty) && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// A tree is in the way: the two change places in one transaction, and then the old one goes. The
	// note makes sure that it goes even if the process does.
	doomed := stage{parent: src.parent, name: src.name, ino: dst.entry.Ino}
	if err := h.noteStage(ctx, doomed); err != nil {
		return err
	}
	err := h.fs.Rename(ctx, src.parent, src.name, dst.parent, dst.name, fs.RenameExchange)
	return errors.Join(err, h.clearStage(ctx, doomed))
}

func firstFailure(fs []failure) error {
	if len(fs) == 0 {
		return nil
	}
	return fs[0].err
}
