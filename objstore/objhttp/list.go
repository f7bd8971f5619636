package objhttp

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// Limits on a page of a list.
const (
	defaultPage = 1000
	maxPage     = 10000
)

// Page is a part of the list of a namespace, in order of the names.
type Page struct {
	Objects []Entry `json:"objects"`
	// Next, when not empty, is the query of the next page.
	Next string `json:"next,omitempty"`
}

// Entry describes one object of a Page.
type Entry struct {
	Name   string `json:"name"`   // for people: what is not UTF-8 is replaced
	Path   string `json:"path"`   // percent-encoded, to ask this server for
	Size   int64  `json:"size"`   // bytes of content
	Stored int64  `json:"stored"` // bytes on the disks
	ETag   string `json:"etag"`
}

func (h *handler) list(w http.ResponseWriter, r *http.Request, nsName string) error {
	from, to, limit, err := bounds(r.URL.Query())
	if err != nil {
		return err
	}
	ns, err := h.store.Namespace(r.Context(), nsName, false)
	if err != nil {
		return err
	}
	page := Page{Objects: []Entry{}}
	err = ns.List(r.Context(), from, to, func(i objstore.Info) bool {
		if len(page.Objects) == limit {
			page.Next = next(r.URL.Query(), i.Name)
			return false
		}
		page.Objects = append(page.Objects, Entry{i.Name, path(nsName, i.Name), i.Size, i.Stored, etag(i)})
		return true
	})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(page)
}

func path(ns, name string) string { return "/" + url.PathEscape(ns) + "/" + url.PathEscape(name) }

// next is the query that continues a list at from.
func next(q url.Values, from string) string {
	q.Set("from", from)
	return q.Encode()
}

// bounds reads what a list is asked for.
func bounds(q url.Values) (from, to string, limit int, err error) {
	bad := func(text string) (string, string, int, error) {
		return "", "", 0, &statusError{http.StatusBadRequest, text}
	}
	from, to = q.Get("from"), q.Get("to")
	if prefix := q.Get("prefix"); prefix != "" {
		if to != "" {
			return bad("prefix and to exclude each other")
		}
		// from may continue a list of the same prefix
		from, to = max(from, prefix), string(kv.Prefix([]byte(prefix)).To)
	}
	if to != "" && from > to {
		return bad("from lies behind to")
	}
	limit = defaultPage
	if s := q.Get("limit"); s != "" {
		limit, err = strconv.Atoi(s)
		if err != nil || limit < 1 {
			return bad("limit must be a number from 1")
		}
		limit = min(limit, maxPage)
	}
	return from, to, limit, nil
}
