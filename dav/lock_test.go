package dav_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/dav"
)

func TestLocksSurviveRestart(t *testing.T) {
	s := newTestServer(t)
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "x")
	deep := s.lock("/c", lockExclusive, "Depth", "infinity")
	shared := s.lock("/g", lockShared, "Depth", "0")

	s = s.restart()
	if n := s.handler.LockCount(); n != 2 {
		t.Errorf("%d locks after the restart, want 2", n)
	}
	s.want(423, "PUT", "/c/f", "y")
	s.want(423, "DELETE", "/g", "")
	if v, _ := s.prop("/c/f", "DAV:", "lockdiscovery"); !strings.Contains(v, deep) || !strings.Contains(v, "mailto:a@b") {
		t.Errorf("lockdiscovery after the restart: %s", v)
	}
	s.want(200, "LOCK", "/c", "", "If", "(<"+deep+">)")
	s.want(204, "PUT", "/c/f", "y", "If", "(<"+deep+">)")
	s.want(204, "UNLOCK", "/c", "", "Lock-Token", "<"+deep+">")
	s.want(204, "UNLOCK", "/g", "", "Lock-Token", shared) // a bare token
	s = s.restart()
	s.want(204, "PUT", "/c/f", "z")
	if n := s.handler.LockCount(); n != 0 {
		t.Errorf("%d locks at the end", n)
	}
}

func TestLocksExpire(t *testing.T) {
	s := newTestServer(t, func(o *options) { o.MaxLockTimeout = 10 * time.Minute })
	now := time.Now()
	s.handler.SetClock(func() time.Time { return now })
	a := s.want(201, "LOCK", "/f", lockExclusive, "Timeout", "Second-100")
	tok := strings.Trim(a.header.Get("Lock-Token"), "<>")
	now = now.Add(60 * time.Second)
	if v, _ := s.prop("/f", "DAV:", "lockdiscovery"); !strings.Contains(v, "Second-40<") {
		t.Errorf("the time that is left: %s", v)
	}
	if a := s.want(200, "LOCK", "/f", "", "If", "(<"+tok+">)", "Timeout", "Infinite"); !strings.Contains(a.body, "Second-600<") {
		t.Errorf("the refreshed timeout is not capped: %s", a.body)
	}
	now = now.Add(599 * time.Second)
	s.want(423, "PUT", "/f", "x")
	now = now.Add(2 * time.Second)
	if v, _ := s.prop("/f", "DAV:", "lockdiscovery"); strings.Contains(v, "activelock") {
		t.Errorf("an expired lock is shown: %s", v)
	}
	s.want(412, "LOCK", "/f", "", "If", "(<"+tok+">)")
	s.want(412, "PUT", "/f", "x", "If", "(<"+tok+">)")
	s.want(204, "PUT", "/f", "x")
	s.want(409, "UNLOCK", "/f", "", "Lock-Token", "<"+tok+">")
	s.lock("/f", lockExclusive)
}

func TestLockLimit(t *testing.T) {
	s := newTestServer(t, func(o *options) { o.MaxLocks = 2 })
	now := time.Now()
	s.handler.SetClock(func() time.Time { return now })
	s.lock("/a", lockShared)
	s.lock("/a", lockShared)
	s.want(507, "LOCK", "/a", lockShared)
	now = now.Add(2 * time.Hour)
	s.lock("/a", lockShared) // the others have expired and make room
	if n := s.handler.LockCount(); n != 1 {
		t.Errorf("%d locks, want 1", n)
	}
}

func TestLockDepth(t *testing.T) {
	s := newTestServer(t)
	for _, c := range []string{"/c", "/c/d", "/cc"} {
		s.want(201, "MKCOL", c, "")
	}
	s.want(201, "PUT", "/c/f", "x")
	s.want(201, "PUT", "/c/d/f", "x")

	// Depth 0 guards the collection's own members and properties, not what its members hold.
	tok := s.lock("/c", lockExclusive, "Depth", "0")
	s.want(204, "PUT", "/c/f", "y")
	s.want(201, "PUT", "/c/d/g", "y")
	s.want(423, "PUT", "/c/new", "y")
	s.want(423, "DELETE", "/c/f", "")
	s.want(423, "MKCOL", "/c/new", "")
	s.want(423, "LOCK", "/c/new", lockExclusive)
	s.want(423, "MOVE", "/c/f", "", "Destination", "/elsewhere")
	s.want(423, "COPY", "/c/f", "", "Destination", "/c/new")
	s.want(201, "PUT", "/cc/f", "y")
	s.want(204, "UNLOCK", "/c", "", "Lock-Token", tok)

	// Depth infinity guards all of it.
	tok = s.lock("/c", lockExclusive)
	s.want(423, "PUT", "/c/d/g", "y")
	s.want(423, "LOCK", "/c/d", lockShared)
	s.want(423, "PROPPATCH", "/c/d", `<propertyupdate xmlns="DAV:"><set><prop><a/></prop></set></propertyupdate>`)
	s.want(201, "PUT", "/c/d/h", "y", "If", "<$/c> (<"+tok+">)")
	s.want(204, "UNLOCK", "/c/d", "", "Lock-Token", tok) // through a member that it covers

	// A lock below stands in the way of one above.
	tok = s.lock("/c/d/f", lockExclusive)
	if a := s.want(423, "LOCK", "/c", lockShared); !strings.Contains(a.body, "no-conflicting-lock") || !strings.Contains(a.body, "/c/d/f") {
		t.Errorf("the answer does not say what is in the way: %s", a.body)
	}
	s.lock("/c", lockShared, "Depth", "0")
	s.want(423, "COPY", "/cc", "", "Destination", "/c")
	s.want(423, "MOVE", "/cc", "", "Destination", "/c", "If", "</c/d/f> (<"+tok+">)")
}

func TestMoveAndCopyLeaveLocks(t *testing.T) {
	s := newTestServer(t)
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "x")
	s.want(201, "PUT", "/g", "old")
	tok := s.lock("/c/f", lockExclusive)
	s.want(201, "COPY", "/c", "", "Destination", "/copy")
	s.want(204, "PUT", "/copy/f", "not locked")
	s.want(201, "MOVE", "/c", "", "Destination", "/moved", "If", "</c/f> (<"+tok+">)")
	s.want(204, "PUT", "/moved/f", "not locked any more")
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "nor is a new one")

	// A lock on the destination of a COPY stays.
	tok = s.lock("/g", lockExclusive)
	s.want(423, "COPY", "/c/f", "", "Destination", "/g")
	s.want(204, "COPY", "/c/f", "", "Destination", "/g", "If", "</g> (<"+tok+">)")
	s.want(423, "PUT", "/g", "x")
}

func TestTokensBelongToUsers(t *testing.T) {
	ann, _ := dav.NewUser("ann", "a", false)
	bob, _ := dav.NewUser("bob", "b", false)
	s := newTestServer(t, func(o *options) { o.Users = []dav.User{ann, bob} })
	const asAnn, asBob = "Basic YW5uOmE=", "Basic Ym9iOmI="
	tok := s.lock("/f", lockExclusive, "Authorization", asAnn)
	s.want(423, "PUT", "/f", "x", "Authorization", asBob, "If", "(<"+tok+">)")
	s.want(403, "UNLOCK", "/f", "", "Authorization", asBob, "Lock-Token", tok)
	s.want(403, "LOCK", "/f", "", "Authorization", asBob, "If", "(<"+tok+">)")
	s.want(204, "PUT", "/f", "x", "Authorization", asAnn, "If", "(<"+tok+">)")
}

func TestOwnerKeepsNamespaces(t *testing.T) {
	s := newTestServer(t)
	const body = `<x:lockinfo xmlns:x="DAV:"><x:lockscope><x:exclusive/></x:lockscope><x:locktype><x:write/></x:locktype>` +
		`<x:owner>Zoë &lt;z&gt; <x:href>h</x:href><q:a xmlns:q="urn:q" q:b="1&amp;2" xml:lang="de"/></x:owner></x:lockinfo>`
	a := s.want(201, "LOCK", "/f", body)
	for _, want := range []string{`Zo`, `&lt;z&gt;`, `<href xmlns="DAV:">h</href>`, `<a xmlns="urn:q" xmlns:a="urn:q" a:b="1&amp;2" xml:lang="de"></a>`} {
		if !strings.Contains(a.body, want) {
			t.Errorf("the owner lacks %s: %s", want, a.body)
		}
	}
	s.want(413, "LOCK", "/g", strings.Replace(body, "Zo", strings.Repeat("z", 20000), 1))
}
