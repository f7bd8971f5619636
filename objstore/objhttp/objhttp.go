// Package objhttp serves the objects of namespaces over HTTP.
//
//	GET    /NAMESPACE/NAME     the object; Range, If-Range, If-Match and If-None-Match are obeyed
//	HEAD   /NAMESPACE/NAME     its size and ETag
//	PUT    /NAMESPACE/NAME     a new object from the body, whose Content-Length must be given: 201, or 409
//	                           when the name is taken (412 if If-None-Match: * asked for that)
//	DELETE /NAMESPACE/NAME     204
//	GET    /NAMESPACE/         objects by name as JSON (see Page): ?prefix= or ?from= and ?to=, ?limit=
//
// A name may contain slashes; everything behind the namespace is the name, percent-decoded, and nothing of
// it is cleaned: "a//b" and "a/../b" are names like others.
//
// What it promises: an object is served whole or the connection is cut; a PUT is acknowledged when the
// object is durable, and a body that ends early leaves nothing. Objects never change, so their ETag is
// strong and they may be cached for ever under it. Memory per request is bounded by a few MiB.
//
// It does not authenticate anyone; whoever exposes it does.
package objhttp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/gabionfs/gabion/objstore"
)

// Store is what is served.
type Store interface {
	// Namespace returns a namespace, or an error that matches objstore.ErrNotFound. With write it may be
	// made when there is none, and the error may match objstore.ErrReadOnly.
	Namespace(ctx context.Context, name string, write bool) (objstore.Namespace, error)
	// Sync makes everything that was put or deleted before durable.
	Sync(ctx context.Context) error
}

// Handler serves s. A nil logger discards. The handler is safe for concurrent use.
func Handler(s Store, log *slog.Logger) http.Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &handler{s, log}
}

type handler struct {
	store Store
	log   *slog.Logger
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ns, name, err := split(r.URL)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if name == "" {
			err = h.list(w, r, ns)
		} else {
			err = h.get(w, r, ns, name)
		}
	case http.MethodPut:
		err = h.put(w, r, ns, name)
	case http.MethodDelete:
		err = h.delete(w, r, ns, name)
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
		err = &statusError{http.StatusMethodNotAllowed, r.Method + " is not supported"}
	}
	if err != nil {
		h.fail(w, r, err)
	}
}

// split takes the path of a URL apart.
func split(u *url.URL) (ns, name string, err error) {
	path := strings.TrimPrefix(u.EscapedPath(), "/")
	first, rest, _ := strings.Cut(path, "/")
	if ns, err = url.PathUnescape(first); err == nil {
		name, err = url.PathUnescape(rest)
	}
	switch {
	case err != nil:
		return "", "", &statusError{http.StatusBadRequest, err.Error()}
	case len(ns) < 1 || len(ns) > objstore.MaxNamespace:
		return "", "", &statusError{http.StatusNotFound, "the path must be /NAMESPACE/NAME, or /NAMESPACE/ for a list"}
	case len(name) > objstore.MaxName:
		return "", "", &statusError{http.StatusRequestURITooLong, "the name of an object is too long"}
	}
	return ns, name, nil
}

// statusError is an error that has its status already.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

// fail answers with the status that an error stands for.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var se *statusError
	status := http.StatusInternalServerError
	switch {
	case errors.As(err, &se):
		status = se.status
	case errors.Is(err, objstore.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, objstore.ErrExists):
		status = http.StatusConflict
	case errors.Is(err, objstore.ErrReadOnly):
		status = http.StatusForbidden
	case errors.Is(err, objstore.ErrFull):
		status = http.StatusInsufficientStorage
	case errors.Is(err, objstore.ErrNoQuorum), errors.Is(err, objstore.ErrClosed), errors.Is(err, objstore.ErrMoving):
		status = http.StatusServiceUnavailable
	case r.Context().Err() != nil, errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return // nobody listens
	}
	if status == http.StatusInternalServerError {
		h.log.Error("an object could not be served", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	http.Error(w, err.Error(), status)
}
