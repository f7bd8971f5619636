package dav_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/dav"
)

// client runs a program of the system, or skips the test when it is not there.
func client(t *testing.T, env []string, stdin, name string, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: apt-get install %s", name, name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// someFiles makes a tree to upload.
func someFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i, name := range []string{"a.txt", "sub/b c.txt", "sub/ü & 100%.bin", "sub/deep/er/d", "empty"} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bytes.Repeat([]byte(name), i*i*5000%90001), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCurl(t *testing.T) {
	s := newTestServer(t, overVolume(t), func(o *options) { o.Users = []dav.User{mustUser(t, "u", "secret", false)} })
	dir := someFiles(t)
	curl := func(args ...string) string {
		return client(t, nil, "", "curl", append([]string{"-sS", "--fail", "-u", "u:secret"}, args...)...)
	}
	src := filepath.Join(dir, "sub", "deep", "er", "d")
	curl("-T", src, s.URL+"/d")
	got := filepath.Join(dir, "got")
	curl("-o", got, "-r", "0-999", s.URL+"/d")
	curl("-o", got, "-C", "-", s.URL+"/d") // goes on where it stopped
	want, _ := os.ReadFile(src)
	if b, err := os.ReadFile(got); err != nil || !bytes.Equal(b, want) {
		t.Errorf("curl got %d bytes of %d, %v", len(b), len(want), err)
	}
}

// TestRclone syncs a tree up, moves and copies it on the server, and compares it.
func TestRclone(t *testing.T) {
	s := newTestServer(t, overVolume(t))
	dir := someFiles(t)
	env := []string{"RCLONE_CONFIG=" + os.DevNull, "RCLONE_CONFIG_G_TYPE=webdav", "RCLONE_CONFIG_G_URL=" + s.URL, "RCLONE_CONFIG_G_VENDOR=owncloud"}
	rclone := func(args ...string) string { return client(t, env, "", "rclone", args...) }
	rclone("sync", dir, "g:up")
	rclone("check", "--download", dir, "g:up")
	rclone("moveto", "g:up", "g:moved")
	rclone("copy", "g:moved", "g:copied")
	rclone("check", "--download", dir, "g:copied")
	if out := rclone("sync", dir, "g:moved", "-v"); strings.Contains(out, "Copied") {
		t.Errorf("a second sync copied again, so that times were not kept:\n%s", out)
	}
	rclone("purge", "g:copied")
	s.want(404, "GET", "/copied", "")
	if out := rclone("about", "g:"); !strings.Contains(out, "Free") {
		t.Errorf("no quota: %s", out)
	}
}

func TestCadaver(t *testing.T) {
	s := newTestServer(t, overVolume(t))
	dir := someFiles(t)
	script := fmt.Sprintf(`mkcol c
cd c
put %s/a.txt b
lock b
propset b foo bar
unlock b
chexec + b
copy b c
move c d
delete b
quit
`, dir)
	out := client(t, []string{"HOME=" + t.TempDir()}, script, "cadaver", s.URL+"/")
	if strings.Contains(out, "failed") {
		t.Error(out)
	}
	if v, _ := s.prop("/c/d", "http://webdav.org/cadaver/custom-properties/", "foo"); v != "bar" {
		t.Errorf("foo is %q", v)
	}
	s.want(404, "GET", "/c/b", "")
}
