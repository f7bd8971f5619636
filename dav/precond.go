package dav

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// etag is the strong entity tag of a file's state.
func etag(a *fs.Attr) string {
	return fmt.Sprintf(`"%x-%x-%x-%x"`, a.Ino, a.Version, a.Size, a.Mtime)
}

// guard says what a request changes, and so which locks stand in its way: those that cover path, with
// member those on the collection that gains or loses path, with tree those on anything below.
type guard struct {
	path         string
	member, tree bool
}

// claimsOf returns the claims that go with guards.
func claimsOf(guards ...guard) (cs []claim) {
	for _, g := range guards {
		cs = append(cs, claim{path: g.path, tree: g.tree, kind: change})
		if g.member && g.path != "/" {
			dir, _ := split(g.path)
			cs = append(cs, claim{path: dir, kind: member})
		}
	}
	return cs
}

// admit decides whether rq may change what guards say: its preconditions hold for n, what its path
// names (412), and it has submitted the tokens of the locks in its way (423).
func (h *Handler) admit(ctx context.Context, rq *request, n *node, guards ...guard) error {
	if err := checkConditionals(rq.r.Header, n); err != nil {
		return err
	}
	if err := h.checkIf(ctx, rq, n); err != nil {
		return err
	}
	return h.checkLocks(ctx, rq, guards)
}

// checkConditionals evaluates the conditional headers of RFC 9110, section 13.2.2, for a change.
func checkConditionals(hd http.Header, n *node) error {
	failed := func(name string) error {
		return fail(http.StatusPreconditionFailed, "the precondition %s does not hold", name)
	}
	if v := strings.Join(hd.Values("If-Match"), ","); v != "" {
		if !n.found() || !matchETag(v, etag(&n.attr), false) {
			return failed("If-Match")
		}
	} else if v := hd.Get("If-Unmodified-Since"); v != "" && n.found() {
		if t, err := http.ParseTime(v); err == nil && time.Unix(0, n.attr.Mtime).Truncate(time.Second).After(t) {
			return failed("If-Unmodified-Since")
		}
	}
	if v := strings.Join(hd.Values("If-None-Match"), ","); v != "" && n.found() {
		if matchETag(v, etag(&n.attr), true) {
			return failed("If-None-Match")
		}
	}
	return nil
}

// matchETag reports whether list, "*" or entity tags with commas between, has tag. Weak entity tags
// match only a weak comparison.
func matchETag(list, tag string, weak bool) bool {
	for list = strings.Trim(list, " \t,"); list != ""; list = strings.TrimLeft(list, " \t,") {
		if list[0] == '*' {
			return true
		}
		body, isWeak := strings.CutPrefix(list, "W/")
		if !strings.HasPrefix(body, `"`) {
			return false
		}
		end := strings.IndexByte(body[1:], '"')
		if end < 0 {
			return false
		}
		if body[:end+2] == tag && (weak || !isWeak) {
			return true
		}
		list = body[end+2:]
	}
	return false
}

// checkIf evaluates the If header.
func (h *Handler) checkIf(ctx context.Context, rq *request, n *node) error {
	if rq.cond == nil {
		return nil
	}
	for _, l := range rq.cond {
		ok, err := h.listHolds(ctx, rq, n, l)
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
	}
	return fail(http.StatusPreconditionFailed, "the If header does not hold")
}

func (h *Handler) listHolds(ctx context.Context, rq *request, n *node, l ifList) (bool, error) {
	p, tag := rq.path, ""
	if n.found() {
		tag = etag(&n.attr)
	}
	if l.tag != "" {
		ref, err := h.sameServer(rq.r, l.tag)
		if err != nil {
			return false, nil
		}
		if p, _, err = h.cleanPath(ref); err != nil {
			return false, nil
		}
		if p != rq.path {
			other, err := h.locate(ctx, p)
			if err != nil && err != errNoParent {
				return false, err
			}
			tag = ""
			if other.found() {
				tag = etag(&other.attr)
			}
		}
	}
	locks, err := h.locks.find(ctx, p, above, h.now())
	if err != nil {
		return false, err
	}
	for _, c := range l.conditions {
		holds := c.etag != "" && c.etag == tag
		if tok, ok := parseToken(c.token); ok {
			for i := range locks {
				holds = holds || locks[i].token == tok
			}
		}
		if holds == c.not {
			return false, nil
		}
	}
	return true, nil
}

// covers reports whether l applies to the resource p.
func (l *lock) covers(p string) bool {
	return l.path == p || l.deep && within(p, l.path)
}

// checkLocks returns a 423 that names the locks whose tokens were not submitted. One token is enough
// for a resource with several (shared) locks.
func (h *Handler) checkLocks(ctx context.Context, rq *request, guards []guard) error {
	return h.locks.view(ctx, func(r kv.Reader) error {
		var missing []lock
		for _, g := range guards {
			which := above
			if g.tree {
				which |= below
			}
			found, err := scan(r, g.path, which, h.now())
			if err != nil {
				return err
			}
			resources := map[string]bool{g.path: true}
			if g.member && g.path != "/" {
				dir, _ := split(g.path)
				resources[dir] = true
				parents, err := scan(r, dir, above, h.now())
				if err != nil {
					return err
				}
				found = append(found, parents...)
			}
			for i := range found {
				if g.tree && within(found[i].path, g.path) {
					resources[found[i].path] = true
				}
			}
			for p := range resources {
				missing = append(missing, rq.unsubmitted(found, p)...)
			}
		}
		if len(missing) > 0 {
			return lockedError("lock-token-submitted", missing, func(p string) string { return h.href(p, false) })
		}
		return nil
	})
}

// unsubmitted returns the locks on p, or none when the token of one of them was submitted.
func (rq *request) unsubmitted(locks []lock, p string) (on []lock) {
	for _, l := range locks {
		if !l.covers(p) {
			continue
		}
		if rq.tokens[l.token] && l.user == rq.user.Name {
			return nil
		}
		on = append(on, l)
	}
	return on
}

// lockedError is a 423 for the precondition cond that names the roots of locks.
func lockedError(cond string, locks []lock, href func(string) string) error {
	const most = 64 // that it names
	var b strings.Builder
	seen := map[string]bool{}
	for _, l := range locks {
		if !seen[l.path] && len(seen) < most {
			seen[l.path] = true
			b.WriteString("<D:href>" + escapeXML(href(l.path)) + "</D:href>")
		}
	}
	return &statusError{
		code: http.StatusLocked, text: "locked",
		condition: "<D:" + cond + ">" + b.String() + "</D:" + cond + ">",
	}
}
