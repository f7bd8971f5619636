package dav_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/dav"
	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
	"github.com/gabionfs/gabion/kv/memkv"
)

type options = dav.Options

// testServer is a handler behind a real HTTP server.
type testServer struct {
	*httptest.Server
	t       testing.TB
	handler *dav.Handler
	fs      fs.FS // what the handler serves
	options options
}

func newTestServer(t testing.TB, change ...func(*options)) *testServer {
	t.Helper()
	o := options{FS: memfs.New(), KV: memkv.New(memkv.Rerun()), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, c := range change {
		c(&o)
	}
	return serve(t, o)
}

func serve(t testing.TB, o options) *testServer {
	t.Helper()
	h, err := dav.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{Server: httptest.NewServer(h), t: t, handler: h, fs: o.FS, options: o}
	t.Cleanup(s.Close)
	return s
}

// restart returns another server over the same tree and store.
func (s *testServer) restart() *testServer {
	s.Close()
	return serve(s.t, s.options)
}

// answer is a response that was read whole.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request. Headers are name, value, ...
func (s *testServer) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	a, err := s.try(method, path, body, headers...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (s *testServer) try(method, path, body string, headers ...string) (answer, error) {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, s.URL+path, r)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.Client().Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b)}, err
}

// want sends a request that must answer with status.
func (s *testServer) want(status int, method, path, body string, headers ...string) answer {
	s.t.Helper()
	a := s.do(method, path, body, headers...)
	if a.status != status {
		s.t.Errorf("%s %s %q: status %d, want %d\n%s", method, path, headers, a.status, status, a.body)
	}
	return a
}
