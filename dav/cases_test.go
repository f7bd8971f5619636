package dav_test

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
)

// TestCases are the cases that the plain x/net/webdav gets wrong, one each.
func TestCases(t *testing.T) {
	cases := []struct {
		name string
		run  func(t *testing.T, s *testServer)
	}{
		{"PUT cut off half way", casePutCutOff},
		{"GET during PUT", caseGetDuringPut},
		{"64 parallel PUTs on 4 names", caseParallelPuts},
		{"DELETE of a collection with a locked child", caseDeleteLockedChild},
		{"COPY into itself", caseCopyIntoItself},
		{"PUT with If-Match and If-None-Match", casePutConditional},
		{"PUT with Content-Range", casePutRange},
		{"If with etag and Not", caseIfHeader},
		{"MOVE without Overwrite", caseMoveOverwrites},
		{"lock tokens, timeouts, shared locks", caseLocks},
		{"quota, creationdate, lockdiscovery", caseLiveProperties},
		{"Win32LastModifiedTime in PROPPATCH", caseWin32Time},
		{"PROPFIND Depth infinity", caseFiniteDepth},
		{"2 MB XML body", caseLargeXML},
		{"overwriting PUT, POST, GET of a directory", caseStatuses},
		{"ENOSPC", caseNoSpace},
	}
	overBoth(t, func(t *testing.T, over func(testing.TB) func(*options)) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) { c.run(t, newTestServer(t, over(t))) })
		}
	})
}

// cutPut sends the beginning of a PUT over a bare connection and hangs up.
func cutPut(t *testing.T, s *testServer, header, part string) {
	t.Helper()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PUT /f HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n%s", header, part)
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	c.SetReadDeadline(time.Now().Add(2 * time.Minute))
	n, _ := c.Read(buf) // waits until the server is done
	if regexp.MustCompile(`^HTTP/1.1 2`).Match(buf[:n]) {
		t.Errorf("a cut upload was answered %q", buf[:n])
	}
}

func casePutCutOff(t *testing.T, s *testServer) {
	for _, cut := range [][2]string{
		{"Content-Length: 1000000\r\n", strings.Repeat("x", 500000)},
		{"Content-Length: 10\r\n", ""},
		{"Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"},
		{"Transfer-Encoding: chunked\r\n", "5\r\nhel"},
		{"Transfer-Encoding: chunked\r\n", "zzz\r\n"},
	} {
		cutPut(t, s, cut[0], cut[1])
		s.want(404, "GET", "/f", "")
	}
	s.want(201, "PUT", "/f", "old")
	for _, cut := range [][2]string{
		{"Content-Length: 1000000\r\n", strings.Repeat("x", 999999)},
		{"Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"},
	} {
		cutPut(t, s, cut[0], cut[1])
		s.content("/f", "old")
	}
	s.inodes(2)
}

func caseGetDuringPut(t *testing.T, s *testServer) {
	const size = 3 << 20
	contents := map[string]bool{}
	for _, c := range "abcd" {
		contents[strings.Repeat(string(c), size+int(c))] = true
	}
	for c := range contents {
		s.do("PUT", "/f", c)
	}
	var wg sync.WaitGroup
	for c := range contents {
		wg.Go(func() {
			for range 5 {
				if a := s.do("PUT", "/f", c); a.status != 204 {
					t.Errorf("PUT: %d", a.status)
				}
			}
		})
		wg.Go(func() {
			for range 10 {
				if a := s.do("GET", "/f", ""); !contents[a.body] {
					t.Errorf("GET delivered a mixture of %d bytes", len(a.body))
				}
			}
		})
	}
	wg.Wait()
}

func caseParallelPuts(t *testing.T, s *testServer) {
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if a := s.do("PUT", fmt.Sprintf("/f%d", i%4), strings.Repeat(fmt.Sprint(i), 1000)); a.status != 201 && a.status != 204 {
				t.Errorf("PUT: %d %s", a.status, a.body)
			}
		})
	}
	wg.Wait()
}

func caseDeleteLockedChild(t *testing.T, s *testServer) {
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "MKCOL", "/c/d", "")
	s.want(201, "PUT", "/c/d/f", "x")
	s.want(201, "PUT", "/c/g", "x")
	tok := s.lock("/c/d/f", lockExclusive)
	a := s.want(423, "DELETE", "/c", "")
	if !strings.Contains(a.body, "/c/d/f") || !strings.Contains(a.body, "lock-token-submitted") {
		t.Errorf("the answer does not name the locked child: %s", a.body)
	}
	s.want(423, "MOVE", "/c", "", "Destination", "$/m")
	s.content("/c/g", "x")
	s.want(204, "DELETE", "/c", "", "If", "<$/c/d/f> (<"+tok+">)")
	s.want(404, "GET", "/c", "")
	if n := s.handler.LockCount(); n != 0 {
		t.Errorf("%d locks outlive their resource", n)
	}
}

func caseCopyIntoItself(t *testing.T, s *testServer) {
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "x")
	s.want(403, "COPY", "/c", "", "Destination", "$/c/d")
	s.want(403, "COPY", "/c", "", "Destination", "$/c")
	s.want(403, "COPY", "/c/f", "", "Destination", "$/c")
	s.want(403, "COPY", "/", "", "Destination", "$/c/d")
	s.want(403, "MOVE", "/c", "", "Destination", "$/c/d")
	s.want(403, "MOVE", "/c", "", "Destination", "$/c")
	s.want(404, "GET", "/c/d", "")
	c, err := s.fs.Lookup(t.Context(), fs.Root, "c")
	if err == nil {
		_, err = s.fs.Symlink(t.Context(), fs.Cred{}, fs.Root, "link", "c")
	}
	if err != nil {
		t.Fatal(err)
	}
	s.want(403, "COPY", "/c", "", "Destination", "$/link/d")
	if names := listNames(t, s.fs, c.Ino); len(names) != 1 {
		t.Errorf("left %q", names)
	}
}

func casePutConditional(t *testing.T, s *testServer) {
	s.want(412, "PUT", "/f", "x", "If-Match", "*")
	tag := s.want(201, "PUT", "/f", "one", "If-None-Match", "*").header.Get("ETag")
	if got := s.want(200, "GET", "/f", "").header.Get("ETag"); got != tag || tag == "" {
		t.Errorf("PUT says the etag is %s, GET %s", tag, got)
	}
	s.want(412, "PUT", "/f", "two", "If-None-Match", "*")
	s.want(412, "PUT", "/f", "two", "If-None-Match", `"a", W/`+tag)
	s.want(412, "PUT", "/f", "two", "If-Match", `"other"`)
	s.want(412, "PUT", "/f", "two", "If-Match", "W/"+tag)
	s.want(412, "DELETE", "/f", "", "If-Match", `"other"`)
	s.want(412, "PUT", "/f", "two", "If-Unmodified-Since", "Mon, 02 Jan 2006 15:04:05 GMT")
	s.content("/f", "one")
	tag2 := s.want(204, "PUT", "/f", "two", "If-Match", `"other", `+tag).header.Get("ETag")
	if tag2 == tag {
		t.Error("the etag did not change with the content")
	}
	s.want(412, "PUT", "/f", "three", "If-Match", tag)
	s.want(304, "GET", "/f", "", "If-None-Match", tag2)
	s.want(412, "GET", "/f", "", "If-Match", tag)
}

func casePutRange(t *testing.T, s *testServer) {
	s.want(201, "PUT", "/f", "0123456789")
	s.want(400, "PUT", "/f", "xx", "Content-Range", "bytes 2-3/10")
	s.content("/f", "0123456789")
}

func caseIfHeader(t *testing.T, s *testServer) {
	tag := s.want(201, "PUT", "/f", "1").header.Get("ETag")
	put := func(status int, cond string) {
		t.Helper()
		s.want(status, "PUT", "/f", "1", "If", cond)
		tag = s.want(200, "HEAD", "/f", "").header.Get("ETag")
	}
	put(412, `(["wrong"])`)
	put(204, `([`+tag+`])`)
	put(204, `(["wrong"]) ([`+tag+`])`)
	put(204, `(Not ["wrong"])`)
	put(412, `(Not [`+tag+`])`)
	put(412, `(Not ["wrong"] <DAV:no-lock>)`)
	put(204, `(Not <DAV:no-lock>)`)
	put(204, `<$/f> ([`+tag+`])`)
	put(204, `</f> ([`+tag+`])`)
	put(412, `<$/other> ([`+tag+`])`)
	put(204, `<$/other> (Not ["x"])`)
	put(412, `<http://elsewhere/f> ([`+tag+`])`)
	for _, bad := range []string{"(", ")", "()", "x", "(Not)", "<$/f>", `([])`, `(<>)`, `(["a)`, `([a] <b)`} {
		put(400, bad)
	}
	tok := s.lock("/f", lockExclusive)
	put(423, `([`+tag+`])`)
	put(204, `(<`+tok+`> [`+tag+`])`)
	put(412, `(<`+tok+`> ["wrong"])`)
	put(412, `(Not <`+tok+`>)`)
	put(204, tok)
	put(204, "<"+tok+">")
	s.want(204, "PUT", "/f", "1", "Lock-Token", tok)
	s.want(207, "PROPFIND", "/f", "", "Depth", "0", "If", `(<`+tok+`>)`)
	s.want(412, "PROPFIND", "/f", "", "Depth", "0", "If", `(["wrong"])`)
}

func caseMoveOverwrites(t *testing.T, s *testServer) {
	s.want(201, "PUT", "/a", "a")
	s.want(201, "PUT", "/b", "b")
	s.want(412, "MOVE", "/a", "", "Destination", "$/b", "Overwrite", "F")
	s.want(412, "COPY", "/a", "", "Destination", "$/b", "Overwrite", "F")
	s.want(204, "MOVE", "/a", "", "Destination", "$/b")
	s.content("/b", "a")
	s.want(404, "GET", "/a", "")
	s.want(201, "MOVE", "/b", "", "Destination", "/a")
	s.want(400, "MOVE", "/a", "", "Destination", "/x", "Overwrite", "maybe")
	s.want(400, "MOVE", "/a", "")
	s.want(502, "MOVE", "/a", "", "Destination", "http://elsewhere/b")
	s.want(409, "MOVE", "/a", "", "Destination", "/no/such")
	s.want(404, "MOVE", "/gone", "", "Destination", "/x")
	s.content("/a", "a")
}

func caseLocks(t *testing.T, s *testServer) {
	a := s.want(201, "LOCK", "/f", lockExclusive, "Timeout", "Infinite, Second-4100000000")
	urn := regexp.MustCompile(`^<urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}>$`)
	tok := a.header.Get("Lock-Token")
	if !urn.MatchString(tok) {
		t.Errorf("token %q", tok)
	}
	if !strings.Contains(a.body, "<D:timeout>Second-3600<") {
		t.Errorf("the timeout is not capped: %s", a.body)
	}
	s.want(423, "PUT", "/f", "x")
	s.want(423, "LOCK", "/f", lockShared)
	s.want(409, "UNLOCK", "/f", "", "Lock-Token", "<urn:uuid:00000000-0000-4000-8000-000000000000>")
	s.want(409, "UNLOCK", "/f", "", "Lock-Token", "<nonsense>")
	s.want(400, "UNLOCK", "/f", "")
	s.want(204, "UNLOCK", "/f", "", "Lock-Token", strings.Trim(tok, "<>"))

	one, two := s.lock("/f", lockShared), s.lock("/f", lockShared)
	s.want(423, "LOCK", "/f", lockExclusive)
	s.want(423, "PUT", "/f", "x")
	s.want(204, "PUT", "/f", "x", "If", "(<"+two+">)")
	s.want(204, "UNLOCK", "/f", "", "Lock-Token", "<"+one+">")
	s.want(423, "PUT", "/f", "x")
	s.want(422, "LOCK", "/g", strings.ReplaceAll(lockExclusive, "<D:write/>", ""))
	s.want(400, "LOCK", "/g", lockExclusive, "Depth", "1")
	s.want(409, "LOCK", "/no/such", lockExclusive)
	s.want(404, "GET", "/g", "")
}

func caseLiveProperties(t *testing.T, s *testServer) {
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "x")
	s.lock("/c", lockExclusive)
	matches := func(path, name, pattern string) {
		t.Helper()
		v, ok := s.prop(path, "DAV:", name)
		if !ok || !regexp.MustCompile(pattern).MatchString(v) {
			t.Errorf("%s of %s: %q, want %s", name, path, v, pattern)
		}
	}
	matches("/c", "quota-available-bytes", `^\d{6,}$`)
	matches("/c", "quota-used-bytes", `^\d+$`)
	if _, ok := s.prop("/c/f", "DAV:", "quota-used-bytes"); ok {
		t.Error("a file has a quota")
	}
	for _, p := range []string{"/c", "/c/f"} {
		matches(p, "creationdate", `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
		matches(p, "lockdiscovery", `(?s)exclusive.*infinity.*mailto:a@b.*Second-3\d\d\d.*urn:uuid:.*<D:lockroot><D:href>/c</D:href>`)
		matches(p, "supportedlock", `(?s)exclusive.*shared`)
	}
	for _, name := range []string{"creationdate", "lockdiscovery", "supportedlock", "getcontentlength"} {
		a := s.want(207, "PROPFIND", "/c", "", "Depth", "1") // allprop
		if n := strings.Count(a.body, "<D:"+name+">"); n == 0 || n > 2 {
			t.Errorf("allprop of a collection and a file has %d of %s\n%s", n, name, a.body)
		}
	}
	a := s.want(207, "PROPFIND", "/c/f", `<propfind xmlns="DAV:"><propname/></propfind>`, "Depth", "0")
	for _, name := range []string{"creationdate", "lockdiscovery", "supportedlock", "getetag"} {
		if strings.Count(a.body, name) != strings.Count(a.body, name+">")+strings.Count(a.body, name+"/>") || !strings.Contains(a.body, name) {
			t.Errorf("propname lacks %s: %s", name, a.body)
		}
	}
}

func caseWin32Time(t *testing.T, s *testServer) {
	s.want(201, "PUT", "/f", "x")
	for _, c := range []struct{ ns, name, value, want string }{
		{"urn:schemas-microsoft-com:", "Win32LastModifiedTime", "Wed, 14 Feb 2007 08:00:00 GMT", "Wed, 14 Feb 2007 08:00:00 GMT"},
		{"DAV:", "getlastmodified", "Thu, 15 Feb 2007 08:00:00 GMT", "Thu, 15 Feb 2007 08:00:00 GMT"},
		{"DAV:", "lastmodified", "1171612800", "Fri, 16 Feb 2007 08:00:00 GMT"},
	} {
		a := s.proppatch("/f", c.ns, c.name, c.value)
		if !strings.Contains(a.body, "200 OK") || !strings.Contains(a.body, c.name+"/>") && !strings.Contains(a.body, c.name+">") &&
			!strings.Contains(a.body, "<"+c.name+" ") || strings.Contains(a.body, "gabion-") {
			t.Errorf("PROPPATCH %s: %s", c.name, a.body)
		}
		if got := s.want(200, "HEAD", "/f", "").header.Get("Last-Modified"); got != c.want {
			t.Errorf("after %s: Last-Modified %q, want %q", c.name, got, c.want)
		}
		if a := s.proppatch("/f", c.ns, c.name, "yesterday"); !strings.Contains(a.body, "409 Conflict") {
			t.Errorf("PROPPATCH %s to nonsense: %s", c.name, a.body)
		}
	}
	s.want(204, "PUT", "/f", "y", "X-OC-Mtime", "1171440000")
	if got := s.want(200, "HEAD", "/f", "").header.Get("Last-Modified"); got != "Wed, 14 Feb 2007 08:00:00 GMT" {
		t.Errorf("after X-OC-Mtime: %s", got)
	}
}

func caseFiniteDepth(t *testing.T, s *testServer) {
	for _, headers := range [][]string{{"Depth", "infinity"}, nil} {
		if a := s.want(403, "PROPFIND", "/", "", headers...); !strings.Contains(a.body, "<D:propfind-finite-depth/>") {
			t.Error(a.body)
		}
	}
	s.want(400, "PROPFIND", "/", "", "Depth", "2")
}

func caseLargeXML(t *testing.T, s *testServer) {
	s.want(201, "PUT", "/f", "x")
	large := "<propfind xmlns=\"DAV:\"><allprop/><!--" + strings.Repeat("x", 2<<20) + "--></propfind>"
	for _, method := range []string{"PROPFIND", "PROPPATCH", "LOCK"} {
		s.want(413, method, "/f", large, "Depth", "0")
		s.want(400, method, "/f", strings.Repeat("<a>", 100000), "Depth", "0")
		s.want(400, method, "/f", strings.Repeat("<a>", 1000)+strings.Repeat("</a>", 1000), "Depth", "0")
		s.want(400, method, "/f", `<!DOCTYPE a [<!ENTITY e "eeee"><!ENTITY f "&e;&e;&e;">]><propfind xmlns="DAV:"><prop><a>&f;</a></prop></propfind>`, "Depth", "0")
	}
}

func caseStatuses(t *testing.T, s *testServer) {
	s.want(201, "PUT", "/f", "x")
	s.want(204, "PUT", "/f", "y")
	for _, p := range []string{"/f", "/", "/none"} {
		if a := s.want(405, "POST", p, "x"); !strings.Contains(a.header.Get("Allow"), "PROPFIND") {
			t.Error("405 without Allow")
		}
	}
	s.want(405, "PATCH", "/f", "x")
	s.want(405, "PUT", "/", "x")
	s.want(201, "MKCOL", "/c", "")
	s.want(405, "PUT", "/c", "x")
	s.want(405, "PUT", "/c/", "x")
	s.want(405, "MKCOL", "/c", "")
	s.want(405, "MKCOL", "/f", "")
	s.want(405, "MKCOL", "/", "")
	s.want(415, "MKCOL", "/d", "body")
	s.want(409, "MKCOL", "/no/such", "")
	s.want(409, "MKCOL", "/f/d", "")
	s.want(409, "PUT", "/no/such", "x")
	s.want(409, "PUT", "/f/below", "x")
	s.want(409, "PUT", "/new/", "x")
	s.want(403, "DELETE", "/", "")
	s.want(404, "DELETE", "/none", "")
	s.want(404, "GET", "/f/", "")
	a := s.want(200, "GET", "/", "")
	if !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") || !strings.Contains(a.body, `href="/c/"`) {
		t.Errorf("not a page: %s", a.body)
	}
	if a := s.want(200, "OPTIONS", "/", ""); a.header.Get("DAV") != "1, 2" {
		t.Errorf("DAV: %q", a.header.Get("DAV"))
	}
}

func caseNoSpace(t *testing.T, _ *testServer) {
	full := &faultFS{FS: memfs.New()}
	s := newTestServer(t, func(o *options) { o.FS = full })
	s.want(201, "PUT", "/f", "old")
	noSpace := &fs.OpError{Op: "write", Err: fs.ErrNoSpace}
	full.write = func(fs.Ino, int64, []byte) error { return noSpace }
	s.want(507, "PUT", "/f", "new")
	s.want(507, "PUT", "/g", "new")
	full.write, full.fsync = nil, func(fs.Ino) error { return noSpace }
	s.want(507, "PUT", "/f", "new")
	s.want(507, "PUT", "/g", "new")
	full.fsync, full.replace = nil, func(fs.Ino) error { return noSpace }
	s.want(507, "PUT", "/f", "new")
	full.replace = nil
	s.content("/f", "old")
	s.want(404, "GET", "/g", "")
	s.want(204, "DELETE", "/f", "")
}

func listNames(t testing.TB, f fs.FS, dir fs.Ino) (names []string) {
	t.Helper()
	err := f.ReadDir(t.Context(), dir, 0, false, func(d fs.Dirent, _ *fs.Attr) bool {
		names = append(names, d.Name)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
