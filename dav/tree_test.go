package dav_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/fs"
)

// rawStatus sends a request target that net/url would clean, and returns the status.
func (s *testServer) rawStatus(method, target string, headers ...string) int {
	s.t.Helper()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n", method, target)
	for i := 0; i < len(headers); i += 2 {
		fmt.Fprintf(c, "%s: %s\r\n", headers[i], headers[i+1])
	}
	io.WriteString(c, "\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	res.Body.Close()
	return res.StatusCode
}

func TestPaths(t *testing.T) {
	s := newTestServer(t)
	s.want(201, "PUT", "/f", "x")
	long := strings.Repeat("n", 255)
	for _, c := range []struct {
		method, target string
		want           int
	}{
		{"GET", "/f", 200},
		{"GET", "//f", 200},
		{"GET", "/./f", 200},
		{"GET", "/%66", 200},
		{"GET", "/../f", 400},
		{"GET", "/%2e%2e/f", 400},
		{"GET", "/x/..", 400},
		{"GET", "/..%2ff", 400},
		{"GET", "/f%00", 400},
		{"GET", "/f%", 400},
		{"GET", "/..f", 404},
		{"PUT", "/" + long, 201},
		{"PUT", "/" + long + "n", 414},
		{"GET", "/" + long + "n", 414},
		{"GET", "/" + strings.Repeat("a/", 3000), 414},
		{"OPTIONS", "*", 200},
	} {
		if got := s.rawStatus(c.method, c.target, "Content-Length", "0"); got != c.want {
			t.Errorf("%s %.40s: %d, want %d", c.method, c.target, got, c.want)
		}
	}
	for dst, want := range map[string]int{
		"/" + long + "n":        414,
		"/../g":                 400,
		"/%2e%2e/g":             400,
		"/g%00":                 400,
		"%zz":                   400,
		"mailto:a@b":            400,
		"//elsewhere/g":         502,
		"http://127.0.0.1:1/g":  502,
		"http://127.0.0.1/g%20": 201,
	} {
		if got := s.rawStatus("COPY", "/f", "Destination", dst); got != want {
			t.Errorf("COPY to %.40s: %d, want %d", dst, got, want)
		}
	}
}

func TestPrefix(t *testing.T) {
	s := newTestServer(t, func(o *options) { o.Prefix = "/dav" })
	s.want(201, "PUT", "/dav/f", "x")
	s.want(404, "GET", "/f", "")
	s.want(404, "GET", "/davf", "")
	s.want(404, "COPY", "/dav/f", "", "Destination", "$/elsewhere/g")
	s.want(201, "COPY", "/dav/f", "", "Destination", "$/dav/g")
	if a := s.want(200, "GET", "/dav", ""); !strings.Contains(a.body, `href="/dav/g"`) {
		t.Errorf("links without the prefix: %s", a.body)
	}
	if a := s.want(207, "PROPFIND", "/dav/", "", "Depth", "1"); !strings.Contains(a.body, "<D:href>/dav/f</D:href>") {
		t.Errorf("hrefs without the prefix: %s", a.body)
	}
}

func TestStrangeNames(t *testing.T) {
	s := newTestServer(t)
	names := []string{
		"with space", "ü", "日本語", "a+b&c=d;e", "100%", "#hash?query", `q"uo'te`, "<b>bold", "back\\slash",
		"new\nline", "bad\xffutf8", "%2e%2e", "a:b", "...", "javascript:alert(1)", "~", "@", "[x]", "{x}", "|^`",
	}
	for _, n := range names {
		p := (&url.URL{Path: "/" + n}).EscapedPath()
		s.want(201, "PUT", p, n)
		s.content(p, n)
		s.want(201, "COPY", p, "", "Destination", "$"+p+"-copy")
		s.content(p+"-copy", n)
		if _, err := s.fs.Lookup(t.Context(), fs.Root, n); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	listing := s.want(207, "PROPFIND", "/", "", "Depth", "1").body
	page := s.want(200, "GET", "/", "").body
	if strings.Contains(page, "<b>") || strings.Contains(page, `href="javascript`) {
		t.Error("the page does not escape names")
	}
	for _, n := range names {
		p := (&url.URL{Path: "/" + n}).EscapedPath()
		if !strings.Contains(listing, strings.ReplaceAll(strings.ReplaceAll(p, "&", "&amp;"), "'", "&#39;")+"</D:href>") {
			t.Errorf("%q (%s) is not listed", n, p)
		}
		s.want(204, "DELETE", p, "")
	}
}

func TestSymlinks(t *testing.T) {
	s := newTestServer(t)
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "MKCOL", "/c/d", "")
	s.want(201, "PUT", "/f", "content")
	s.want(201, "PUT", "/c/d/g", "deep")
	mk := func(dir, name, target string) {
		t.Helper()
		n := fs.Root
		for part := range strings.SplitSeq(dir, "/") {
			if part == "" {
				continue
			}
			a, err := s.fs.Lookup(t.Context(), n, part)
			if err != nil {
				t.Fatal(err)
			}
			n = a.Ino
		}
		if _, err := s.fs.Symlink(t.Context(), fs.Cred{}, n, name, target); err != nil {
			t.Fatal(err)
		}
	}
	mk("/c", "up", "../f")
	mk("/", "to-dir", "c/d")
	mk("/c", "chain", "../to-dir/g")
	mk("/c", "twisty", "./d/../../c//d/g")
	mk("/", "dangling", "nothing")
	mk("/", "absolute", "/etc/passwd")
	mk("/", "outside", "../../etc/passwd")
	mk("/", "through", "c/../../f")
	mk("/", "self", "self")
	mk("/c", "loop", "..")
	mk("/c", "here", ".")
	mk("/", "file-as-dir", "f/x")
	for path, want := range map[string]string{
		"/c/up": "content", "/to-dir/g": "deep", "/c/chain": "deep", "/c/twisty": "deep",
	} {
		s.content(path, want)
	}
	for _, hidden := range []string{"/dangling", "/absolute", "/outside", "/through", "/self", "/c/loop", "/c/here", "/file-as-dir", "/c/loop/f"} {
		s.want(404, "GET", hidden, "")
		s.want(404, "PROPFIND", hidden, "", "Depth", "0")
	}
	root := s.want(207, "PROPFIND", "/", "", "Depth", "1").body
	for _, p := range []string{"/f<", "/c/<", "/to-dir/<"} {
		if !strings.Contains(root, "<D:href>"+p) {
			t.Errorf("%s is not listed", p)
		}
	}
	if n := strings.Count(root, "<D:response>"); n != 4 {
		t.Errorf("%d resources are listed, want 4\n%s", n, root)
	}
	s.want(403, "PUT", "/dangling", "x")
	s.want(204, "PUT", "/c/up", "changed through the link")
	s.content("/f", "changed through the link")
	s.want(204, "DELETE", "/c/up", "") // the link, not the file
	s.content("/f", "changed through the link")
	s.want(201, "COPY", "/c/chain", "", "Destination", "/copied")
	s.want(204, "PUT", "/copied", "mine")
	s.content("/c/d/g", "deep")
	s.want(201, "COPY", "/c", "", "Destination", "/c2")
	s.content("/c2/chain", "deep")
	s.want(204, "DELETE", "/to-dir", "")
	s.content("/c/d/g", "deep")
}

func TestSpecialFilesAreHidden(t *testing.T) {
	s := newTestServer(t)
	if _, err := s.fs.Mknod(t.Context(), fs.Cred{}, fs.Root, "fifo", fs.TypeFifo|0o644, 0); err != nil {
		t.Fatal(err)
	}
	s.want(403, "GET", "/fifo", "")
	s.want(403, "PUT", "/fifo", "x")
	s.want(403, "COPY", "/fifo", "", "Destination", "/g")
	if a := s.want(207, "PROPFIND", "/", "", "Depth", "1"); strings.Contains(a.body, "fifo") {
		t.Error("a fifo is listed")
	}
	s.want(204, "DELETE", "/fifo", "")
}

// TestCoherence: what changes here is seen there at once, and the other way round.
func TestCoherence(t *testing.T) {
	s := newTestServer(t)
	ctx := t.Context()
	s.want(201, "PUT", "/f", "from here")
	a, err := s.fs.Lookup(ctx, fs.Root, "f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.fs.Link(ctx, a.Ino, fs.Root, "second"); err != nil {
		t.Fatal(err)
	}
	mode := fs.SetAttr{Mask: fs.SetMode, Mode: 0o600}
	if _, err := s.fs.Setattr(ctx, a.Ino, mode); err != nil {
		t.Fatal(err)
	}
	tag := s.want(200, "HEAD", "/f", "").header.Get("ETag")
	if err := s.fs.Write(ctx, a.Ino, 0, []byte("FROM")); err != nil {
		t.Fatal(err)
	}
	s.content("/f", "FROM here")
	if s.want(200, "HEAD", "/f", "").header.Get("ETag") == tag {
		t.Error("the etag did not change with a write through a mount")
	}
	s.want(204, "PUT", "/f", "replaced")
	s.content("/second", "replaced")
	b, err := s.fs.Lookup(ctx, fs.Root, "f")
	if err != nil || b.Ino != a.Ino || b.Nlink != 2 || b.Mode&0o777 != 0o600 {
		t.Errorf("PUT kept neither inode, links nor mode: %+v, %v", b, err)
	}
	if err := s.fs.Unlink(ctx, fs.Root, "f"); err != nil {
		t.Fatal(err)
	}
	s.want(404, "GET", "/f", "")
}

func TestOwnerAndModes(t *testing.T) {
	s := newTestServer(t, func(o *options) { o.Owner = &fs.Cred{UID: 12, GID: 34} })
	s.want(201, "PUT", "/f", "x")
	s.want(201, "MKCOL", "/c", "")
	s.lock("/l", lockExclusive)
	for name, mode := range map[string]uint32{"f": fs.TypeRegular | 0o644, "c": fs.TypeDir | 0o755, "l": fs.TypeRegular | 0o644} {
		a, err := s.fs.Lookup(t.Context(), fs.Root, name)
		if err != nil || a.Mode != mode || a.UID != 12 || a.GID != 34 {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}
