package dav

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/webdav"

	"github.com/gabionfs/gabion/fs"
)

func FuzzIf(f *testing.F) {
	for _, s := range []string{
		`(<urn:uuid:181d4fae-7d8c-11d0-a765-00a0c91e6bf2>)`, `([W/"A weak ETag"]) (["strong"])`,
		`<http://a/b> (Not <DAV:no-lock> ["x"]) (<urn:uuid:1>) </c> (["y"])`, `urn:uuid:1`, `<opaquelocktoken:a>`,
		`(`, `()`, `<a>`, `(Not)`, `(<a> [b] c)`, "\t ( Not<a>[b] )", strings.Repeat(`(["a"])`, 300),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseIf(s)
		if err != nil {
			if h != nil {
				t.Fatal("a result and an error")
			}
			return
		}
		if len(h) == 0 || len(h) > maxIfLists {
			t.Fatalf("%d lists", len(h))
		}
		var b strings.Builder // what was understood, written down again, means the same
		for _, l := range h {
			if len(l.conditions) == 0 {
				t.Fatal("a list without conditions")
			}
			if l.tag != "" {
				b.WriteString("<" + l.tag + ">")
			}
			b.WriteString("(")
			for _, c := range l.conditions {
				if (c.token == "") == (c.etag == "") {
					t.Fatalf("condition %+v", c)
				}
				if c.not {
					b.WriteString("Not ")
				}
				if c.token != "" {
					b.WriteString("<" + c.token + ">")
				} else {
					b.WriteString("[" + c.etag + "]")
				}
			}
			b.WriteString(")")
		}
		again, err := parseIf(b.String())
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%q: %+v, again %q: %+v, %v", s, h, b.String(), again, err)
		}
	})
}

func FuzzPaths(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/dav", "/dav/", "/dav/a/../b", "/dav//a/./b/", "/dav/%2e%2e/x", "http://h/dav/a", "//h/dav/a", "/dav/\x00", "dav/x", "/dav\xff"} {
		f.Add(s)
	}
	h := &Handler{prefix: "/dav"}
	f.Fuzz(func(t *testing.T, s string) {
		r := &http.Request{Host: "h", Header: http.Header{"Destination": {s}}}
		if _, err := h.destination(r); err != nil {
			var se *statusError
			if !errors.As(err, &se) && !errors.Is(err, fs.ErrNameTooLong) {
				t.Fatalf("%q: %v", s, err)
			}
		}
		p, _, err := h.cleanPath(s)
		if err != nil {
			return
		}
		if p == "" || p[0] != '/' || p != "/" && strings.HasSuffix(p, "/") {
			t.Fatalf("%q became %q", s, p)
		}
		for _, name := range strings.Split(p, "/")[1:] {
			if p != "/" && (name == "" || name == "." || name == ".." || len(name) > fs.MaxName || strings.Contains(name, "\x00")) {
				t.Fatalf("%q became %q", s, p)
			}
		}
		u, err := url.Parse(h.href(p, true))
		if err != nil {
			t.Fatalf("href of %q: %v", p, err)
		}
		if again, _, err := h.cleanPath(u.Path); err != nil || again != p {
			t.Fatalf("%q, by its href, is %q (%v)", p, again, err)
		}
	})
}

func FuzzDecodeProps(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte(propsMagic))
	f.Add(encodeProps([]webdav.Property{
		{XMLName: xml.Name{Space: "urn:x", Local: "a"}, Lang: "de", InnerXML: []byte("v")},
		{XMLName: xml.Name{Local: "b"}, InnerXML: []byte(`<c xmlns="d">&amp;</c>`)},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		props, err := decodeProps(b)
		if err != nil {
			if !errors.Is(err, errBadRecord) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeProps(encodeProps(props))
		if err != nil || !reflect.DeepEqual(again, props) {
			t.Fatalf("%q, again %q, %v", props, again, err)
		}
	})
}

func FuzzDecodeLock(f *testing.F) {
	l := lock{token: newToken(), path: "/a/b", shared: true, deep: true, expiry: time.Unix(0, 1), owner: "<a/>", user: "u"}
	f.Add(lockKey(&l), l.encode())
	f.Add([]byte("p/\x00"), []byte(lockMagic))
	f.Fuzz(func(t *testing.T, k, v []byte) {
		l, err := decodeLock(k, v)
		if err != nil {
			if !errors.Is(err, errBadRecord) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeLock(lockKey(&l), l.encode())
		if err != nil || again != l {
			t.Fatalf("%+v, again %+v, %v", l, again, err)
		}
	})
}

func FuzzDecodeStage(f *testing.F) {
	s := stage{parent: 1, name: "n", ino: 2}
	f.Add(s.key(), []byte(stageMagic+"\x00\x00\x00\x00\x00\x00\x00\x02"))
	f.Fuzz(func(t *testing.T, k, v []byte) {
		if s, ok := decodeStage(k, v); ok && !bytes.Equal(s.key(), k) {
			t.Fatalf("%+v has key %q, not %q", s, s.key(), k)
		}
	})
}

func FuzzRenameProtected(f *testing.F) {
	for _, s := range []string{
		`<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><D:getlastmodified>x</D:getlastmodified></D:prop></D:set></D:propertyupdate>`,
		`<propertyupdate xmlns="DAV:"><set><prop><getlastmodified/><a><getlastmodified/></a></prop></set></propertyupdate>`,
		`<getlastmodified:a xmlns:getlastmodified="DAV:"><b><c><getlastmodified:getlastmodified >t</getlastmodified:getlastmodified ></c></b></getlastmodified:a>`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := &http.Request{Body: io.NopCloser(bytes.NewReader(body))}
		ok, err := readXML(r)
		if err != nil || len(ok) == 0 {
			return
		}
		changed, err := renameProtected(bytes.Clone(ok))
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		before, after := elementNames(t, ok), elementNames(t, changed)
		if len(before) != len(after) {
			t.Fatalf("%q became %q", ok, changed)
		}
		for i := range before {
			want := before[i]
			if after[i].depth == 3 && want.name == (xml.Name{Space: davNS, Local: "getlastmodified"}) {
				want.name.Local = renamedPrefix + want.name.Local
			}
			if after[i] != want {
				t.Fatalf("%q became %q: %v, want %v", ok, changed, after[i], want)
			}
		}
	})
}

type element struct {
	name  xml.Name
	depth int
}

func elementNames(t *testing.T, body []byte) (names []element) {
	t.Helper()
	depth := 0
	err := eachToken(body, func(tok xml.Token, _, _ int64) error {
		switch tok := tok.(type) {
		case xml.StartElement:
			names = append(names, element{tok.Name, depth})
			depth++
		case xml.EndElement:
			depth--
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return names
}

func TestTokens(t *testing.T) {
	seen := map[token]bool{}
	for range 1000 {
		tok := newToken()
		if again, ok := parseToken(tok.String()); !ok || again != tok || seen[tok] {
			t.Fatalf("token %s", tok)
		}
		seen[tok] = true
	}
	for _, s := range []string{"", "urn:uuid:", newToken().String() + "0", strings.ToUpper(newToken().String()), "urn:uuid:" + strings.Repeat("-", 36)} {
		if _, ok := parseToken(s); ok {
			t.Errorf("%q is a token", s)
		}
	}
}

func TestClaimConflicts(t *testing.T) {
	for _, c := range []struct {
		a, b claim
		want bool
	}{
		{claim{"/a", false, change}, claim{"/a", false, change}, true},
		{claim{"/a", false, change}, claim{"/b", false, change}, false},
		{claim{"/a", true, change}, claim{"/a/b", false, change}, false}, // the tree below decides for itself
		{claim{"/a", false, member}, claim{"/a", false, member}, false},
		{claim{"/a", false, member}, claim{"/a", false, change}, false},
		{claim{"/a", false, locking}, claim{"/a", false, member}, true},
		{claim{"/a", true, locking}, claim{"/a/b/c", false, change}, true},
		{claim{"/a", false, locking}, claim{"/a/b", false, change}, false},
		{claim{"/a/b", false, locking}, claim{"/a", true, change}, true},
		{claim{"/a", true, locking}, claim{"/ab", false, change}, false},
		{claim{"/", true, locking}, claim{"/x", false, change}, true},
	} {
		if c.a.conflicts(c.b) != c.want || c.b.conflicts(c.a) != c.want {
			t.Errorf("%+v and %+v: want %v", c.a, c.b, c.want)
		}
	}
}

func TestClaimsExclude(t *testing.T) {
	var table claims
	var mu sync.Mutex
	busy := map[string]bool{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range 300 {
				p, q := string(rune('a'+r.IntN(3))), string(rune('d'+r.IntN(3)))
				release, err := table.take(context.Background(), claim{path: p, kind: change}, claim{path: q, kind: change})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if busy[p] || busy[q] {
					t.Error("two hold one claim")
				}
				busy[p], busy[q] = true, true
				mu.Unlock()
				mu.Lock()
				busy[p], busy[q] = false, false
				mu.Unlock()
				release()
			}
		})
	}
	wg.Wait()
	release, _ := table.take(context.Background(), claim{path: "/", tree: true, kind: locking})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := table.take(ctx, claim{path: "/a", kind: change}); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting with a context that ended: %v", err)
	}
	release()
}

func TestMatchETag(t *testing.T) {
	for _, c := range []struct {
		list string
		weak bool
		want bool
	}{
		{`"a"`, false, true}, {`*`, false, true}, {`W/"a"`, false, false}, {`W/"a"`, true, true}, {`"b", "a"`, false, true},
		{`"b","c"`, true, false}, {`a`, true, false}, {`"a`, true, false}, {``, true, false}, {` , "a" ,`, false, true}, {`"x,\"a"`, false, false},
	} {
		if got := matchETag(c.list, `"a"`, c.weak); got != c.want {
			t.Errorf("%s weak=%v: %v", c.list, c.weak, got)
		}
	}
}

func TestHumanSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 10 << 10: "10.0 KiB", 100<<10 + 512: "100 KiB",
		1<<20 - 1: "1.00 MiB", 1234567: "1.18 MiB", 1<<63 - 1: "8.00 EiB", 10235: "10.0 KiB"} {
		if got := humanSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
