package dav

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// transferTimeout is how long a peer may take for the next byte of a body, and for the next bufferSize of
// an answer. There is no limit on the whole: uploads take as long as they take.
const transferTimeout = 2 * time.Minute

// refreshEvery is how often a deadline that slides with the transfer is moved.
const refreshEvery = transferTimeout / 8

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// response counts and times what is written, and copies content in large pieces.
type response struct {
	http.ResponseWriter
	ctl    *http.ResponseController
	status int // 0 until the header is written
	bytes  int64
	moved  time.Time // when the write deadline was last moved
}

func newResponse(w http.ResponseWriter) *response {
	return &response{ResponseWriter: w, ctl: http.NewResponseController(w)}
}

// Unwrap serves http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(code int) {
	if w.status == 0 && code >= 200 {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if now := time.Now(); now.Sub(w.moved) > refreshEvery {
		w.moved = now
		w.ctl.SetWriteDeadline(now.Add(transferTimeout)) // not every ResponseWriter can
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom copies r in pieces of bufferSize.
func (w *response) ReadFrom(r io.Reader) (n int64, err error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf[:])
}

// finish takes the deadline away: the connection may serve other requests.
func (w *response) finish() {
	if !w.moved.IsZero() {
		w.ctl.SetWriteDeadline(time.Time{})
	}
}

// drainTimeout is how long the server may wait for the rest of a body that nobody wants, which it reads
// to keep the connection in use.
const drainTimeout = 5 * time.Second

// body is a request's body whose read deadline slides.
type body struct {
	r     io.ReadCloser
	ctl   *http.ResponseController
	moved time.Time // when the deadline was last moved
	err   error     // how reading ended
}

func newBody(w http.ResponseWriter, r io.ReadCloser) *body {
	b := &body{r: r, ctl: http.NewResponseController(w)}
	if r == nil || r == http.NoBody {
		b.r, b.err = http.NoBody, io.EOF
	}
	return b
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if now := time.Now(); now.Sub(b.moved) > refreshEvery {
		b.moved = now
		b.ctl.SetReadDeadline(now.Add(transferTimeout)) // not every ResponseWriter can
	}
	n, err := b.r.Read(p)
	if b.err = err; err == io.EOF {
		// The server now waits for the client to hang up, which must not happen because of the deadline.
		b.ctl.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (b *body) Close() error { return b.r.Close() }

// finish is called when the request is answered. The server goes on to read what was not.
func (b *body) finish() {
	if b.err == nil {
		b.ctl.SetReadDeadline(time.Now().Add(drainTimeout))
	}
}

// fill reads until p is full or r ends. The error is io.EOF only when r ended as announced: a body that
// was cut off gives io.ErrUnexpectedEOF, which io.ReadFull would not tell from a short last piece.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}
