package dav_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
)

func TestCopyTree(t *testing.T) {
	overBoth(t, func(t *testing.T, over func(testing.TB) func(*options)) { testCopyTree(t, newTestServer(t, over(t))) })
}

func testCopyTree(t *testing.T, s *testServer) {
	for _, c := range []string{"/c", "/c/d", "/c/d/e", "/c/empty", "/old", "/old/sub"} {
		s.want(201, "MKCOL", c, "")
	}
	s.want(201, "PUT", "/c/f", "f")
	s.want(201, "PUT", "/c/d/e/g", "g")
	s.want(201, "PUT", "/old/sub/x", "x")
	s.proppatch("/c/f", "DAV:", "getlastmodified", "Wed, 14 Feb 2007 08:00:00 GMT")

	s.want(201, "COPY", "/c", "", "Destination", "/new")
	s.content("/new/d/e/g", "g")
	if m := s.want(200, "HEAD", "/new/f", "").header.Get("Last-Modified"); m != "Wed, 14 Feb 2007 08:00:00 GMT" {
		t.Errorf("the copy is from %s", m)
	}
	s.want(200, "GET", "/new/empty", "")
	s.want(204, "COPY", "/c", "", "Destination", "/old")
	s.want(404, "GET", "/old/sub", "")
	s.content("/old/f", "f")
	s.want(201, "COPY", "/c", "", "Destination", "/shallow", "Depth", "0")
	s.want(404, "GET", "/shallow/f", "")
	s.want(204, "COPY", "/c/f", "", "Destination", "/old") // a file over a tree
	s.content("/old", "f")
	s.want(204, "COPY", "/c", "", "Destination", "/old") // and back
	s.content("/old/f", "f")
	s.want(400, "COPY", "/c", "", "Destination", "/x", "Depth", "1")
	s.want(409, "COPY", "/c", "", "Destination", "/no/such")
	s.want(404, "COPY", "/gone", "", "Destination", "/x")
	if names := listNames(t, s.fs, fs.Root); len(names) != 4 {
		t.Errorf("the root holds %q", names)
	}
}

func TestMoveOverTrees(t *testing.T) {
	overBoth(t, func(t *testing.T, over func(testing.TB) func(*options)) {
		testMoveOverTrees(t, newTestServer(t, over(t)))
	})
}

func testMoveOverTrees(t *testing.T, s *testServer) {
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "f")
	s.want(201, "MKCOL", "/d", "")
	s.want(201, "PUT", "/d/g", "g")
	s.want(201, "PUT", "/h", "h")
	s.want(204, "MOVE", "/c", "", "Destination", "/d") // tree over tree
	s.content("/d/f", "f")
	s.want(404, "GET", "/d/g", "")
	s.want(404, "GET", "/c", "")
	s.want(204, "MOVE", "/d", "", "Destination", "/h") // tree over file
	s.content("/h/f", "f")
	s.want(201, "PUT", "/i", "i")
	s.want(204, "MOVE", "/i", "", "Destination", "/h") // file over tree
	s.content("/h", "i")
	s.want(201, "MOVE", "/h", "", "Destination", "/j")
	a, err := s.fs.Lookup(t.Context(), fs.Root, "j")
	if err == nil {
		_, err = s.fs.Link(t.Context(), a.Ino, fs.Root, "k")
	}
	if err != nil {
		t.Fatal(err)
	}
	s.want(204, "MOVE", "/j", "", "Destination", "/k") // two names of one file
	s.want(404, "GET", "/j", "")
	s.content("/k", "i")
	s.want(403, "MOVE", "/k", "", "Destination", "/k")
	s.want(403, "MOVE", "/k", "", "Destination", "/")
	s.want(400, "MOVE", "/k", "", "Destination", "/x", "Depth", "0")
	if names := listNames(t, s.fs, fs.Root); len(names) != 1 {
		t.Errorf("the root holds %q", names)
	}
}

// TestInterruptedCopy: a process that dies in the middle of a COPY or a MOVE over a tree leaves what the
// next one removes.
func TestInterruptedCopy(t *testing.T) {
	dying := &faultFS{FS: memfs.New()}
	s := newTestServer(t, func(o *options) { o.FS = dying })
	for _, c := range []string{"/c", "/d"} {
		s.want(201, "MKCOL", c, "")
		s.want(201, "PUT", c+"/f", c)
	}
	crash := errors.New("crash")
	dead := false
	dying.rename = func(string, string) error { dead = true; return crash }
	dying.rmdir = func(string) error {
		if dead {
			return crash
		}
		return nil
	}
	s.want(500, "COPY", "/c", "", "Destination", "/d")
	if names := listNames(t, dying, fs.Root); len(names) != 3 {
		t.Errorf("nothing was left behind: %q", names)
	}
	if a := s.want(207, "PROPFIND", "/", "", "Depth", "1"); strings.Contains(a.body, "gabion-copy") {
		t.Error("an unfinished copy is listed")
	}
	dying.rename = nil
	s.want(500, "MOVE", "/c", "", "Destination", "/d") // the exchange happened, the removal did not
	dying.rmdir = nil

	s.restart()
	if names := listNames(t, dying, fs.Root); fmt.Sprint(names) != "[d]" {
		t.Errorf("after the restart the root holds %q", names)
	}
}

func TestFailedCopyLeavesNothing(t *testing.T) {
	bad := &faultFS{FS: memfs.New()}
	s := newTestServer(t, func(o *options) { o.FS = bad })
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "x")
	s.want(201, "MKCOL", "/d", "")
	bad.rename = func(string, string) error { return &fs.OpError{Op: "rename", Err: fs.ErrNoSpace} }
	s.want(507, "COPY", "/c", "", "Destination", "/new")
	s.want(507, "COPY", "/c", "", "Destination", "/d")
	s.want(507, "MOVE", "/c", "", "Destination", "/new")
	if names := listNames(t, bad, fs.Root); len(names) != 2 {
		t.Errorf("the root holds %q", names)
	}
}

func TestDeleteThatFailsInPart(t *testing.T) {
	bad := &faultFS{FS: memfs.New()}
	s := newTestServer(t, func(o *options) { o.FS = bad })
	for _, c := range []string{"/c", "/c/a", "/c/b"} {
		s.want(201, "MKCOL", c, "")
	}
	bad.rmdir = func(name string) error {
		if name == "a" {
			return fs.ErrIO
		}
		return nil
	}
	a := s.want(207, "DELETE", "/c", "")
	if !strings.Contains(a.body, "<D:href>/c/a/</D:href><D:status>HTTP/1.1 500") || strings.Contains(a.body, "/c/b") {
		t.Error(a.body)
	}
	s.want(404, "GET", "/c/b", "")
	bad.rmdir = nil
	s.want(204, "DELETE", "/c", "")
}
