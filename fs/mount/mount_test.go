package mount_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
	"github.com/gabionfs/gabion/fs/mount"
	"github.com/gabionfs/gabion/fs/mount/mounttest"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore/memns"
)

func TestMain(m *testing.M) {
	code := mounttest.Main(m, map[string]func([]string){"serve": serve, "shell": shell, "ordinary": ordinary, "bench": bench})
	if code == 0 && !mounttest.IsChild() {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// TestThroughKernel runs each case through a mount of the reference model, or in the directory that
// GABION_TEST_DIR names, on any filesystem.
func TestThroughKernel(t *testing.T) {
	if dir := os.Getenv("GABION_TEST_DIR"); dir != "" {
		mounttest.Run(t, dir)
		return
	}
	mounttest.Run(t, mountModel(t, mount.Options{}).dir)
}

const large = 100_000

// TestLargeDirectory fills a directory behind the mount's back, lists it in front, once from the
// filesystem and once from the kernel's cache, and removes some.
func TestLargeDirectory(t *testing.T) {
	m := mountModel(t, mount.Options{})
	d, err := m.fs.Mkdir(t.Context(), fs.Cred{UID: uint32(os.Getuid())}, fs.Root, "large", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	for i := range large {
		if _, err := m.fs.Mknod(t.Context(), fs.Cred{}, d.Ino, fmt.Sprint("entry", i), 0o644, 0); err != nil {
			t.Fatal(err)
		}
	}
	sh := m.shell(t)
	count := func(want int) {
		t.Helper()
		seen := map[string]bool{}
		names := strings.Fields(sh.do("ls", "large"))
		for _, name := range names {
			seen[name] = true
		}
		if len(names) != want || len(seen) != want {
			t.Fatalf("%d entries are listed, %d of them different, want %d", len(names), len(seen), want)
		}
	}
	count(large)
	count(large)
	for i := 0; i < large; i += 100 {
		sh.do("unlink", fmt.Sprint("large/entry", i))
	}
	count(large - large/100)
}

// model is a mount of the reference model, or of a volume.
type model struct {
	dir     string
	fs      fs.FS // another session than the mount's
	session func(fs.Watcher) fs.FS
	server  *mount.Server
}

// each runs a test over the reference model and over a volume.
func each(t *testing.T, test func(t *testing.T, m *model)) {
	t.Run("model", func(t *testing.T) { test(t, mountModel(t, mount.Options{})) })
	t.Run("volume", func(t *testing.T) {
		v, err := volume.Open(t.Context(), memkv.New(), memns.New(), volume.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := v.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		test(t, mountFS(t, v.Session, mount.Options{}))
	})
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
	return mountFS(t, memfs.New().Session, o)
}

func mountFS(t testing.TB, session func(fs.Watcher) fs.FS, o mount.Options) *model {
	t.Helper()
	needFuse(t)
	dir, err := os.MkdirTemp("", "gabion-mount") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	m := &model{dir: dir, fs: session(nil), session: session}
	o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if os.Geteuid() != 0 {
		c := fs.Cred{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
		_, err := m.fs.Setattr(t.Context(), fs.Root, fs.SetAttr{Mask: fs.SetUID | fs.SetGID, UID: c.UID, GID: c.GID})
		if err != nil {
			t.Fatal(err)
		}
	}
	server, err := mount.Mount(t.Context(), m.dir, session, o)
	if err != nil {
		t.Fatal(err)
	}
	m.server = server
	t.Cleanup(func() { unmount(t, server) })
	return m
}

// unmount unmounts in any case.
func unmount(t testing.TB, s *mount.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	connection := connectionOf(s.Dir())
	err := s.Unmount(ctx)
	if err == nil {
		return
	}
	t.Errorf("at the end: %v", err)
	stacks := make([]byte, 1<<20)
	t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
	if err := s.Detach(); err != nil {
		t.Error(err)
	}
	if connection != "" { // every request of this mount fails now
		if err := os.WriteFile(filepath.Join(connection, "abort"), []byte("1"), 0); err != nil {
			t.Error(err)
		}
	}
	s.Wait()
}

// connectionOf returns the directory of the kernel's that controls the mount at dir, "" when there is
// none. It does not touch the mount.
func connectionOf(dir string) string {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(info)) {
		var id, parent, major, minor int
		var root, at string
		if _, err := fmt.Sscanf(line, "%d %d %d:%d %s %s", &id, &parent, &major, &minor, &root, &at); err == nil && at == dir {
			return fmt.Sprintf("/sys/fs/fuse/connections/%d", minor)
		}
	}
	return ""
}

// testWriter makes what is logged a failure: nothing that a test does may be an error of the mount.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Errorf("logged: %s", bytes.TrimSpace(p))
	return len(p), nil
}
