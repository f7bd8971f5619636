package dav_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/dav"
	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
)

func TestRanges(t *testing.T) {
	s := newTestServer(t)
	s.want(201, "PUT", "/f.txt", "0123456789")
	for r, want := range map[string]string{"bytes=0-0": "0", "bytes=2-4": "234", "bytes=-3": "789", "bytes=7-": "789"} {
		a := s.want(206, "GET", "/f.txt", "", "Range", r)
		if a.body != want || !strings.HasPrefix(a.header.Get("Content-Range"), "bytes ") {
			t.Errorf("%s: %q %s", r, a.body, a.header.Get("Content-Range"))
		}
	}
	s.want(416, "GET", "/f.txt", "", "Range", "bytes=10-")
	tag := s.want(200, "HEAD", "/f.txt", "").header.Get("ETag")
	s.want(206, "GET", "/f.txt", "", "Range", "bytes=0-1", "If-Range", tag)
	if a := s.want(200, "GET", "/f.txt", "", "Range", "bytes=0-1", "If-Range", `"old"`); a.body != "0123456789" {
		t.Errorf("If-Range that does not match: %q", a.body)
	}
	if a := s.want(206, "GET", "/f.txt", "", "Range", "bytes=0-1,8-9"); !strings.HasPrefix(a.header.Get("Content-Type"), "multipart/byteranges") {
		t.Errorf("two ranges: %s", a.header.Get("Content-Type"))
	}
}

func TestContentTypes(t *testing.T) {
	s := newTestServer(t)
	for name, c := range map[string]struct{ content, want, policy string }{
		"a.txt":  {"<html>", "text/plain; charset=utf-8", ""},
		"a.html": {"<p>", "text/html; charset=utf-8", "sandbox"},
		"a.svg":  {"<svg/>", "image/svg+xml", "sandbox"},
		"a.png":  {"x", "image/png", ""},
		"readme": {"some text", "text/plain; charset=utf-8", "sandbox"},
		"page":   {"<html><script>", "text/html; charset=utf-8", "sandbox"},
		"empty":  {"", "text/plain; charset=utf-8", "sandbox"},
	} {
		s.want(201, "PUT", "/"+name, c.content)
		for _, method := range []string{"GET", "HEAD"} {
			hd := s.want(200, method, "/"+name, "").header
			if hd.Get("Content-Type") != c.want || hd.Get("Content-Security-Policy") != c.policy || hd.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s %s: %v", method, name, hd)
			}
		}
	}
}

// TestReplacedWhileRead: a slow reader gets the content that it began with, whatever replaces it.
func TestReplacedWhileRead(t *testing.T) {
	overBoth(t, func(t *testing.T, over func(testing.TB) func(*options)) {
		testReplacedWhileRead(t, newTestServer(t, over(t)))
	})
}

func testReplacedWhileRead(t *testing.T, s *testServer) {
	old := strings.Repeat("old content ", 1<<20)
	s.want(201, "PUT", "/f", old)
	var readers []*http.Response
	for range 3 {
		res, err := s.Client().Get(s.URL + "/f")
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, res)
	}
	s.want(204, "PUT", "/f", "new")
	s.want(204, "PUT", "/f", "newer")
	s.want(201, "PUT", "/g", "other")
	s.want(204, "COPY", "/g", "", "Destination", "/f")
	s.content("/f", "other")
	s.want(204, "DELETE", "/f", "")
	for _, res := range readers {
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(b) != old {
			t.Errorf("a reader got %d bytes, %v, want %d", len(b), err, len(old))
		}
	}
	s.Close() // waits for the handlers, and so for the copies to be dropped
	s.inodes(2)
}

// TestReplacedWhileOpened renames another file over one between the resolution of its name and its opening:
// the name leads to a file at every moment, so it is never said to be missing.
func TestReplacedWhileOpened(t *testing.T) {
	f := &faultFS{FS: memfs.New()}
	s := newTestServer(t, func(o *options) { o.FS = f })
	s.want(201, "PUT", "/f", "old")
	s.want(201, "PUT", "/next", "new one")
	var once sync.Once
	f.hold = func(fs.Ino) {
		once.Do(func() {
			if err := f.FS.Rename(t.Context(), fs.Root, "next", fs.Root, "f", 0); err != nil {
				t.Error(err)
			}
		})
	}
	if a := s.want(200, "GET", "/f", ""); a.body != "new one" {
		t.Errorf("read %q", a.body)
	}
	once = sync.Once{}
	s.want(201, "PUT", "/g", "x")
	f.hold = func(fs.Ino) { _ = f.FS.Unlink(t.Context(), fs.Root, "g") }
	s.want(404, "GET", "/g", "")
}

func TestTruncatedWhileRead(t *testing.T) {
	s := newTestServer(t)
	s.want(201, "PUT", "/f", strings.Repeat("x", 32<<20))
	res, err := s.Client().Get(s.URL + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	a, err := s.fs.Lookup(t.Context(), fs.Root, "f")
	if err == nil {
		_, err = s.fs.Setattr(t.Context(), a.Ino, fs.SetAttr{Mask: fs.SetSize, Size: 10})
	}
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that was cut ended as if it were whole: %d bytes, %v", n, err)
	}
}

func TestUnreadableContent(t *testing.T) {
	bad := &faultFS{FS: memfs.New()}
	s := newTestServer(t, func(o *options) { o.FS = bad })
	s.want(201, "PUT", "/f.bin", strings.Repeat("x", 4<<20))
	bad.read = func(_ fs.Ino, off int64) error {
		if off >= 1<<20 {
			return fs.ErrIO
		}
		return nil
	}
	if a, err := s.try("GET", "/f.bin", ""); err == nil {
		t.Errorf("an unreadable file ended as if it were whole: %d bytes", len(a.body))
	}
}

// TestConditionalPutsRace: of many clients that replace the same state, one wins.
func TestConditionalPutsRace(t *testing.T) {
	overBoth(t, func(t *testing.T, over func(testing.TB) func(*options)) {
		testConditionalPutsRace(t, newTestServer(t, over(t)))
	})
}

func testConditionalPutsRace(t *testing.T, s *testServer) {
	tag := s.want(201, "PUT", "/f", "0").header.Get("ETag")
	for range 5 {
		var wg sync.WaitGroup
		won := make(chan string, 16)
		created := make(chan bool, 16)
		for i := range 16 {
			wg.Go(func() {
				a := s.do("PUT", "/f", fmt.Sprint(i), "If-Match", tag)
				if a.status == 204 {
					won <- a.header.Get("ETag")
				} else if a.status != 412 {
					t.Errorf("PUT: %d", a.status)
				}
				if a := s.do("PUT", "/new", fmt.Sprint(i), "If-None-Match", "*"); a.status == 201 {
					created <- true
				}
			})
		}
		wg.Wait()
		if len(won) != 1 || len(created) != 1 {
			t.Fatalf("%d clients replaced the same state, %d created the same name", len(won), len(created))
		}
		tag = <-won
		s.want(204, "DELETE", "/new", "")
	}
}

// TestGoneWhileListed: a collection or a member that goes while it is listed is no failure.
func TestGoneWhileListed(t *testing.T) {
	f := &faultFS{FS: memfs.New()}
	s := newTestServer(t, func(o *options) { o.FS = f })
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "x")
	gone := ""
	f.xattr = func(ino fs.Ino) error {
		a, err := f.FS.Getattr(t.Context(), ino)
		if err == nil && (gone == "c" && a.IsDir() || gone == "f" && a.IsRegular()) {
			return fs.ErrNotExist
		}
		return nil
	}
	for gone = range map[string]bool{"c": true, "f": true} {
		want := map[string]int{"c": 404, "f": 207}[gone]
		if a := s.want(want, "PROPFIND", "/c", "", "Depth", "1"); strings.Contains(a.body, "/c/f") {
			t.Errorf("what is gone is listed: %s", a.body)
		}
	}
	gone = ""
	f.readDir = func(fs.Ino) error { return fs.ErrNotExist }
	if a := s.want(207, "PROPFIND", "/c", "", "Depth", "1"); !strings.HasSuffix(a.body, "multistatus>") {
		t.Errorf("the answer is not whole: %s", a.body)
	}
	f.readDir = func(fs.Ino) error { return fs.ErrIO }
	if a, err := s.try("PROPFIND", "/c", "", "Depth", "1"); err == nil && a.status == 207 {
		t.Errorf("a directory that cannot be read seems empty: %s", a.body)
	}
}

// TestManyClients runs everything at once and looks whether the tree is still one.
func TestManyClients(t *testing.T) {
	overBoth(t, func(t *testing.T, over func(testing.TB) func(*options)) {
		testManyClients(t, newTestServer(t, over(t)))
	})
}

func testManyClients(t *testing.T, s *testServer) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	paths := []string{"/a", "/b", "/c", "/a/x", "/b/x", "/a/x/y", "/c/z"}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			pick := func() string { return paths[r.IntN(len(paths))] }
			for range 150 {
				var a answer
				switch r.IntN(9) {
				case 0:
					a = s.do("PUT", pick(), strings.Repeat("x", r.IntN(300000)))
				case 1, 2:
					a = s.do("MKCOL", pick(), "")
				case 3:
					a = s.do("DELETE", pick(), "")
				case 4:
					a = s.do("COPY", pick(), "", "Destination", pick())
				case 5:
					a = s.do("MOVE", pick(), "", "Destination", pick())
				case 6:
					a = s.do("GET", pick(), "")
				case 7:
					a = s.do("PROPFIND", pick(), "", "Depth", "1")
				case 8:
					p := pick()
					if a = s.do("LOCK", p, lockExclusive); a.status < 300 {
						a = s.do("UNLOCK", p, "", "Lock-Token", a.header.Get("Lock-Token"))
						if a.status == 409 {
							a.status = 0 // removed with its resource
						}
					}
				}
				if a.status >= 500 {
					t.Errorf("worker %d: %d %s", w, a.status, a.body)
				}
			}
		})
	}
	wg.Wait()
	if n := s.handler.LockCount(); n != 0 {
		t.Errorf("%d locks are left", n)
	}
	for _, name := range listNames(t, s.fs, fs.Root) {
		s.want(204, "DELETE", "/"+name, "")
		if strings.HasPrefix(name, ".") {
			t.Errorf("%s was left", name)
		}
	}
	s.Close()
	s.inodes(1)
}

func TestRelaxedDoesNotSync(t *testing.T) {
	for _, relaxed := range []bool{false, true} {
		f := &faultFS{FS: memfs.New()}
		s := newTestServer(t, func(o *dav.Options) { o.FS = f; o.Relaxed = relaxed })
		var syncs int
		f.fsync = func(fs.Ino) error { syncs++; return nil }
		for _, r := range [][]string{{"PUT", "/f"}, {"PUT", "/f"}, {"MKCOL", "/c"}, {"COPY", "/f", "Destination", "/c/f"},
			{"MOVE", "/f", "Destination", "/c/g"}, {"DELETE", "/c/g"}, {"LOCK", "/l"}} {
			before, body := syncs, ""
			if r[0] == "LOCK" {
				body = lockExclusive
			}
			if a := s.do(r[0], r[1], body, r[2:]...); a.status >= 300 || (syncs > before) == relaxed {
				t.Errorf("relaxed %v: %s %s: status %d, %d syncs", relaxed, r[0], r[1], a.status, syncs-before)
			}
		}
	}
}
