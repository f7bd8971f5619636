package dav

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"golang.org/x/net/webdav"

	"github.com/gabionfs/gabion/fs"
)

// failure is a member of a tree on which an operation failed.
type failure struct {
	path string
	dir  bool
	err  error
}

// delete removes a resource and everything below it. Nothing is removed when anything in it is locked
// without its token; other failures leave what failed, and the answer names it.
func (h *Handler) delete(ctx context.Context, rq *request) error {
	if rq.path == "/" {
		return fail(http.StatusForbidden, "the root cannot be deleted")
	}
	g := guard{path: rq.path, member: true, tree: true}
	release, err := h.claims.take(ctx, claimsOf(g)...)
	if err != nil {
		return err
	}
	defer release()
	n, err := h.existing(ctx, rq.path)
	if err != nil {
		return err
	}
	if err := h.admit(ctx, rq, &n, g); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	failures := h.removeTree(ctx, n.parent, n.name, &n.entry, n.path)
	if len(failures) == 0 {
		if err := h.locks.removeTree(ctx, rq.path, h.now()); err != nil {
			return err
		}
		if err := h.settle(ctx, n.parent); err != nil {
			return err
		}
		rq.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if len(failures) == 1 && failures[0].path == rq.path {
		return failures[0].err
	}
	h.log.ErrorContext(ctx, "webdav: a tree could not be removed whole", "path", rq.path,
		"failures", len(failures), "first", failures[0].path, "error", failures[0].err)
	h.writeFailures(rq.w, failures)
	return nil
}

// removeBatch is how many names of a directory are held in memory while they are removed.
const removeBatch = 1024

// maxFailures is after how many failures removing a tree gives up.
const maxFailures = 100

// removeTree removes the entry name of parent, whose attributes are a, and everything below it. What is
// already gone is no failure, and what others add meanwhile goes, too, unless they add and add.
func (h *Handler) removeTree(ctx context.Context, parent fs.Ino, name string, a *fs.Attr, path string) []failure {
	if !a.IsDir() {
		if err := h.fs.Unlink(ctx, parent, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return []failure{{path: path, err: err}}
		}
		return nil
	}
	var err error
	for range attempts {
		if failures := h.removeMembers(ctx, a.Ino, path); len(failures) > 0 {
			return failures
		}
		if err = h.fs.Rmdir(ctx, parent, name); !errors.Is(err, fs.ErrNotEmpty) {
			break
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []failure{{path: path, dir: true, err: err}}
	}
	return nil
}

// removeMembers removes what is in directory dir, and below it.
func (h *Handler) removeMembers(ctx context.Context, dir fs.Ino, path string) (failures []failure) {
	for after := uint64(0); len(failures) < maxFailures; {
		var batch []fs.Dirent
		err := h.fs.ReadDir(ctx, dir, after, false, func(d fs.Dirent, _ *fs.Attr) bool {
			batch = append(batch, d)
			return len(batch) < removeBatch
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, failure{path: path, dir: true, err: err})
		}
		if err != nil || len(batch) == 0 {
			break
		}
		for _, d := range batch {
			child := fs.Attr{Ino: d.Ino, Mode: d.Type}
			failures = append(failures, h.removeTree(ctx, dir, d.Name, &child, path+"/"+d.Name)...)
		}
		after = batch[len(batch)-1].Cookie
	}
	return failures
}

// writeFailures answers 207 with the status of each failure.
func (h *Handler) writeFailures(w http.ResponseWriter, failures []failure) {
	var b strings.Builder
	b.WriteString(`<D:multistatus xmlns:D="DAV:">`)
	for _, f := range failures {
		code := statusOf(f.err).code
		b.WriteString("<D:response><D:href>" + escapeXML(h.href(f.path, f.dir)) + "</D:href><D:status>" +
			statusLine(code) + "</D:status></D:response>")
	}
	b.WriteString("</D:multistatus>")
	writeXML(w, webdav.StatusMulti, b.String())
}
