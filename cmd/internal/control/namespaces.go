package control

import (
	"context"
	"encoding/json"
	"net/http"
)

// Namespace is a namespace, and where its manifests are.
type Namespace struct {
	Name    string `json:"name"`
	Number  uint32 `json:"number"`
	Preset  string `json:"preset"`
	Manager string `json:"manager"`
	To      string `json:"to,omitempty"` // the namespace manager that it is being moved to
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Stored  int64  `json:"stored"`
}

// Manager is a namespace manager.
type Manager struct {
	Name       string `json:"name"`
	Store      string `json:"store"` // of the cluster; "": in the data directory
	Ready      bool   `json:"ready"`
	Namespaces int    `json:"namespaces"`
	Messages   int    `json:"messages"` // that wait to be delivered to it
}

// ManagerRequest asks to make, or remove, a namespace manager.
type ManagerRequest struct {
	Name  string `json:"name"`
	Store string `json:"store,omitempty"`
}

// NamespaceRequest is about a namespace, and to move it, a namespace manager.
type NamespaceRequest struct {
	Name string `json:"name"`
	To   string `json:"to,omitempty"`
}

// MoveEvent is one line of the stream that a move answers with: exactly one field is set.
type MoveEvent struct {
	Rows  int64      `json:"rows,omitempty"` // that were copied so far
	Done  *Namespace `json:"done,omitempty"`
	Error *wireError `json:"error,omitempty"`
}

// NamespaceBackend is a Backend whose namespaces live at namespace managers.
type NamespaceBackend interface {
	Namespaces(ctx context.Context) ([]Namespace, error)
	Managers(ctx context.Context) ([]Manager, error)
	AddManager(ctx context.Context, q ManagerRequest) (Manager, error)
	RemoveManager(ctx context.Context, q ManagerRequest) (Manager, error)
	// MoveNamespace returns when the namespace is there; progress is called with the rows copied so far.
	MoveNamespace(ctx context.Context, q NamespaceRequest, progress func(rows int64)) (Namespace, error)
	// DeleteNamespace removes a namespace and all in it. The filesystem's own is refused.
	DeleteNamespace(ctx context.Context, q NamespaceRequest) (Namespace, error)
}

// serveNamespaces adds what is about namespaces to mux, if b has it:
//
//	GET  /v1/namespaces                            []Namespace
//	POST /v1/namespaces/move     NamespaceRequest  a stream of MoveEvent
//	POST /v1/namespaces/delete   NamespaceRequest  Namespace
//	GET  /v1/managers                              []Manager
//	POST /v1/managers            ManagerRequest    Manager
//	POST /v1/managers/remove     ManagerRequest    Manager
func serveNamespaces(mux *http.ServeMux, b Backend) {
	n, ok := b.(NamespaceBackend)
	if !ok {
		return
	}
	mux.HandleFunc("GET /v1/namespaces", answer(func(r *http.Request) (any, error) { return n.Namespaces(r.Context()) }))
	mux.HandleFunc("GET /v1/managers", answer(func(r *http.Request) (any, error) { return n.Managers(r.Context()) }))
	mux.HandleFunc("POST /v1/managers", answer(posted(n.AddManager)))
	mux.HandleFunc("POST /v1/managers/remove", answer(posted(n.RemoveManager)))
	mux.HandleFunc("POST /v1/namespaces/delete", answer(posted(n.DeleteNamespace)))
	mux.HandleFunc("POST /v1/namespaces/move", func(w http.ResponseWriter, r *http.Request) {
		var q NamespaceRequest
		if err := decode(r, &q); err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		enc := json.NewEncoder(w)
		flush := http.NewResponseController(w)
		send := func(e MoveEvent) {
			enc.Encode(e) // a client that is gone cancels the context
			flush.Flush()
		}
		ns, err := n.MoveNamespace(r.Context(), q, func(rows int64) { send(MoveEvent{Rows: rows}) })
		if err != nil {
			wire, _ := toWire(err)
			send(MoveEvent{Error: &wire})
			return
		}
		send(MoveEvent{Done: &ns})
	})
}

// Namespaces lists the namespaces by name.
func (c *Client) Namespaces(ctx context.Context) (n []Namespace, err error) {
	return n, c.call(ctx, http.MethodGet, "/v1/namespaces", nil, nil, &n)
}

// Managers lists the namespace managers.
func (c *Client) Managers(ctx context.Context) (m []Manager, err error) {
	return m, c.call(ctx, http.MethodGet, "/v1/managers", nil, nil, &m)
}

// AddManager makes a namespace manager.
func (c *Client) AddManager(ctx context.Context, q ManagerRequest) (m Manager, err error) {
	return m, c.call(ctx, http.MethodPost, "/v1/managers", nil, q, &m)
}

// RemoveManager removes a namespace manager that has no namespaces.
func (c *Client) RemoveManager(ctx context.Context, q ManagerRequest) (m Manager, err error) {
	return m, c.call(ctx, http.MethodPost, "/v1/managers/remove", nil, q, &m)
}

// MoveNamespace moves a namespace and calls progress with the rows copied so far.
func (c *Client) MoveNamespace(ctx context.Context, q NamespaceRequest, progress func(rows int64)) (n Namespace, err error) {
	err = events(ctx, c, "/v1/namespaces/move", q, "the move goes on without us", func(e MoveEvent) (bool, error) {
		switch {
		case e.Error != nil:
			return true, e.Error.err()
		case e.Done != nil:
			n = *e.Done
			return true, nil
		}
		progress(e.Rows)
		return false, nil
	})
	return n, err
}

// DeleteNamespace removes a namespace and all in it.
func (c *Client) DeleteNamespace(ctx context.Context, q NamespaceRequest) (n Namespace, err error) {
	return n, c.call(ctx, http.MethodPost, "/v1/namespaces/delete", nil, q, &n)
}
