package dav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"golang.org/x/net/webdav"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// statusError is an error that already knows its HTTP status. Condition, when set, is the XML of the
// precondition that failed, the content of a DAV:error element (RFC 4918, section 16).
type statusError struct {
	code      int
	text      string
	condition string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %s", e.code, e.text) }

func fail(code int, format string, args ...any) error {
	return &statusError{code: code, text: fmt.Sprintf(format, args...)}
}

// statusTable maps errors of the layers below; the first match counts.
var statusTable = []struct {
	err  error
	code int
	text string
}{
	{fs.ErrNotExist, http.StatusNotFound, "no such file or directory"},
	{os.ErrNotExist, http.StatusNotFound, "no such file or directory"},
	{fs.ErrExist, http.StatusMethodNotAllowed, "already exists"},
	{fs.ErrNotDir, http.StatusConflict, "a part of the path is not a directory"},
	{fs.ErrNotEmpty, http.StatusConflict, "others are adding to the collection"},
	{fs.ErrIsDir, http.StatusMethodNotAllowed, "is a directory"},
	{fs.ErrNameTooLong, http.StatusRequestURITooLong, "a name is longer than 255 bytes"},
	{fs.ErrNoSpace, http.StatusInsufficientStorage, "no space left on the disks"},
	{fs.ErrFileTooBig, http.StatusRequestEntityTooLarge, "file too large"},
	{fs.ErrTooBig, http.StatusInsufficientStorage, "more properties than a resource can hold"},
	{fs.ErrNotPermitted, http.StatusForbidden, "not permitted"},
	{fs.ErrInvalid, http.StatusForbidden, "not possible here"},
	{fs.ErrTooManyLinks, http.StatusForbidden, "too many links"},
	{fs.ErrNotSupported, http.StatusForbidden, "not supported here"},
	{fs.ErrBusy, http.StatusServiceUnavailable, "busy"},
	{fs.ErrClosed, http.StatusServiceUnavailable, "the filesystem is closed"},
	{kv.ErrClosed, http.StatusServiceUnavailable, "the store is closed"},
	{io.ErrUnexpectedEOF, http.StatusBadRequest, "the body was cut off"},
	{os.ErrDeadlineExceeded, http.StatusRequestTimeout, "the body did not arrive in time"},
	{context.Canceled, http.StatusServiceUnavailable, "canceled"},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, "timed out"},
}

// statusOf returns the status that tells a client of err. What it does not know is an internal error,
// whose text is for the log and not for the client.
func statusOf(err error) *statusError {
	var se *statusError
	if errors.As(err, &se) {
		return se
	}
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return &statusError{code: http.StatusRequestEntityTooLarge, text: "the body is too large"}
	}
	var notLeader *kv.NotLeaderError
	if errors.As(err, &notLeader) {
		return &statusError{code: http.StatusServiceUnavailable, text: "not the leader"}
	}
	for _, row := range statusTable {
		if errors.Is(err, row.err) {
			return &statusError{code: row.code, text: row.text}
		}
	}
	return &statusError{code: http.StatusInternalServerError, text: "internal error; the server's log says more"}
}

// writeError answers with the status of err.
func writeError(w http.ResponseWriter, err error) {
	e := statusOf(err)
	hd := w.Header()
	hd.Set("Cache-Control", "no-store")
	hd.Set("X-Content-Type-Options", "nosniff")
	if e.code == http.StatusServiceUnavailable {
		hd.Set("Retry-After", "1")
	}
	if e.condition != "" {
		writeXML(w, e.code, `<D:error xmlns:D="DAV:">`+e.condition+`</D:error>`)
		return
	}
	hd.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(e.code)
	fmt.Fprintf(w, "%s: %s\n", webdav.StatusText(e.code), e.text)
}

func writeXML(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "application/xml; charset=utf-8")
	w.WriteHeader(code)
	io.WriteString(w, `<?xml version="1.0" encoding="utf-8"?>`+"\n"+body)
}

// statusLine is how a multi-status names a status.
func statusLine(code int) string {
	return fmt.Sprintf("HTTP/1.1 %d %s", code, webdav.StatusText(code))
}
