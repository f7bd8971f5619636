package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// ErrBadRequest: the request does not make sense.
var ErrBadRequest = errors.New("bad request")

// kinds are the errors that keep their identity on the way to the client.
var kinds = []struct {
	name   string
	err    error
	status int
}{
	{"bad-request", ErrBadRequest, http.StatusBadRequest},
	{"kv-not-found", kv.ErrNotFound, http.StatusNotFound},
	{"kv-conflict", kv.ErrConflict, http.StatusConflict},
	{"kv-unknown-outcome", kv.ErrUnknownOutcome, http.StatusInternalServerError},
	{"kv-fenced", kv.ErrFenced, http.StatusConflict},
	{"kv-no-quorum", kv.ErrNoQuorum, http.StatusServiceUnavailable},
	{"kv-compacted", kv.ErrCompacted, http.StatusGone},
	{"kv-closed", kv.ErrClosed, http.StatusServiceUnavailable},
	{"object-not-found", objstore.ErrNotFound, http.StatusNotFound},
	{"object-exists", objstore.ErrExists, http.StatusConflict},
	{"object-full", objstore.ErrFull, http.StatusInsufficientStorage},
	{"object-no-quorum", objstore.ErrNoQuorum, http.StatusServiceUnavailable},
	{"object-read-only", objstore.ErrReadOnly, http.StatusForbidden},
	{"object-locked", objstore.ErrLocked, http.StatusForbidden},
	{"object-wrong-key", objstore.ErrWrongKey, http.StatusForbidden},
	{"object-moving", objstore.ErrMoving, http.StatusServiceUnavailable},
	{"object-closed", objstore.ErrClosed, http.StatusServiceUnavailable},
	{"unsupported", errors.ErrUnsupported, http.StatusNotImplemented},
	{"canceled", context.Canceled, http.StatusServiceUnavailable},
}

// wireError is an error on its way to the client.
type wireError struct {
	Kind string `json:"kind"`
	Text string `json:"error"`
}

func toWire(err error) (wireError, int) {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return wireError{k.name, err.Error()}, k.status
		}
	}
	return wireError{"", err.Error()}, http.StatusInternalServerError
}

// remoteError is an error as it arrives: the server's text, and the identity of its kind.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

func (w wireError) err() error {
	for _, k := range kinds {
		if k.name == w.Kind {
			return &remoteError{w.Text, k.err}
		}
	}
	return errors.New(w.Text)
}

func writeError(w http.ResponseWriter, err error) {
	wire, status := toWire(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(wire) // the client may be gone, and then there is nobody to tell
}

// readError turns a response that is not a success into an error.
func readError(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	var w wireError
	if json.Unmarshal(raw, &w) != nil || w.Text == "" {
		return fmt.Errorf("the running process answered %s", resp.Status)
	}
	return w.err()
}
