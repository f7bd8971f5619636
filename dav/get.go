package dav

import (
	"context"
	"mime"
	"net/http"
	"path"
	"strings"
)

// get delivers a file, with ranges and conditions, or the page of a collection.
func (h *Handler) get(ctx context.Context, rq *request) error {
	n, err := h.existing(ctx, rq.path)
	if err != nil {
		return err
	}
	if err := h.checkIf(ctx, rq, &n); err != nil {
		return err
	}
	if n.attr.IsDir() {
		return h.page(ctx, rq, &n)
	}
	if !n.attr.IsRegular() {
		return fail(http.StatusForbidden, "not a regular file")
	}
	if rq.slash {
		return fail(http.StatusNotFound, "a file, not a collection")
	}
	hd := rq.w.Header()
	hd.Set("X-Content-Type-Options", "nosniff")
	if t := typeByName(n.name); t != "" {
		hd.Set("Content-Type", t)
	}
	if active(hd.Get("Content-Type")) {
		// Whoever may store a page here must not get at the tree with the rights of those who open it.
		hd.Set("Content-Security-Policy", "sandbox")
	}
	return h.delegate(ctx, rq, nil)
}

// typeByName returns the content type that the extension stands for, or nothing. http.ServeContent
// looks at the content then.
func typeByName(name string) string { return mime.TypeByExtension(path.Ext(name)) }

// active reports whether a browser would run scripts in content of this type. Content without a known
// type may be found to be HTML.
func active(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	return t == "" || strings.Contains(t, "html") || strings.Contains(t, "xml")
}

// mkcol makes a collection.
func (h *Handler) mkcol(ctx context.Context, rq *request) error {
	var one [1]byte
	if n, _ := fill(rq.r.Body, one[:]); n > 0 {
		return fail(http.StatusUnsupportedMediaType, "MKCOL has no body")
	}
	g := guard{path: rq.path, member: true}
	release, err := h.claims.take(ctx, claimsOf(g)...)
	if err != nil {
		return err
	}
	defer release()
	n, err := h.locate(ctx, rq.path)
	if err != nil {
		return err
	}
	if err := h.admit(ctx, rq, &n, g); err != nil {
		return err
	}
	return h.delegate(context.WithoutCancel(ctx), rq, nil)
}
