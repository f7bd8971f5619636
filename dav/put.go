package dav

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/gabionfs/gabion/fs"
)

// Permission bits of what is created.
const (
	fileMode = 0o644
	dirMode  = 0o755
)

// attempts is how often a swap is tried again when others, through a mount, create and remove the very
// same name meanwhile.
const attempts = 8

// put stores the body in a file without a name, and gives it the name, or its content to the file that
// has the name, in one transaction. Whatever happens before that leaves no trace.
func (h *Handler) put(ctx context.Context, rq *request) error {
	if rq.r.Header.Get("Content-Range") != "" {
		return fail(http.StatusBadRequest, "PUT of a part of a file is not supported")
	}
	mtime, err := uploadTime(rq.r.Header.Get("X-OC-Mtime"))
	if err != nil {
		return err
	}
	n, err := h.admitPut(ctx, rq) // early, so that a body that is not wanted is not sent
	if err != nil {
		return err
	}
	staged, err := h.fs.Tmpfile(ctx, h.owner, n.parent, fileMode)
	if err != nil {
		return err
	}
	defer h.fs.Drop(staged.Ino, 1)
	if err := h.receive(ctx, staged.Ino, rq.r.Body); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // the body is here: from now on it is finished
	// The content goes to the disks before the swap, so that full disks are noticed while the old
	// content is still there, and outside the claim, so that uploads share their syncs.
	if err := h.settle(ctx, staged.Ino); err != nil {
		return err
	}
	a, created, err := h.swapIn(ctx, rq, staged.Ino, mtime)
	if err != nil {
		return err
	}
	if err := h.settle(ctx, a.Ino); err != nil {
		return err
	}
	rq.w.Header().Set("ETag", etag(&a))
	if mtime != nil {
		rq.w.Header().Set("X-OC-MTime", "accepted")
	}
	rq.w.WriteHeader(createdStatus(created))
	return nil
}

func createdStatus(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusNoContent
}

// admitPut resolves the name and checks everything that could refuse the upload.
func (h *Handler) admitPut(ctx context.Context, rq *request) (node, error) {
	n, err := h.locate(ctx, rq.path)
	if err != nil {
		return n, err
	}
	switch {
	case n.found() && n.attr.IsDir():
		return n, fail(http.StatusMethodNotAllowed, "a collection cannot be replaced by a file")
	case n.found() && !n.attr.IsRegular():
		return n, fail(http.StatusForbidden, "not a regular file")
	case !n.found() && n.entry.Ino != 0:
		return n, fail(http.StatusForbidden, "a symbolic link that leads nowhere has this name")
	case rq.slash:
		return n, fail(http.StatusConflict, "the name of a file does not end in a slash")
	}
	return n, h.admit(ctx, rq, &n, guard{path: rq.path, member: !n.found()})
}

// receive writes the whole body to ino.
func (h *Handler) receive(ctx context.Context, ino fs.Ino, body io.Reader) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for off := int64(0); ; {
		n, err := fill(body, buf[:])
		if err != nil && err != io.EOF {
			return err
		}
		if off > fs.MaxFile-int64(n) {
			return fs.ErrFileTooBig
		}
		if n > 0 {
			if err := h.fs.Write(ctx, ino, off, buf[:n]); err != nil {
				return err
			}
		}
		off += int64(n)
		if err == io.EOF {
			return nil
		}
	}
}

// swapIn checks again and makes the change, with nobody in between.
func (h *Handler) swapIn(ctx context.Context, rq *request, staged fs.Ino, mtime *int64) (a fs.Attr, created bool, err error) {
	release, err := h.claims.take(ctx, claimsOf(guard{path: rq.path, member: true})...)
	if err != nil {
		return a, false, err
	}
	defer release()
	for range attempts {
		n, err := h.admitPut(ctx, rq)
		if err != nil {
			return a, false, err
		}
		if n.found() {
			a, err = h.replace(ctx, n.attr.Ino, staged)
		} else {
			created = true
			a, err = h.fs.Link(ctx, staged, n.parent, n.name)
		}
		if n.found() && errors.Is(err, fs.ErrNotExist) || created && errors.Is(err, fs.ErrExist) {
			created = false
			continue
		}
		if err == nil && mtime != nil {
			a, err = h.fs.Setattr(ctx, a.Ino, fs.SetAttr{Mask: fs.SetMtime, Mtime: *mtime})
		}
		return a, created, err
	}
	return a, false, fs.ErrBusy
}

// replace gives dst the content of staged, after letting those who are reading dst keep the old one.
func (h *Handler) replace(ctx context.Context, dst, staged fs.Ino) (a fs.Attr, err error) {
	err = h.readers.preserve(ctx, h.owner, dst, func() (err error) {
		a, err = h.fs.ReplaceContent(ctx, dst, staged)
		return err
	})
	return a, err
}

// uploadTime reads X-OC-Mtime, seconds since the epoch, with which sync clients keep a file's time.
func uploadTime(s string) (*int64, error) {
	if s == "" {
		return nil, nil
	}
	sec, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(sec) || math.Abs(sec) > 1<<33 {
		return nil, fail(http.StatusBadRequest, "X-OC-Mtime %.32q is not a time", s)
	}
	ns := int64(sec) * int64(time.Second)
	return &ns, nil
}
