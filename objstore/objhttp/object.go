package objhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gabionfs/gabion/objstore"
)

// readAhead is how much of an object is read at once.
const readAhead = 4 << 20

// etag is strong: an object never changes, and an id is never used again.
func etag(i objstore.Info) string { return fmt.Sprintf(`"%x-%x"`, i.ID, i.Size) }

func (h *handler) get(w http.ResponseWriter, r *http.Request, nsName, name string) error {
	ns, err := h.store.Namespace(r.Context(), nsName, false)
	if err != nil {
		return err
	}
	i, err := ns.Stat(r.Context(), name)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(i))
	w.Header().Set("Content-Type", "application/octet-stream") // nobody told us, and guessing is a risk
	w.Header().Set("X-Content-Type-Options", "nosniff")
	o := &object{ctx: r.Context(), ns: ns, name: name, size: i.Size}
	d := &deferred{ResponseWriter: w}
	http.ServeContent(d, r, "", time.Time{}, o)
	switch {
	case o.err == nil:
		d.commit()
		return nil
	case !d.committed:
		clear(w.Header())
		return o.err
	}
	h.log.Error("an object could not be read to its end", "namespace", nsName, "name", name, "err", o.err)
	panic(http.ErrAbortHandler) // its length was promised: cut the connection
}

// deferred holds the status line back until there is content, so that an object whose first bytes cannot
// be read is answered with an error.
type deferred struct {
	http.ResponseWriter
	status    int
	committed bool
}

func (d *deferred) WriteHeader(status int) { d.status = status }

func (d *deferred) commit() {
	if !d.committed && d.status != 0 {
		d.committed = true
		d.ResponseWriter.WriteHeader(d.status)
	}
}

func (d *deferred) Write(p []byte) (int, error) {
	d.commit()
	return d.ResponseWriter.Write(p)
}

// ReadFrom makes http.ServeContent copy in larger steps than it would by itself.
func (d *deferred) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{d}, r, make([]byte, objstore.FrameSize))
}

// object is an io.ReadSeeker over an object, which http.ServeContent reads in order within each range.
type object struct {
	ctx   context.Context
	ns    objstore.Namespace
	name  string
	size  int64
	off   int64
	buf   []byte // content from start
	start int64
	err   error
}

func (o *object) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += o.off
	case io.SeekEnd:
		off += o.size
	}
	if off < 0 {
		return 0, errors.New("objhttp: seek before the start")
	}
	o.off = off
	return off, nil
}

func (o *object) Read(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	if o.off >= o.size {
		return 0, io.EOF
	}
	if o.off < o.start || o.off >= o.start+int64(len(o.buf)) {
		if err := o.fill(); err != nil {
			o.err = err
			return 0, err
		}
	}
	n := copy(p, o.buf[o.off-o.start:])
	o.off += int64(n)
	return n, nil
}

// fill reads what comes next. The first piece is small, for those who want little.
func (o *object) fill() error {
	want := int64(readAhead)
	if o.buf == nil {
		want = objstore.FrameSize
	}
	want = min(want, o.size-o.off)
	if int64(cap(o.buf)) < want {
		o.buf = make([]byte, want)
	}
	o.buf, o.start = o.buf[:want], o.off
	return o.ns.ReadAt(o.ctx, o.name, o.off, o.buf)
}

func (h *handler) put(w http.ResponseWriter, r *http.Request, nsName, name string) error {
	switch {
	case name == "":
		return &statusError{http.StatusBadRequest, "the name of the object is missing"}
	case r.ContentLength < 0:
		return &statusError{http.StatusLengthRequired, "the length of the content must be given"}
	case r.ContentLength > objstore.MaxObject:
		return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("an object has at most %d bytes", int64(objstore.MaxObject))}
	case r.Header.Get("Content-Range") != "":
		return &statusError{http.StatusBadRequest, "objects are written whole"}
	case r.Header.Get("If-Match") != "":
		return &statusError{http.StatusPreconditionFailed, "objects never change: there is nothing that a PUT could replace"}
	}
	onlyNew := r.Header.Get("If-None-Match") == "*"
	ns, err := h.store.Namespace(r.Context(), nsName, true)
	if err != nil {
		return err
	}
	if err := h.free(r.Context(), ns, name, onlyNew); err != nil {
		return err // before the client has sent its body, when it waits to be told to continue
	}
	i, err := ns.PutFrom(r.Context(), name, r.Body, r.ContentLength)
	if errors.Is(err, objstore.ErrExists) && onlyNew {
		return &statusError{http.StatusPreconditionFailed, err.Error()}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &statusError{http.StatusBadRequest, "the content ended before its length"}
	}
	if err != nil {
		return err
	}
	if err := h.store.Sync(r.Context()); err != nil {
		return err
	}
	w.Header().Set("ETag", etag(i))
	w.WriteHeader(http.StatusCreated)
	return nil
}

// free fails when the name is taken.
func (h *handler) free(ctx context.Context, ns objstore.Namespace, name string, onlyNew bool) error {
	_, err := ns.Stat(ctx, name)
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return nil
	case err != nil:
		return err
	case onlyNew:
		return &statusError{http.StatusPreconditionFailed, fmt.Sprintf("object %q exists", name)}
	}
	return fmt.Errorf("%w: object %q; delete it first", objstore.ErrExists, name)
}

func (h *handler) delete(w http.ResponseWriter, r *http.Request, nsName, name string) error {
	if name == "" {
		return &statusError{http.StatusBadRequest, "the name of the object is missing"}
	}
	ns, err := h.store.Namespace(r.Context(), nsName, true)
	if err != nil {
		return err
	}
	i, err := ns.Stat(r.Context(), name)
	if err != nil {
		return err
	}
	if m := r.Header.Get("If-Match"); m != "" && !matches(m, etag(i)) {
		return &statusError{http.StatusPreconditionFailed, fmt.Sprintf("object %q has another ETag", name)}
	}
	if err := ns.Delete(r.Context(), name); err != nil {
		return err
	}
	if err := h.store.Sync(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// matches reports whether a list of entity tags has tag in it, by strong comparison.
func matches(list, tag string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.TrimSpace(t); t == "*" || t == tag {
			return true
		}
	}
	return false
}
