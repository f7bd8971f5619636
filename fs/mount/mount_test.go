package mount_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
	"github.com/gabionfs/gabion/fs/mount"
)

// Accesses to a mount from the process that serves it can deadlock. So all that goes through the kernel
// runs in a child: the test binary again, with this variable naming the directory to work in.
const (
	childDir  = "GABION_MOUNT_TEST_DIR"
	childCase = "GABION_MOUNT_TEST_CASE"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(childDir) != "" {
		os.Exit(m.Run())
	}
	if role := os.Getenv("GABION_MOUNT_TEST_ROLE"); role != "" {
		roles[role]()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// cases run in a child, each in a directory of its own on the mount.
var cases = map[string]func(c *kase){}

// hidden are cases that a test of their own prepares.
var hidden = map[string]func(c *kase){}

// TestThroughKernel runs each case through a mount of the reference model.
func TestThroughKernel(t *testing.T) {
	if os.Getenv(childDir) != "" {
		t.Skip("this is the child")
	}
	m := mountModel(t, mount.Options{})
	names := make([]string, 0, len(cases))
	for name := range cases {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) { m.child(t, name) })
	}
}

// TestChild is what the child runs.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("runs in a child of TestThroughKernel")
	}
	name := os.Getenv(childCase)
	dir = filepath.Join(dir, strings.ReplaceAll(name, "/", "-"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	unix.Umask(0)
	run := cases[name]
	if run == nil {
		run = hidden[name]
	}
	run(&kase{T: t, dir: dir})
}

// model is a mount of the reference model.
type model struct {
	dir    string
	fs     *memfs.FS
	server *mount.Server
}

func needFuse(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs /dev/fuse: %v", err)
	}
	f.Close()
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			t.Skip("needs root or fusermount3")
		}
	}
}

func mountModel(t testing.TB, o mount.Options) *model {
	t.Helper()
	needFuse(t)
	dir, err := os.MkdirTemp("", "gabion-mount") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	m := &model{dir: dir, fs: memfs.New()}
	o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if os.Geteuid() != 0 {
		c := fs.Cred{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
		_, err := m.fs.Setattr(t.Context(), fs.Root, fs.SetAttr{Mask: fs.SetUID | fs.SetGID, UID: c.UID, GID: c.GID})
		if err != nil {
			t.Fatal(err)
		}
	}
	server, err := mount.Mount(t.Context(), m.dir, m.fs.Session, o)
	if err != nil {
		t.Fatal(err)
	}
	m.server = server
	t.Cleanup(func() { unmount(t, server) })
	return m
}

// unmount unmounts in any case.
func unmount(t testing.TB, s *mount.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := s.Unmount(ctx)
	if err == nil {
		return
	}
	t.Errorf("at the end: %v", err)
	if err := s.Detach(); err != nil {
		t.Error(err)
	}
	abort(s.Dir())
	s.Wait()
}

// abort ends all FUSE connections that this process serves: every request fails.
func abort(string) {
	conns, _ := filepath.Glob("/sys/fs/fuse/connections/*/abort")
	for _, conn := range conns {
		_ = os.WriteFile(conn, []byte("1"), 0)
	}
}

// testWriter makes what is logged a failure: nothing that a test does may be an error of the mount.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Errorf("logged: %s", bytes.TrimSpace(p))
	return len(p), nil
}

// child runs a case in a child process.
func (m *model) child(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$", "-test.v", "-test.timeout=50s")
	cmd.Env = append(os.Environ(), childDir+"="+m.dir, childCase+"="+name)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP: TestChild")):
		t.Skipf("%s", out)
	case testing.Verbose():
		t.Logf("%s", out)
	}
}

// kase is a case that runs in the child.
type kase struct {
	*testing.T
	dir string
}

func (c *kase) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

func (c *kase) ok(err error, what ...any) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s%v", fmt.Sprintln(what...), err)
	}
}

func (c *kase) want(err error, errno unix.Errno, what ...any) {
	c.Helper()
	var got unix.Errno
	if err == nil || !asErrno(err, &got) || got != errno {
		c.Errorf("%sgot %v, want %v (%d)", fmt.Sprintln(what...), err, errno, int(errno))
	}
}

func asErrno(err error, errno *unix.Errno) bool {
	for err != nil {
		if e, ok := err.(unix.Errno); ok {
			*errno = e
			return true
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		err = u.Unwrap()
	}
	return false
}

func (c *kase) write(path, content string) {
	c.Helper()
	c.ok(os.WriteFile(path, []byte(content), 0o644))
}

func (c *kase) wantFile(path, content string) {
	c.Helper()
	got, err := os.ReadFile(path)
	c.ok(err)
	if string(got) != content {
		c.Errorf("%s holds %.100q, want %.100q", path, got, content)
	}
}

func (c *kase) mkdir(elem ...string) string {
	c.Helper()
	path := c.path(elem...)
	c.ok(os.Mkdir(path, 0o755))
	return path
}

// open returns a descriptor that is closed at the end.
func (c *kase) open(path string, flags int, mode uint32) int {
	c.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	c.ok(err, "open", path)
	c.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (c *kase) lstat(path string) unix.Stat_t {
	c.Helper()
	var st unix.Stat_t
	c.ok(unix.Lstat(path, &st), path)
	return st
}

func (c *kase) fstat(fd int) unix.Stat_t {
	c.Helper()
	var st unix.Stat_t
	c.ok(unix.Fstat(fd, &st))
	return st
}

func (c *kase) needRoot() {
	c.Helper()
	if os.Geteuid() != 0 {
		c.Skip("needs root")
	}
}

// roles are what a child can be instead of a test: each is a function that runs until it is done.
var roles = map[string]func(){}

// role starts the test binary in a role, with arguments in its environment.
func role(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"=", "GABION_MOUNT_TEST_ROLE="+name, "GABION_MOUNT_TEST_ARGS="+strings.Join(args, "\n"))
	return cmd
}

func roleArgs() []string { return strings.Split(os.Getenv("GABION_MOUNT_TEST_ARGS"), "\n") }
