package dav_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/dav"
	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/memfs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore/memns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type options = dav.Options

// testServer is a handler behind a real HTTP server, over the reference models of the layers below.
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

// overVolume serves a real volume, with its objects in memory, and checks it at the end.
func overVolume(t testing.TB) func(*options) {
	return func(o *options) {
		t.Helper()
		ctx := context.Background()
		store, ns := memkv.New(), memns.New()
		v, err := volume.Open(ctx, store, ns, volume.Options{Logger: o.Logger})
		if err != nil {
			t.Fatal(err)
		}
		o.FS, o.KV = v.Session(nil), store
		t.Cleanup(func() {
			if err := v.Close(ctx); err != nil {
				t.Error(err)
			}
			if _, err := meta.Check(ctx, store, func(p meta.Problem) { t.Errorf("namespace: %v", p) }); err != nil {
				t.Error(err)
			}
			_, err := data.Check(ctx, store, ns, data.CheckOptions{Deep: true}, func(p data.Problem) {
				t.Errorf("content: %s: %s: %s", p.Kind, p.Object, p.Text)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// overBoth runs a test over the reference model and over a real volume.
func overBoth(t *testing.T, run func(t *testing.T, over func(testing.TB) func(*options))) {
	t.Run("memfs", func(t *testing.T) { run(t, func(testing.TB) func(*options) { return func(*options) {} }) })
	t.Run("volume", func(t *testing.T) { run(t, overVolume) })
}

func serve(t testing.TB, o options) *testServer {
	t.Helper()
	h, err := dav.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{Server: httptest.NewServer(h), t: t, handler: h, fs: o.FS, options: o}
	t.Cleanup(func() {
		s.Close()
		if n := h.ActiveClaims(); n != 0 {
			t.Errorf("%d claims were left", n)
		}
		if n := h.OpenReadings(); n != 0 {
			t.Errorf("%d readings were left", n)
		}
	})
	return s
}

// restart returns another server over the same tree and store.
func (s *testServer) restart() *testServer {
	s.t.Helper()
	s.Close()
	return serve(s.t, s.options)
}

// answer is a response that was read whole.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request. Headers are name, value, ...; "$" in a header stands for the server's URL.
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
		req.Header.Set(headers[i], strings.ReplaceAll(headers[i+1], "$", s.URL))
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

// content fails the test unless path holds want.
func (s *testServer) content(path, want string) {
	s.t.Helper()
	if a := s.want(200, "GET", path, ""); a.body != want {
		s.t.Errorf("%s holds %.60q (%d bytes), want %.60q (%d bytes)", path, a.body, len(a.body), want, len(want))
	}
}

// inodes fails the test unless there are want inodes, the root among them. A volume frees them in the
// background.
func (s *testServer) inodes(want uint64) {
	s.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		st, err := s.fs.StatFS(context.Background())
		if err != nil {
			s.t.Fatal(err)
		}
		if st.Files-st.FilesFree == want {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d inodes are left, want %d", st.Files-st.FilesFree, want)
		}
	}
}

const (
	lockExclusive = `<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype><D:owner><D:href>mailto:a@b</D:href></D:owner></D:lockinfo>`
	lockShared    = `<lockinfo xmlns="DAV:"><lockscope><shared/></lockscope><locktype><write/></locktype></lockinfo>`
)

// lock makes a lock and returns its token.
func (s *testServer) lock(path, body string, headers ...string) string {
	s.t.Helper()
	a := s.do("LOCK", path, body, headers...)
	if a.status != 200 && a.status != 201 {
		s.t.Fatalf("LOCK %s: status %d\n%s", path, a.status, a.body)
	}
	return strings.Trim(a.header.Get("Lock-Token"), "<>")
}

// prop returns the inner XML of a property, by local name, and whether its status is 200.
func (s *testServer) prop(path, namespace, name string) (string, bool) {
	s.t.Helper()
	a := s.want(207, "PROPFIND", path, `<propfind xmlns="DAV:"><prop><x:`+name+` xmlns:x="`+namespace+`"/></prop></propfind>`, "Depth", "0")
	m := regexp.MustCompile(`(?s)<(?:\w+:)?` + name + `(?: [^>]*?)?(?:/>|>(.*)</(?:\w+:)?` + name + `>)`).FindStringSubmatch(a.body)
	if m == nil {
		s.t.Fatalf("no %s in %s", name, a.body)
	}
	return m[1], strings.Contains(a.body, "200 OK")
}

// proppatch sets one property and returns the answer.
func (s *testServer) proppatch(path, namespace, name, value string, headers ...string) answer {
	s.t.Helper()
	return s.want(207, "PROPPATCH", path, `<propertyupdate xmlns="DAV:"><set><prop><x:`+name+` xmlns:x="`+namespace+`">`+
		value+`</x:`+name+`></prop></set></propertyupdate>`, headers...)
}

// faultFS lets a test stand in the way of single operations.
type faultFS struct {
	fs.FS
	write   func(ino fs.Ino, off int64, p []byte) error
	replace func(dst fs.Ino) error
	fsync   func(ino fs.Ino) error
	read    func(ino fs.Ino, off int64) error
	rename  func(oldName, newName string) error
	rmdir   func(name string) error
	xattr   func(ino fs.Ino) error
	readDir func(ino fs.Ino) error
	hold    func(ino fs.Ino)
}

func (f *faultFS) Hold(ino fs.Ino) error {
	if f.hold != nil {
		f.hold(ino)
	}
	return f.FS.Hold(ino)
}

func (f *faultFS) GetXattr(ctx context.Context, ino fs.Ino, name string) ([]byte, error) {
	if f.xattr != nil {
		if err := f.xattr(ino); err != nil {
			return nil, err
		}
	}
	return f.FS.GetXattr(ctx, ino, name)
}

func (f *faultFS) ReadDir(ctx context.Context, ino fs.Ino, after uint64, plus bool, fn func(fs.Dirent, *fs.Attr) bool) error {
	if f.readDir != nil {
		if err := f.readDir(ino); err != nil {
			return err
		}
	}
	return f.FS.ReadDir(ctx, ino, after, plus, fn)
}

func (f *faultFS) Write(ctx context.Context, ino fs.Ino, off int64, p []byte) error {
	if f.write != nil {
		if err := f.write(ino, off, p); err != nil {
			return err
		}
	}
	return f.FS.Write(ctx, ino, off, p)
}

func (f *faultFS) ReplaceContent(ctx context.Context, dst, src fs.Ino) (fs.Attr, error) {
	if f.replace != nil {
		if err := f.replace(dst); err != nil {
			return fs.Attr{}, err
		}
	}
	return f.FS.ReplaceContent(ctx, dst, src)
}

func (f *faultFS) Fsync(ctx context.Context, ino fs.Ino) error {
	if f.fsync != nil {
		if err := f.fsync(ino); err != nil {
			return err
		}
	}
	return f.FS.Fsync(ctx, ino)
}

func (f *faultFS) Read(ctx context.Context, ino fs.Ino, off int64, p []byte) (int, error) {
	if f.read != nil {
		if err := f.read(ino, off); err != nil {
			return 0, err
		}
	}
	return f.FS.Read(ctx, ino, off, p)
}

func (f *faultFS) Rename(ctx context.Context, parent fs.Ino, name string, newParent fs.Ino, newName string, flags fs.RenameFlags) error {
	if f.rename != nil {
		if err := f.rename(name, newName); err != nil {
			return err
		}
	}
	return f.FS.Rename(ctx, parent, name, newParent, newName, flags)
}

func (f *faultFS) Rmdir(ctx context.Context, parent fs.Ino, name string) error {
	if f.rmdir != nil {
		if err := f.rmdir(name); err != nil {
			return err
		}
	}
	return f.FS.Rmdir(ctx, parent, name)
}
