package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/objhttp"
)

// Limits on requests and on pages.
const (
	maxBody    = 64 << 20 // a sequence of kv.MaxBatch bytes in base64
	maxPage    = 1000     // pairs, or objects
	maxPageLen = 1 << 20  // bytes after which a page of pairs ends
)

type handler struct{ b Backend }

// Handler serves b.
func Handler(b Backend) http.Handler {
	h := &handler{b}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", answer(func(r *http.Request) (any, error) { return b.Status(r.Context()) }))
	mux.HandleFunc("GET /v1/asds", answer(func(r *http.Request) (any, error) { return b.ASDs(r.Context()) }))
	mux.HandleFunc("POST /v1/asds", answer(func(r *http.Request) (any, error) {
		var q AddRequest
		if err := decode(r, &q); err != nil {
			return nil, err
		}
		return b.AddASD(r.Context(), q.Dir)
	}))
	mux.HandleFunc("POST /v1/asds/change", answer(func(r *http.Request) (any, error) {
		var q ChangeRequest
		if err := decode(r, &q); err != nil {
			return nil, err
		}
		return b.ChangeASD(r.Context(), q)
	}))
	servePresets(mux, b)
	serveWalks(mux, b)
	serveNamespaces(mux, b)
	serveDetails(mux, b)
	serveKeys(mux, b)
	mux.HandleFunc("POST /v1/fsck", h.fsck)
	mux.HandleFunc("POST /v1/kv/get", answer(h.kvGet))
	mux.HandleFunc("POST /v1/kv/range", answer(h.kvRange))
	mux.HandleFunc("POST /v1/kv/count", answer(h.kvCount))
	mux.HandleFunc("POST /v1/kv/sequence", answer(h.kvSequence))
	mux.HandleFunc("POST /v1/kv/watch", h.kvWatch)
	mux.HandleFunc("GET /v1/kv/backup", h.kvBackup)
	mux.HandleFunc("POST /v1/kv/verify", answer(func(r *http.Request) (any, error) { return b.Verify(r.Context()) }))
	mux.HandleFunc("GET /v1/objects", answer(h.objectList))
	mux.HandleFunc("GET /v1/object", h.objectGet)
	mux.HandleFunc("GET /v1/object/stat", answer(h.objectStat))
	mux.HandleFunc("PUT /v1/object", answer(h.objectPut))
	mux.HandleFunc("DELETE /v1/object", answer(h.objectDelete))
	objects := http.StripPrefix(objectsPath, objhttp.Handler(objectStore{b}, nil))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, objectsPath+"/") {
			objects.ServeHTTP(w, r) // not through mux, which would clean the names of objects
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// answer makes a handler of a function that returns what is to be sent as JSON.
func answer(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r)
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v) // the client may be gone
	}
}

func decode(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %v", ErrBadRequest, err)
	}
	return nil
}

func (h *handler) fsck(w http.ResponseWriter, r *http.Request) {
	var q FsckRequest
	if err := decode(r, &q); err != nil {
		writeError(w, err)
		return
	}
	send := lines[FsckEvent](w)
	// A client that is gone cancels the context.
	if err := h.b.Fsck(r.Context(), q, func(e FsckEvent) { _ = send(e) }); err != nil {
		wire, _ := toWire(err)
		_ = send(FsckEvent{Error: &wire})
	}
}

// lines begins an answer of lines of JSON, each of which is on its way when what is returned has returned.
func lines[T any](w http.ResponseWriter) func(T) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	return func(v T) error { return errors.Join(enc.Encode(v), flush.Flush()) }
}

// object returns the namespace and the name that the query gives.
func (h *handler) object(r *http.Request, write bool) (objstore.Namespace, string, error) {
	q := r.URL.Query()
	name := q.Get("name")
	if n := len(name); n < 1 || n > objstore.MaxName {
		return nil, "", fmt.Errorf("%w: an object's name has 1 to %d bytes", ErrBadRequest, objstore.MaxName)
	}
	ns, err := h.b.Namespace(r.Context(), q.Get("ns"), write)
	return ns, name, err
}

func (h *handler) objectList(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit := maxPage
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%w: limit %q", ErrBadRequest, s)
		}
		limit = min(limit, n)
	}
	ns, err := h.b.Namespace(r.Context(), q.Get("ns"), false)
	if err != nil {
		return nil, err
	}
	infos := []objectInfo{}
	err = ns.List(r.Context(), q.Get("from"), q.Get("to"), func(i objstore.Info) bool {
		infos = append(infos, wireInfo(i))
		return len(infos) < limit
	})
	return infos, err
}

func (h *handler) objectStat(r *http.Request) (any, error) {
	ns, name, err := h.object(r, false)
	if err != nil {
		return nil, err
	}
	info, err := ns.Stat(r.Context(), name)
	return wireInfo(info), err
}

func (h *handler) objectPut(r *http.Request) (any, error) {
	if r.ContentLength < 0 {
		return nil, fmt.Errorf("%w: the length of the content is not given", ErrBadRequest)
	}
	ns, name, err := h.object(r, true)
	if err != nil {
		return nil, err
	}
	info, err := ns.PutFrom(r.Context(), name, r.Body, r.ContentLength)
	if err != nil {
		return nil, err
	}
	return wireInfo(info), h.b.KV().Sync(r.Context()) // the manifest is durable with the store
}

func (h *handler) objectDelete(r *http.Request) (any, error) {
	ns, name, err := h.object(r, true)
	if err != nil {
		return nil, err
	}
	if _, err := ns.Stat(r.Context(), name); err != nil {
		return nil, err
	}
	if err := ns.Delete(r.Context(), name); err != nil {
		return nil, err
	}
	return struct{}{}, h.b.KV().Sync(r.Context())
}

func (h *handler) objectGet(w http.ResponseWriter, r *http.Request) {
	ns, name, err := h.object(r, false)
	if err != nil {
		writeError(w, err)
		return
	}
	info, err := ns.Stat(r.Context(), name)
	if err != nil {
		writeError(w, err)
		return
	}
	const piece = 4 << 20
	buf := make([]byte, min(info.Size, piece))
	for off := int64(0); off < info.Size || off == 0; off += piece {
		p := buf[:min(info.Size-off, piece)]
		if err := ns.ReadAt(r.Context(), name, off, p); err != nil {
			if off == 0 {
				writeError(w, err)
				return
			}
			panic(http.ErrAbortHandler) // the length was promised: cut the connection
		}
		if off == 0 {
			w.Header().Set("Content-Length", strconv.FormatInt(info.Size, 10))
		}
		if _, err := w.Write(p); err != nil {
			return // the client is gone
		}
	}
}
