package dav

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"golang.org/x/net/webdav"

	"github.com/gabionfs/gabion/fs"
)

// davFS is the webdav.FileSystem of one request. It remembers what the request has listed and what
// failed, so that properties of a large collection cost one pass over the directory, and so that the
// client is told the cause of a failure rather than x/net/webdav's guess.
//
// Not safe for concurrent use: x/net/webdav works a request through in one goroutine.
type davFS struct {
	h     *Handler
	rq    *request
	props *propQuery
	stat  *fs.Stat // of the whole filesystem, once it was asked for

	listed []*fileInfo // what Readdir returned last, in that order
	next   int         // the entry that is asked for next, most likely
	last   *fileInfo
	dead   []webdav.Property // the stored properties of deadOf, which x/net/webdav asks for twice
	deadOf *fileInfo

	err error // the first failure
}

var _ webdav.FileSystem = (*davFS)(nil)

func (f *davFS) keep(err error) error {
	if f.err == nil {
		f.err = err
	}
	if errors.Is(err, fs.ErrNotExist) || err == errNoParent {
		return &os.PathError{Op: "webdav", Path: f.rq.path, Err: errors.Join(os.ErrNotExist, err)}
	}
	return err
}

// info resolves p, in the listing if it is there.
func (f *davFS) info(ctx context.Context, p string) (*fileInfo, error) {
	if f.last != nil && f.last.path == p {
		return f.last, nil
	}
	if f.next < len(f.listed) && f.listed[f.next].path == p {
		f.last = f.listed[f.next]
		f.next++
		return f.last, nil
	}
	n, err := f.h.existing(ctx, p)
	if err != nil {
		return nil, f.keep(err)
	}
	f.last = &fileInfo{path: p, name: n.name, attr: n.attr}
	return f.last, nil
}

// stored returns the dead properties of i, unless none was asked for.
func (f *davFS) stored(ctx context.Context, i *fileInfo) ([]webdav.Property, error) {
	if f.props != nil && !f.props.dead {
		return nil, nil
	}
	if f.deadOf != i {
		props, err := f.h.loadProps(ctx, i.attr.Ino)
		if err != nil {
			return nil, f.keep(err)
		}
		f.dead, f.deadOf = props, i
	}
	return f.dead, nil
}

func (f *davFS) Stat(ctx context.Context, p string) (os.FileInfo, error) {
	fi, err := f.info(ctx, p)
	if err != nil {
		return nil, err
	}
	return fi, nil
}

// OpenFile opens what exists, for reading content or for properties. Content is written by put alone.
func (f *davFS) OpenFile(ctx context.Context, p string, flag int, _ os.FileMode) (webdav.File, error) {
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		return nil, f.keep(fs.ErrNotSupported)
	}
	fi, err := f.info(ctx, p)
	if err != nil {
		return nil, err
	}
	file := &davFile{ctx: ctx, fs: f, info: fi}
	if m := f.rq.r.Method; (m == http.MethodGet || m == http.MethodHead) && fi.attr.IsRegular() {
		if err := file.open(); err != nil {
			return nil, f.keep(err)
		}
	}
	return file, nil
}

func (f *davFS) Mkdir(ctx context.Context, p string, _ os.FileMode) error {
	n, err := f.h.locate(ctx, p)
	if err == nil && n.isRoot() {
		err = fs.ErrExist
	}
	if err == nil {
		_, err = f.h.fs.Mkdir(ctx, f.h.owner, n.parent, n.name, dirMode)
	}
	if err == nil {
		err = f.h.settle(ctx, n.parent)
	}
	if err != nil {
		return f.keep(err)
	}
	return nil
}

func (f *davFS) RemoveAll(ctx context.Context, p string) error {
	n, err := f.h.existing(ctx, p)
	switch {
	case err != nil:
		return f.keep(err)
	case n.isRoot():
		return f.keep(fs.ErrNotPermitted)
	}
	return firstFailure(f.h.removeTree(ctx, n.parent, n.name, &n.entry, p))
}

func (f *davFS) Rename(ctx context.Context, from, to string) error {
	src, err := f.h.existing(ctx, from)
	if err != nil {
		return f.keep(err)
	}
	dst, err := f.h.locate(ctx, to)
	if err != nil {
		return f.keep(err)
	}
	if src.isRoot() || dst.isRoot() {
		return f.keep(fs.ErrNotPermitted)
	}
	return f.h.rename(ctx, &src, &dst)
}

// delegate has x/net/webdav answer the request, over a FileSystem of its own. Locks and preconditions
// were decided before.
func (h *Handler) delegate(ctx context.Context, rq *request, q *propQuery) error {
	f := &davFS{h: h, rq: rq, props: q}
	w := &davWriter{response: rq.w, fs: f}
	content := rq.r.Method == http.MethodGet || rq.r.Method == http.MethodHead
	if !content {
		w.buf = bufio.NewWriterSize(rq.w, 32<<10)
	}
	var failed error
	inner := webdav.Handler{
		Prefix: h.prefix, FileSystem: f, LockSystem: admitted{},
		Logger: func(_ *http.Request, err error) { failed = err },
	}
	r := rq.r.Clone(ctx)
	r.URL.Path = h.prefix + rq.path
	for _, name := range []string{"If", "Depth"} { // were read here, with more leniency
		r.Header.Del(name)
	}
	if q != nil {
		r.Header.Set("Depth", q.depth)
	}
	inner.ServeHTTP(w, r)
	switch {
	case w.refused, !w.began && f.err != nil: // the latter: it is gone since it was resolved
		return f.err
	case w.cut, content && f.err != nil:
		return errors.Join(http.ErrAbortHandler, f.err, failed)
	case w.buf != nil:
		return w.buf.Flush()
	}
	return nil
}

// davWriter corrects how x/net/webdav answers failures: their cause decides the status, and an answer
// that has begun is cut rather than ended as if it were whole.
type davWriter struct {
	*response
	fs      *davFS
	buf     *bufio.Writer // nil writes through
	began   bool
	cut     bool // it failed after it had begun
	refused bool // the answer is that of fs.err
}

func (w *davWriter) WriteHeader(code int) {
	switch {
	case w.began:
		w.cut = true
	case code >= 400 && w.fs.err != nil:
		w.refused = true
	default:
		w.began = true
		w.response.WriteHeader(code)
	}
}

func (w *davWriter) Write(p []byte) (int, error) {
	if w.cut || w.refused {
		return len(p), nil
	}
	w.began = true
	if w.buf != nil {
		return w.buf.Write(p)
	}
	return w.response.Write(p)
}

// admitted is the webdav.LockSystem of a request whose locks were checked before, against lockTable,
// which decides about everything and not only about two paths. It lets everything pass.
type admitted struct{}

var _ webdav.LockSystem = admitted{}

func (admitted) Confirm(time.Time, string, string, ...webdav.Condition) (func(), error) {
	return func() {}, nil
}
func (admitted) Create(time.Time, webdav.LockDetails) (string, error) { return "admitted", nil }
func (admitted) Unlock(time.Time, string) error                       { return nil }
func (admitted) Refresh(time.Time, string, time.Duration) (webdav.LockDetails, error) {
	return webdav.LockDetails{}, webdav.ErrNoSuchLock
}
