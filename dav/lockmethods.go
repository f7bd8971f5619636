package dav

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// lockInfo is the body of a LOCK request.
type lockInfo struct {
	XMLName   xml.Name  `xml:"DAV: lockinfo"`
	Exclusive *struct{} `xml:"lockscope>exclusive"`
	Shared    *struct{} `xml:"lockscope>shared"`
	Write     *struct{} `xml:"locktype>write"`
	Owner     fragment  `xml:"owner"`
}

// lock makes a lock or, without a body, refreshes one. A name that means nothing becomes an empty file.
func (h *Handler) lock(ctx context.Context, rq *request) error {
	body, err := readXML(rq.r)
	if err != nil {
		return err
	}
	timeout := h.locks.timeout(parseTimeout(rq.r.Header.Get("Timeout")))
	if len(body) == 0 {
		return h.refresh(ctx, rq, timeout)
	}
	var info lockInfo
	if err := xml.Unmarshal(body, &info); err != nil {
		return badXML(err)
	}
	if info.Write == nil || (info.Exclusive == nil) == (info.Shared == nil) {
		return fail(http.StatusUnprocessableEntity, "a lock is for writing, and either exclusive or shared")
	}
	if len(info.Owner.xml) > maxOwner {
		return fail(http.StatusRequestEntityTooLarge, "the owner is longer than %d bytes", maxOwner)
	}
	l := lock{path: rq.path, shared: info.Shared != nil, owner: info.Owner.xml, user: rq.user.Name}
	switch rq.depth() {
	case "", "infinity":
		l.deep = true
	case "0":
	default:
		return fail(http.StatusBadRequest, "LOCK has Depth 0 or infinity")
	}
	release, err := h.claims.take(ctx, claim{path: rq.path, tree: l.deep, kind: locking})
	if err != nil {
		return err
	}
	defer release()
	return h.newLock(ctx, rq, l, timeout)
}

func (h *Handler) newLock(ctx context.Context, rq *request, l lock, timeout time.Duration) error {
	n, err := h.locate(ctx, rq.path)
	if err != nil {
		return err
	}
	if err := checkConditionals(rq.r.Header, &n); err != nil {
		return err
	}
	if err := h.checkIf(ctx, rq, &n); err != nil {
		return err
	}
	create := !n.found()
	if create {
		if n.entry.Ino != 0 {
			return fail(http.StatusForbidden, "a symbolic link that leads nowhere has this name")
		}
		if rq.slash {
			return fail(http.StatusConflict, "there is no such collection")
		}
		dir, _ := split(rq.path) // the new file is a new member of its collection
		if err := h.checkLocks(ctx, rq, []guard{{path: dir}}); err != nil {
			return err
		}
	}
	now := h.now()
	l.expiry = now.Add(timeout)
	ctx = context.WithoutCancel(ctx)
	l, err = h.locks.create(ctx, l, now, func(p string) string { return h.href(p, false) })
	if err != nil {
		return err
	}
	if create {
		_, err := h.fs.Mknod(ctx, h.owner, n.parent, n.name, fs.TypeRegular|fileMode, 0)
		if err == nil {
			err = h.settle(ctx, n.parent)
		}
		if errors.Is(err, fs.ErrExist) {
			create, err = false, nil // made meanwhile, through a mount: that is what is locked now
		}
		if err != nil {
			anyone := func(*lock) error { return nil }
			return errors.Join(err, h.locks.remove(ctx, l.token, h.now(), anyone))
		}
	}
	rq.w.Header().Set("Lock-Token", "<"+l.token.String()+">")
	code := http.StatusOK
	if create {
		code = http.StatusCreated
	}
	h.writeLock(rq.w, code, &l)
	return nil
}

// refresh gives the lock that the request submits a new timeout.
func (h *Handler) refresh(ctx context.Context, rq *request, timeout time.Duration) error {
	if len(rq.tokens) == 0 {
		return fail(http.StatusBadRequest, "LOCK without a body refreshes the lock whose token is in the If header; there is none")
	}
	now := h.now()
	for tok := range rq.tokens {
		l, err := h.locks.refresh(ctx, tok, now, now.Add(timeout), func(l *lock) error { return rq.mayUse(l) })
		if errors.Is(err, kv.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		h.writeLock(rq.w, http.StatusOK, &l)
		return nil
	}
	return &statusError{code: http.StatusPreconditionFailed, text: "there is no such lock",
		condition: "<D:lock-token-matches-request-uri/>"}
}

// mayUse refuses tokens of locks that do not cover the resource or are another user's.
func (rq *request) mayUse(l *lock) error {
	if !l.covers(rq.path) {
		return kv.ErrNotFound
	}
	if l.user != rq.user.Name {
		return fail(http.StatusForbidden, "the lock is another user's")
	}
	return nil
}

// unlock removes a lock.
func (h *Handler) unlock(ctx context.Context, rq *request) error {
	hd := rq.r.Header.Get("Lock-Token")
	if hd == "" {
		return fail(http.StatusBadRequest, "the Lock-Token header is missing")
	}
	tok, ok := parseToken(bareToken(hd))
	err := kv.ErrNotFound
	if ok {
		err = h.locks.remove(ctx, tok, h.now(), func(l *lock) error { return rq.mayUse(l) })
	}
	if errors.Is(err, kv.ErrNotFound) {
		return &statusError{code: http.StatusConflict, text: "there is no such lock on this resource",
			condition: "<D:lock-token-matches-request-uri/>"}
	}
	if err != nil {
		return err
	}
	rq.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Handler) writeLock(w http.ResponseWriter, code int, l *lock) {
	writeXML(w, code, `<D:prop xmlns:D="DAV:"><D:lockdiscovery>`+h.activeLock(l)+`</D:lockdiscovery></D:prop>`)
}

// activeLock is the XML that describes l.
func (h *Handler) activeLock(l *lock) string {
	scope, depth := "exclusive", "0"
	if l.shared {
		scope = "shared"
	}
	if l.deep {
		depth = "infinity"
	}
	left := max(l.expiry.Sub(h.now()).Round(time.Second)/time.Second, 1)
	return fmt.Sprintf(`<D:activelock xmlns:D="DAV:"><D:locktype><D:write/></D:locktype>`+
		`<D:lockscope><D:%s/></D:lockscope><D:depth>%s</D:depth><D:owner>%s</D:owner>`+
		`<D:timeout>Second-%d</D:timeout><D:locktoken><D:href>%s</D:href></D:locktoken>`+
		`<D:lockroot><D:href>%s</D:href></D:lockroot></D:activelock>`,
		scope, depth, l.owner, left, l.token, escapeXML(h.href(l.path, false)))
}

// parseTimeout returns the first timeout of the header that can be read; without one, a very long one.
func parseTimeout(s string) time.Duration {
	const long = 1 << 32 * time.Second
	for part := range strings.SplitSeq(s, ",") {
		if sec, ok := strings.CutPrefix(strings.TrimSpace(part), "Second-"); ok {
			if n, err := strconv.ParseUint(sec, 10, 64); err == nil {
				return time.Duration(min(n, 1<<32)) * time.Second
			}
		}
		if strings.EqualFold(strings.TrimSpace(part), "Infinite") {
			return long
		}
	}
	return long
}
