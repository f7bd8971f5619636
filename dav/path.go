package dav

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

// cleanPath turns the decoded path of a URL into a path of the tree: "/" or "/a/b", without empty and
// "." segments and without a slash at the end, which slash tells of.
//
// ".." is refused rather than resolved: clients resolve it before they ask, so one that arrives is a
// mistake or an attempt.
func (h *Handler) cleanPath(p string) (clean string, slash bool, err error) {
	rest, ok := strings.CutPrefix(p, h.prefix)
	switch {
	case !ok || rest != "" && rest[0] != '/':
		return "", false, fail(http.StatusNotFound, "nothing is served there")
	case len(rest) > maxPath:
		return "", false, fail(http.StatusRequestURITooLong, "the path is longer than %d bytes", maxPath)
	case strings.IndexByte(rest, 0) >= 0:
		return "", false, fail(http.StatusBadRequest, "the path contains NUL")
	}
	for name := range strings.SplitSeq(rest, "/") {
		if name == ".." {
			return "", false, fail(http.StatusBadRequest, "the path contains ..")
		}
		if len(name) > fs.MaxName {
			return "", false, fs.ErrNameTooLong
		}
	}
	return path.Clean("/" + rest), strings.HasSuffix(rest, "/"), nil
}

// destination returns the path that a Destination header names. Its host, when it has one, must be the
// one that was asked.
func (h *Handler) destination(r *http.Request) (string, error) {
	hd := r.Header.Get("Destination")
	if hd == "" {
		return "", fail(http.StatusBadRequest, "the Destination header is missing")
	}
	p, err := h.sameServer(r, hd)
	if err != nil {
		return "", err
	}
	clean, _, err := h.cleanPath(p)
	return clean, err
}

// sameServer returns the decoded path of a URL, which may be absolute, of a resource on this server.
func (h *Handler) sameServer(r *http.Request, ref string) (string, error) {
	u, err := url.Parse(ref)
	if err != nil || u.Opaque != "" || u.Path == "" {
		return "", fail(http.StatusBadRequest, "%q is not a URL of a resource", ref)
	}
	if u.Host != "" && !strings.EqualFold(stripDefaultPort(u.Host), stripDefaultPort(r.Host)) {
		return "", fail(http.StatusBadGateway, "%q is on another server", ref)
	}
	return u.Path, nil
}

func stripDefaultPort(host string) string {
	return strings.TrimSuffix(strings.TrimSuffix(host, ":80"), ":443")
}

// href returns the URL path of a path of the tree.
func (h *Handler) href(p string, dir bool) string {
	p = h.prefix + p
	if dir && !strings.HasSuffix(p, "/") {
		p += "/"
	}
	return (&url.URL{Path: p}).EscapedPath()
}

// split returns the directory and the name of a path that is not the root.
func split(p string) (dir, name string) {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 1)], p[i+1:]
}

// within reports whether p is dir or below it.
func within(p, dir string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}
