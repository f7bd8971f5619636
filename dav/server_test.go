package dav_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/gabionfs/gabion/dav"
	"github.com/gabionfs/gabion/fs/memfs"
	"github.com/gabionfs/gabion/kv/memkv"
)

func newHandler(t *testing.T, users ...dav.User) *dav.Handler {
	t.Helper()
	h, err := dav.New(t.Context(), options{FS: memfs.New(), KV: memkv.New(), Users: users})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func mustUser(t *testing.T, name, secret string, readOnly bool) dav.User {
	t.Helper()
	u, err := dav.NewUser(name, secret, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]options{
		"no FS":           {KV: memkv.New()},
		"no KV":           {FS: memfs.New()},
		"relative prefix": {FS: memfs.New(), KV: memkv.New(), Prefix: "dav"},
		"prefix/":         {FS: memfs.New(), KV: memkv.New(), Prefix: "/dav/"},
		"user by hand":    {FS: memfs.New(), KV: memkv.New(), Users: []dav.User{{Name: "a"}}},
		"user twice":      {FS: memfs.New(), KV: memkv.New(), Users: []dav.User{mustUser(t, "a", "1", false), mustUser(t, "a", "2", false)}},
	} {
		if _, err := dav.New(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestListen(t *testing.T) {
	open, closed := newHandler(t), newHandler(t, mustUser(t, "a", "secret", false))
	for addr, want := range map[string]error{
		"0.0.0.0:0":   dav.ErrNoPassword,
		"[::]:0":      dav.ErrNoPassword,
		":0":          dav.ErrNoPassword,
		"192.0.2.1:0": dav.ErrNoPassword,
		"127.0.0.1":   nil,
		"nonsense":    nil,
		"a:b:c":       nil,
	} {
		_, err := dav.Listen(addr, open)
		var le *dav.ListenError
		if !errors.As(err, &le) || want != nil && !errors.Is(err, want) || strings.Contains(le.Error(), "\n") {
			t.Errorf("listening on %q: %v", addr, err)
		}
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "127.8.9.10:0"} {
		s, err := dav.Listen(addr, open)
		if err != nil {
			t.Fatal(err)
		}
		_, err = dav.Listen(strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/"), open)
		if !errors.Is(err, dav.ErrAddrInUse) || !strings.Contains(err.Error(), "another port") {
			t.Errorf("listening twice: %v", err)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	s, err := dav.Listen("0.0.0.0:0", closed)
	if err != nil {
		t.Fatalf("with a password: %v", err)
	}
	if !strings.HasPrefix(s.URL(), "http://127.0.0.1:") {
		t.Errorf("URL %s", s.URL())
	}
	s.Shutdown(t.Context())
}

// beginUpload starts a server and an upload of 10 bytes, whose body the server is waiting for.
func beginUpload(t *testing.T) (s *dav.Server, served chan error, c net.Conn) {
	t.Helper()
	s, err := dav.Listen("127.0.0.1:0", newHandler(t))
	if err != nil {
		t.Fatal(err)
	}
	served = make(chan error, 1)
	go func() { served <- s.Serve() }()
	c, err = net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	io.WriteString(c, "PUT /f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
	if got := readSome(t, c); !strings.Contains(got, "100 Continue") {
		t.Fatalf("the server said %q", got)
	}
	return s, served, c
}

func readSome(t *testing.T, c net.Conn) string {
	t.Helper()
	buf := make([]byte, 1024)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestShutdownFinishesRequests(t *testing.T) {
	s, served, c := beginUpload(t)
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(context.Background()) }()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	io.WriteString(c, "0123456789")
	if got := readSome(t, c); !strings.HasPrefix(got, "HTTP/1.1 201") {
		t.Errorf("the upload during the shutdown: %q", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestShutdownCutsWhatTakesTooLong(t *testing.T) {
	s, served, _ := beginUpload(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestAuthentication(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("bcrypted"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, func(o *options) {
		o.Users = []dav.User{mustUser(t, "plain", "pass:word", false), mustUser(t, "hashed", string(hash), false), mustUser(t, "reader", "r", true)}
	})
	get := func(method, name, password string) answer {
		t.Helper()
		req, _ := http.NewRequest(method, s.URL+"/f", strings.NewReader("x"))
		if name != "" {
			req.SetBasicAuth(name, password)
		}
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return answer{status: res.StatusCode, header: res.Header}
	}
	for range 2 { // the second time hashes are known
		for _, c := range []struct {
			name, password string
			want           int
		}{
			{"", "", 401}, {"plain", "", 401}, {"plain", "pass:wor", 401}, {"plain", "pass:word ", 401}, {"nobody", "x", 401},
			{"hashed", "wrong", 401}, {"hashed", string(hash), 401}, {"hashed", strings.Repeat("x", 100), 401},
			{"hashed", strings.Repeat("x", 2000), 401}, {"Plain", "pass:word", 401}, {"reader", "", 401},
			{"plain", "pass:word", 204}, {"hashed", "bcrypted", 204}, {"reader", "r", 403},
		} {
			a := get("PUT", c.name, c.password)
			if a.status == 201 {
				a.status = 204
			}
			if a.status != c.want {
				t.Errorf("%s:%.20s: %d, want %d", c.name, c.password, a.status, c.want)
			}
			if a.status == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), `Basic realm="`) {
				t.Errorf("401 without a challenge")
			}
		}
	}
	if a := get("GET", "reader", "r"); a.status != 200 {
		t.Errorf("a reader reads: %d", a.status)
	}
	for _, m := range []string{"DELETE", "MKCOL", "COPY", "MOVE", "PROPPATCH", "LOCK", "UNLOCK"} {
		if a := get(m, "reader", "r"); a.status != 403 {
			t.Errorf("%s by a reader: %d", m, a.status)
		}
	}
}

func TestUsersAndPasswordFiles(t *testing.T) {
	for _, c := range [][2]string{{"", "x"}, {"a:b", "x"}, {"a", ""}, {"a\n", "x"}, {"a", "$2y$nonsense"}} {
		if _, err := dav.NewUser(c[0], c[1], false); err == nil {
			t.Errorf("user %q with password %q: no error", c[0], c[1])
		}
	}
	file := filepath.Join(t.TempDir(), "password")
	for content, want := range map[string]string{
		"secret": "secret", "secret\n": "secret", "secret \r\nrest": "secret ", "": "", "\nsecret": "", strings.Repeat("x", 5000): "",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := dav.ReadPasswordFile(file)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%.20q: %q, %v", content, got, err)
		}
	}
	if _, err := dav.ReadPasswordFile(file + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestForeignHost: without a password, a web page that calls this address by a name of its own is refused.
func TestForeignHost(t *testing.T) {
	for host, want := range map[string]int{
		"localhost": 200, "localhost:80": 200, "LOCALHOST.": 200, "127.0.0.1:1": 200, "[::1]:80": 200, "192.0.2.1": 200, "nas.home": 200,
		"evil.example": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example:80": 421,
	} {
		for _, users := range [][]dav.User{nil, {mustUser(t, "a", "b", false)}} {
			s := newTestServer(t, func(o *options) { o.Hosts = []string{"nas.home"}; o.Users = users })
			req, _ := http.NewRequest("GET", s.URL, nil)
			req.Host = host
			req.SetBasicAuth("a", "b")
			res, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if users != nil {
				want = 200
			}
			if res.StatusCode != want {
				t.Errorf("Host %s, %d users: %d, want %d", host, len(users), res.StatusCode, want)
			}
		}
	}
}
