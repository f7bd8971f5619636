package objhttp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/memns"
	"github.com/gabionfs/gabion/objstore/objhttp"
)

// store has one namespace that can be written to and one that cannot.
type store struct {
	ns    *memns.Namespace
	syncs atomic.Int64
}

func (s *store) Namespace(_ context.Context, name string, write bool) (objstore.Namespace, error) {
	switch {
	case name == "ns", name == "locked" && !write:
		return s.ns, nil
	case name == "locked":
		return nil, objstore.ErrReadOnly
	}
	return nil, objstore.ErrNotFound
}

func (s *store) Sync(context.Context) error { s.syncs.Add(1); return nil }

func serve(t *testing.T) (*store, string) {
	t.Helper()
	s := &store{ns: memns.New()}
	srv := httptest.NewServer(objhttp.Handler(s, nil))
	t.Cleanup(srv.Close)
	return s, srv.URL
}

// do sends a request with header pairs and returns the status, the headers and the body.
func do(t *testing.T, method, url string, body []byte, header ...string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, got
}

func want(t *testing.T, method, url string, status int, header ...string) []byte {
	t.Helper()
	got, _, body := do(t, method, url, nil, header...)
	if got != status {
		t.Fatalf("%s %s %v: %d %s; want %d", method, url, header, got, body, status)
	}
	return body
}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(p)
	return p
}

func TestObject(t *testing.T) {
	s, base := serve(t)
	content := noise(9 << 20) // more than two pieces
	for _, name := range []string{"a", "with/slashes//and%20escapes", "../up", "%ff%00"} {
		u := base + "/ns/" + name
		want(t, "GET", u, 404)
		want(t, "HEAD", u, 404)
		want(t, "DELETE", u, 404)
		status, header, body := do(t, "PUT", u, content)
		if status != 201 || header.Get("ETag") == "" {
			t.Fatalf("PUT %s: %d %v %s", name, status, header, body)
		}
		tag := header.Get("ETag")
		if s.syncs.Load() == 0 {
			t.Error("acknowledged before it was durable")
		}
		status, header, body = do(t, "GET", u, nil)
		if status != 200 || !bytes.Equal(body, content) || header.Get("ETag") != tag {
			t.Fatalf("GET %s: %d, %d bytes, %v", name, status, len(body), header)
		}
		_, header, _ = do(t, "HEAD", u, nil)
		if header.Get("Content-Length") != fmt.Sprint(len(content)) || header.Get("ETag") != tag {
			t.Fatalf("HEAD %s: %v", name, header)
		}
		for _, r := range []struct {
			ask  string
			from int
			to   int
		}{{"bytes=0-0", 0, 1}, {"bytes=4194300-4194310", 4194300, 4194311}, {"bytes=-5", len(content) - 5, len(content)}, {"bytes=5000000-", 5000000, len(content)}} {
			status, _, body = do(t, "GET", u, nil, "Range", r.ask)
			if status != 206 || !bytes.Equal(body, content[r.from:r.to]) {
				t.Errorf("%s: %d, %d bytes", r.ask, status, len(body))
			}
			status, _, body = do(t, "GET", u, nil, "Range", r.ask, "If-Range", `"other"`)
			if status != 200 || len(body) != len(content) {
				t.Errorf("%s of another version: %d, %d bytes", r.ask, status, len(body))
			}
		}
		want(t, "GET", u, 416, "Range", "bytes=99999999-")
		want(t, "GET", u, 304, "If-None-Match", tag)
		want(t, "GET", u, 412, "If-Match", `"other"`)
		want(t, "PUT", u, 409)
		want(t, "PUT", u, 412, "If-None-Match", "*")
		want(t, "PUT", u, 412, "If-Match", tag)
		want(t, "DELETE", u, 412, "If-Match", `"other"`)
		want(t, "DELETE", u, 204, "If-Match", `"x", `+tag)
		want(t, "GET", u, 404)
	}
}

func TestRefusals(t *testing.T) {
	s, base := serve(t)
	want(t, "GET", base+"/", 404)
	want(t, "GET", base+"/none/x", 404)
	want(t, "PUT", base+"/none/x", 404)
	want(t, "PUT", base+"/locked/x", 403)
	want(t, "PUT", base+"/ns/", 400)
	want(t, "DELETE", base+"/ns/", 400)
	want(t, "POST", base+"/ns/x", 405)
	want(t, "PUT", base+"/ns/x", 400, "Content-Range", "bytes 0-1/5")
	want(t, "GET", base+"/ns/"+strings.Repeat("n", objstore.MaxName+1), 414)
	want(t, "GET", base+"/"+strings.Repeat("n", objstore.MaxNamespace+1)+"/x", 404)
	req, err := http.NewRequest("PUT", base+"/ns/chunked", io.MultiReader(strings.NewReader("length unknown")))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 411 {
		t.Errorf("a body of unknown length: %d", resp.StatusCode)
	}
	s.ns.Limit(1)
	if status, _, body := do(t, "PUT", base+"/ns/full", []byte("more than one")); status != 507 {
		t.Errorf("on full disks: %d %s", status, body)
	}
}

// TestCut breaks a PUT off: nothing is left. And it breaks reading: never a whole answer with wrong content.
func TestCut(t *testing.T) {
	s, base := serve(t)
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "PUT /ns/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(c) // a reset is an answer too
	c.Close()
	if bytes.Contains(answer, []byte(" 201 ")) {
		t.Errorf("a cut upload was acknowledged: %s", answer)
	}
	want(t, "GET", base+"/ns/cut", 404)

	content := noise(6 << 20)
	if status, _, _ := do(t, "PUT", base+"/ns/damaged", content); status != 201 {
		t.Fatal(status)
	}
	lost := &objstore.LostError{Namespace: "ns", Name: "damaged", Err: errors.New("test")}
	var reads atomic.Int64
	s.ns.Fail(func(op, _ string) error {
		if op == "read" && reads.Add(1) > 1 {
			return lost
		}
		return nil
	})
	resp, err := http.Get(base + "/ns/damaged")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err == nil {
		t.Errorf("an object that cannot be read to its end was served as whole: %d bytes", len(got))
	}
	if !bytes.Equal(got, content[:len(got)]) {
		t.Error("wrong content")
	}
	want(t, "GET", base+"/ns/damaged", 500) // when nothing can be read, that is said
}

func TestList(t *testing.T) {
	_, base := serve(t)
	var all []string
	for i := range 25 {
		name := fmt.Sprintf("d/%02d", i)
		if i >= 20 {
			name = fmt.Sprintf("e\xff/%02d", i)
		}
		all = append(all, name)
		if status, _, body := do(t, "PUT", base+"/ns/"+url.PathEscape(name), []byte(name)); status != 201 {
			t.Fatalf("%d %s", status, body)
		}
	}
	// pages follows a list to its end and fetches each object by its path.
	pages := func(query string) (got []string) {
		for range 100 {
			var p objhttp.Page
			if err := json.Unmarshal(want(t, "GET", base+"/ns/?"+query, 200), &p); err != nil {
				t.Fatal(err)
			}
			for _, e := range p.Objects {
				name := string(want(t, "GET", base+e.Path, 200))
				if e.Size != int64(len(name)) || e.ETag == "" {
					t.Errorf("%+v", e)
				}
				got = append(got, name)
			}
			if p.Next == "" {
				return got
			}
			query = p.Next
		}
		t.Fatal("a list without end")
		return nil
	}
	for query, want := range map[string][]string{
		"":                             all,
		"limit=7":                      all,
		"limit=1&prefix=d/1":           all[10:20],
		"from=d/05&to=d/07":            all[5:7],
		"from=d/18&limit=3":            all[18:],
		"prefix=e%ff&limit=2":          all[20:],
		"prefix=%ff":                   nil,
		"prefix=d/&from=d/18&limit=10": all[18:20],
	} {
		if got := pages(query); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	want(t, "GET", base+"/ns/?limit=0", 400)
	want(t, "GET", base+"/ns/?limit=x", 400)
	want(t, "GET", base+"/ns/?from=b&to=a", 400)
	want(t, "GET", base+"/ns/?prefix=b&to=c", 400)
	want(t, "GET", base+"/none/", 404)
}
