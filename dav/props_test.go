package dav_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/fs"
)

func TestDeadPropertiesFollowTheResource(t *testing.T) {
	s := newTestServer(t)
	has := func(path, name, want string) {
		t.Helper()
		if v, ok := s.prop(path, "urn:x", name); ok != (want != "") || v != want {
			t.Errorf("%s of %s: %q %v, want %q", name, path, v, ok, want)
		}
	}
	s.want(201, "MKCOL", "/c", "")
	s.want(201, "PUT", "/c/f", "x")
	s.proppatch("/c", "urn:x", "p", "of the collection")
	s.proppatch("/c/f", "urn:x", "p", "a &amp; <b xmlns=\"urn:b\">b</b>")
	has("/c/f", "p", `a &amp; <b xmlns="urn:b">b</b>`)

	s.want(201, "COPY", "/c", "", "Destination", "/d")
	s.want(201, "COPY", "/c/f", "", "Destination", "/g")
	s.want(201, "MOVE", "/c", "", "Destination", "/e")
	for _, p := range []string{"/d/f", "/g", "/e/f"} {
		has(p, "p", `a &amp; <b xmlns="urn:b">b</b>`)
	}
	has("/d", "p", "of the collection")
	has("/e", "p", "of the collection")

	s = s.restart()
	has("/g", "p", `a &amp; <b xmlns="urn:b">b</b>`)
	s.want(204, "PUT", "/g", "replaced")
	has("/g", "p", `a &amp; <b xmlns="urn:b">b</b>`) // the resource is the same
	s.proppatch("/g", "urn:x", "q", "only here")
	s.want(204, "COPY", "/d/f", "", "Destination", "/g")
	has("/g", "q", "") // a copy has the properties of its source, and no others
	has("/g", "p", `a &amp; <b xmlns="urn:b">b</b>`)
	s.want(204, "DELETE", "/g", "")
	s.want(201, "PUT", "/g", "new")
	has("/g", "p", "")
}

func TestProppatchIsAtomic(t *testing.T) {
	s := newTestServer(t)
	s.want(201, "PUT", "/f", "x")
	patch := func(body string) string {
		t.Helper()
		return s.want(207, "PROPPATCH", "/f", `<D:propertyupdate xmlns:D="DAV:" xmlns:x="urn:x">`+body+`</D:propertyupdate>`).body
	}
	set := func(props string) string { return `<D:set><D:prop>` + props + `</D:prop></D:set>` }
	patch(set(`<x:a>1</x:a><x:b>2</x:b>`))
	for _, bad := range []string{`<D:getetag>x</D:getetag>`, `<D:creationdate>x</D:creationdate>`, `<D:quota-used-bytes>1</D:quota-used-bytes>`,
		`<D:getlastmodified>never</D:getlastmodified>`, `<x:big>` + strings.Repeat("y", 70000) + `</x:big>`} {
		a := patch(set(`<x:a>changed</x:a>`) + `<D:remove><D:prop><x:b/></D:prop></D:remove>` + set(bad))
		if !strings.Contains(a, "424 Failed Dependency") && !strings.Contains(bad, "big") || strings.Contains(a, "200 OK") {
			t.Errorf("%.40s: %s", bad, a)
		}
		if v, _ := s.prop("/f", "urn:x", "a"); v != "1" {
			t.Errorf("%.40s: a is %q", bad, v)
		}
		if v, _ := s.prop("/f", "urn:x", "b"); v != "2" {
			t.Errorf("%.40s: b is %q", bad, v)
		}
	}
	// In the order of the request: set, then removed, then set again.
	patch(set(`<x:c>1</x:c>`) + `<D:remove><D:prop><x:c/><x:b/><x:none/></D:prop></D:remove>` + set(`<x:c>2</x:c>`))
	if v, _ := s.prop("/f", "urn:x", "c"); v != "2" {
		t.Errorf("c is %q", v)
	}
	if _, ok := s.prop("/f", "urn:x", "b"); ok {
		t.Error("b is still there")
	}
	// A property inside of another's value is not the live one of that name.
	patch(set(`<x:a><D:getlastmodified>inner</D:getlastmodified></x:a>`))
	if v, _ := s.prop("/f", "urn:x", "a"); !strings.Contains(v, "inner") || strings.Contains(v, "gabion") {
		t.Errorf("a is %q", v)
	}
}

// TestForeignXattr: what somebody writes to the attribute through a mount must not break listings.
func TestForeignXattr(t *testing.T) {
	s := newTestServer(t)
	s.want(201, "PUT", "/f", "x")
	a, err := s.fs.Lookup(t.Context(), fs.Root, "f")
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"", "nonsense", "gdp\x01\xff\xff\xff\xff\xff", "gdp\x01\x01a\x01b\x00\x08</x:b><y", "gdp\x01\x01a\x03b c\x00\x00",
		"gdp\x01\x01a\x01b\x00\x0a</b><b>x<b>", "gdp\x01\x00\x00\x00\x00"} {
		if err := s.fs.SetXattr(t.Context(), a.Ino, "user.dav.props", []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		body := s.want(207, "PROPFIND", "/", "", "Depth", "1").body
		if !strings.Contains(body, "<D:href>/f</D:href>") || strings.Contains(body, "x<b>") {
			t.Errorf("%q: %s", value, body)
		}
	}
	s.proppatch("/f", "urn:x", "p", "v")
	if v, _ := s.prop("/f", "urn:x", "p"); v != "v" {
		t.Errorf("p is %q", v)
	}
}

func TestExecutable(t *testing.T) {
	s := newTestServer(t)
	const ns = "http://apache.org/dav/props/"
	s.want(201, "PUT", "/f", "x")
	for _, v := range []string{"T", "F", "T"} {
		s.proppatch("/f", ns, "executable", v)
		a, err := s.fs.Lookup(t.Context(), fs.Root, "f")
		if want := map[string]uint32{"T": 0o755, "F": 0o644}[v]; err != nil || a.Mode&0o777 != want {
			t.Errorf("executable %s: mode %o, %v", v, a.Mode, err)
		}
		if got, _ := s.prop("/f", ns, "executable"); got != v {
			t.Errorf("executable is %q, want %q", got, v)
		}
	}
}

func TestLargeDirectory(t *testing.T) {
	const entries = 20000
	s := newTestServer(t)
	for i := range entries {
		if _, err := s.fs.Mknod(t.Context(), fs.Cred{}, fs.Root, fmt.Sprintf("file-%05d", i), fs.TypeRegular|0o644, 0); err != nil {
			t.Fatal(err)
		}
	}
	body := s.want(207, "PROPFIND", "/", `<propfind xmlns="DAV:"><prop><getcontentlength/><getetag/></prop></propfind>`, "Depth", "1").body
	if n := strings.Count(body, "<D:response>"); n != entries+1 || !strings.HasSuffix(body, "multistatus>") {
		t.Errorf("%d responses, want %d", n, entries+1)
	}
	page := s.want(200, "GET", "/", "").body
	if !strings.Contains(page, "1–2000 of 20000") || !strings.Contains(page, `href="/?from=2000"`) {
		t.Error("the page is not the first of several")
	}
	last := s.want(200, "GET", "/?from=18000", "").body
	if !strings.Contains(last, "file-19999") || strings.Contains(last, "next") || !strings.Contains(last, `href="/?from=16000"`) {
		t.Error("the last page is wrong")
	}
	s.want(200, "GET", "/?from=-1", "")
	s.want(200, "GET", "/?from=99999999999999999999", "")
	s.want(200, "GET", "/?from=x", "")
}
