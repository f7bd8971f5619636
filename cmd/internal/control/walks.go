package control

import (
	"context"
	"net/http"
	"time"
)

// Walk is a pass of maintenance over all objects of a namespace, as it is or as the last one ended.
type Walk struct {
	Namespace string     `json:"namespace"`
	Kind      string     `json:"kind"`  // "scrub" or "rewrite"
	Done      int64      `json:"done"`  // objects
	Total     int64      `json:"total"` // as there were when it began
	Changed   int64      `json:"changed"`
	Errors    int64      `json:"errors"`
	Began     time.Time  `json:"began"`
	Ended     *time.Time `json:"ended,omitempty"` // nil while it is under way
}

// WalkRequest asks to begin a walk.
type WalkRequest struct {
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
}

// WalkBackend is a Backend that walks over namespaces.
type WalkBackend interface {
	// BeginWalk begins a walk, or begins it again, and returns it.
	BeginWalk(ctx context.Context, q WalkRequest) (Walk, error)
}

// serveWalks adds what is about walks to mux, if b has them:
//
//	POST /v1/walks   WalkRequest   Walk
func serveWalks(mux *http.ServeMux, b Backend) {
	if w, ok := b.(WalkBackend); ok {
		mux.HandleFunc("POST /v1/walks", answer(posted(w.BeginWalk)))
	}
}

// BeginWalk begins a walk over a namespace.
func (c *Client) BeginWalk(ctx context.Context, q WalkRequest) (w Walk, err error) {
	return w, c.call(ctx, http.MethodPost, "/v1/walks", nil, q, &w)
}
