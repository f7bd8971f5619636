package dav

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gabionfs/gabion/fs"
)

// request is one request on its way through the handler.
type request struct {
	r      *http.Request
	w      *response
	user   *User // the zero User when nobody needs to log in
	path   string
	slash  bool // the URL ended in a slash
	cond   ifHeader
	tokens map[token]bool // submitted, in If or in Lock-Token
}

// methods are those that the server knows, and what each may do. The rest answers 405.
var methods = map[string]struct {
	serve  func(*Handler, context.Context, *request) error
	writes bool
}{
	"OPTIONS":   {(*Handler).options, false},
	"GET":       {(*Handler).get, false},
	"HEAD":      {(*Handler).get, false},
	"PROPFIND":  {(*Handler).propfind, false},
	"PUT":       {(*Handler).put, true},
	"DELETE":    {(*Handler).delete, true},
	"MKCOL":     {(*Handler).mkcol, true},
	"COPY":      {(*Handler).copy, true},
	"MOVE":      {(*Handler).move, true},
	"PROPPATCH": {(*Handler).proppatch, true},
	"LOCK":      {(*Handler).lock, true},
	"UNLOCK":    {(*Handler).unlock, true},
}

const allow = "OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	res := newResponse(w)
	body := newBody(w, r.Body)
	r.Body = body
	var err error
	defer func() {
		body.finish()
		res.finish()
		h.logRequest(r, res, start, err)
	}()
	if err = h.serve(res, r); err != nil {
		if res.status != 0 {
			panic(http.ErrAbortHandler) // too late to say so: cut the answer rather than end it
		}
		writeError(res, err)
	}
}

func (h *Handler) serve(w *response, r *http.Request) error {
	if !h.hostAllowed(r.Host) {
		return fail(http.StatusMisdirectedRequest, "this server is not called %q; see the option for host names", r.Host)
	}
	user, err := h.auth.check(r)
	if err != nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="gabion", charset="UTF-8"`)
		return err
	}
	m, ok := methods[r.Method]
	if !ok {
		w.Header().Set("Allow", allow)
		return fail(http.StatusMethodNotAllowed, "the method %.32q is not supported", r.Method)
	}
	if m.writes && user.ReadOnly {
		return fail(http.StatusForbidden, "user %q may only read", user.Name)
	}
	rq := &request{r: r, w: w, user: user}
	if r.Method == "OPTIONS" && r.URL.Path == "*" {
		return h.options(r.Context(), rq)
	}
	if rq.path, rq.slash, err = h.cleanPath(r.URL.Path); err != nil {
		return err
	}
	if err := rq.readTokens(); err != nil {
		return err
	}
	return m.serve(h, r.Context(), rq)
}

// hostAllowed refuses names that are not ours when no password is required: otherwise any web page could
// point a name of its own at this address and have the visitor's browser read and write the tree.
func (h *Handler) hostAllowed(hostport string) bool {
	if h.HasUsers() {
		return true
	}
	host := hostport
	if name, _, err := net.SplitHostPort(hostport); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") ||
		net.ParseIP(host) != nil || slices.ContainsFunc(h.hosts, func(s string) bool { return strings.EqualFold(s, host) })
}

// readTokens parses the If header, and collects the lock tokens that the request submits.
func (rq *request) readTokens() (err error) {
	var submitted []string
	if v := strings.Join(rq.r.Header.Values("If"), " "); v != "" {
		if rq.cond, err = parseIf(v); err != nil {
			return err
		}
		submitted = rq.cond.submitted()
	}
	rq.tokens = map[token]bool{}
	for _, s := range append(submitted, bareToken(rq.r.Header.Get("Lock-Token"))) {
		if t, ok := parseToken(s); ok {
			rq.tokens[t] = true
		}
	}
	return nil
}

// depth returns the Depth header, in lower case; empty when there is none.
func (rq *request) depth() string {
	return strings.ToLower(strings.TrimSpace(rq.r.Header.Get("Depth")))
}

// bareToken returns the value of a Lock-Token header without its angle brackets, which some clients
// forget.
func bareToken(s string) string {
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "<"), ">")
}

func (h *Handler) options(_ context.Context, rq *request) error {
	hd := rq.w.Header()
	hd.Set("Allow", allow)
	hd["Dav"] = []string{"1, 2", "<http://apache.org/dav/propset/fs/1>"} // the latter means: property executable
	hd.Set("MS-Author-Via", "DAV")
	hd.Set("Content-Length", "0")
	rq.w.WriteHeader(http.StatusOK)
	return nil
}

func (h *Handler) logRequest(r *http.Request, res *response, start time.Time, err error) {
	level, status := slog.LevelDebug, res.status
	switch {
	case err == nil || r.Context().Err() != nil:
	case statusOf(err).code == http.StatusInternalServerError:
		level = slog.LevelError
	case errors.Is(err, http.ErrAbortHandler):
		level = slog.LevelWarn
	}
	if !h.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", status),
		slog.Int64("bytes", res.bytes), slog.Duration("took", time.Since(start)), slog.String("from", r.RemoteAddr),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	h.log.LogAttrs(context.WithoutCancel(r.Context()), level, "webdav request", attrs...)
}

// settle makes what was sequenced so far durable, through an inode that the change touched.
func (h *Handler) settle(ctx context.Context, ino fs.Ino) error {
	if h.relaxed {
		return nil
	}
	return h.fs.Fsync(ctx, ino)
}
