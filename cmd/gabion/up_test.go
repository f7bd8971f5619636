package main_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const anyPort = "--dav=127.0.0.1:0"

func TestUpAndDown(t *testing.T) {
	t.Parallel()
	mnt := mountPoint(t)
	data := filepath.Join(t.TempDir(), "deep", "data")
	p := up(t, "--data", data, "--mount", mnt, anyPort)
	if p.mount != mnt || p.data != data || !strings.HasPrefix(p.dav, "http://127.0.0.1:") {
		t.Errorf("ready with mount %s, dav %s, data %s", p.mount, p.dav, p.data)
	}
	sh(t, `mkdir "$1/d"; echo hello > "$1/d/f"`, mnt)
	if got := sh(t, `curl -sf "$1d/f"`, p.dav); got != "hello\n" {
		t.Errorf("over WebDAV: %q", got)
	}
	gabion(t, "status", "--data", data).want(t, 0, "ok", mnt, p.dav)
	p.stop()
	if out := sh(t, `ls -A "$1"`, mnt); out != "" {
		t.Errorf("still mounted: %s", out)
	}
	if _, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(p.dav, "http://"), "/")); err == nil {
		t.Error("still listening")
	}
	for _, leftover := range []string{"control.sock", "format.new"} {
		if _, err := os.Lstat(filepath.Join(data, leftover)); err == nil {
			t.Errorf("left %s", leftover)
		}
	}
	gabion(t, "status", "--data", data).want(t, 0, "ok", "process", "none")

	p = up(t, "--data", data, "--mount", mnt, "--dav", "off")
	if p.dav != "-" {
		t.Errorf("dav=%s though it is off", p.dav)
	}
	if got := sh(t, `cat "$1/d/f"`, mnt); got != "hello\n" {
		t.Errorf("after a restart: %q", got)
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.ended
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

func TestUpWithoutMount(t *testing.T) {
	t.Parallel()
	p := up(t, "--data", filepath.Join(t.TempDir(), "data"), anyPort, "--asds", "1")
	if p.mount != "-" {
		t.Errorf("mount=%s", p.mount)
	}
	resp, err := http.Get(p.dav)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %v %v", p.dav, resp, err)
	}
	resp.Body.Close()
	p.stop()
	p.says("give --mount DIR")
}

func TestWithoutFuse(t *testing.T) {
	t.Parallel()
	needRoot(t)
	mnt, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	hide := letGo + `mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec "$@"`
	p := upWith(t, exec.Command("unshare", "-m", "sh", "-euc", hide, "sh", binary, "up", "--data", data, "--mount", mnt, anyPort))
	if p.mount != "-" || p.dav == "-" {
		t.Errorf("ready with mount=%s dav=%s", p.mount, p.dav)
	}
	p.stop()
	p.says("/dev/fuse is missing")
	out, err := exec.Command("unshare", "-m", "sh", "-euc", hide, "sh", binary, "up", "--data", data+"2", "--mount", mnt, "--dav", "off").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/dev/fuse is missing") {
		t.Errorf("without FUSE and WebDAV: %v\n%s", err, out)
	}
	if _, err := os.Stat(data + "2"); err == nil {
		t.Error("a data directory was made all the same")
	}
}

func TestSecondProcess(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p := up(t, "--data", data, anyPort, "--asds", "2")
	gabion(t, "up", "--data", data, anyPort).want(t, 1, "in use by another gabion process")
	gabion(t, "asd", "list", "--data", data).want(t, 0, "asd-02")
	p.stop()
}

// refused runs up and wants it to fail with one line, and to leave the disk as it was.
func refused(t *testing.T, dir, want string, args ...string) {
	t.Helper()
	before := tree(t, dir)
	r := gabion(t, append([]string{"up"}, args...)...)
	r.want(t, 1, want)
	if strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "gabion: ") || r.out != "" {
		t.Errorf("not one clear line:\n%s%s", r.out, r.err)
	}
	if after := tree(t, dir); after != before {
		t.Errorf("changed the disk, before:\n%s\nafter:\n%s", before, after)
	}
}

func TestRefusedDataDirectories(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		make       func(dir string) error
	}{
		{"newer", "written by a newer gabion", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "format"), []byte("gabion-data 999\n{}\n"), 0o600)
		}},
		{"foreign", "not a gabion data directory", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600)
		}},
		{"damaged", "damaged", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "format"), []byte("gabion-data 1\n{}\n"), 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.make(dir); err != nil {
				t.Fatal(err)
			}
			refused(t, dir, c.want, "--data", dir, anyPort)
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, filepath.Dir(file), "it is a file", "--data", file, anyPort)
}

func TestRefusedBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	refused(t, dir, "the address is in use", "--data", data, "--dav", l.Addr().String())
	refused(t, dir, "the mount point does not exist; create it first", "--data", data, anyPort, "--mount", filepath.Join(dir, "nowhere"))
	refused(t, dir, "is not a directory", "--data", data, anyPort, "--mount", "/etc/passwd")
	refused(t, dir, "can be met", "--data", data, anyPort, "--asds", "3", "--policy", "4,2,5,6")
	refused(t, dir, "can be met", "--data", data, anyPort, "--asds", "6", "--policy", "4,2,5,3")
	refused(t, dir, "must lie apart", "--data", data, anyPort, "--mount", dir)
	refused(t, dir, "no such file", "--data", data, "--dav", "127.0.0.1:0", "--dav-user", "a", "--dav-password-file", filepath.Join(dir, "none"))
	// A disk that cannot be claimed.
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "something"), 0o700); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "not empty", "--data", data, anyPort, "--asd", full)
}

func TestBusyMountPoint(t *testing.T) {
	t.Parallel()
	needRoot(t)
	mnt := mountPoint(t)
	if err := syscall.Mount("none", mnt, "tmpfs", 0, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer syscall.Unmount(mnt, 0)
	dir := t.TempDir()
	refused(t, dir, "something is mounted there already", "--data", filepath.Join(dir, "data"), anyPort, "--mount", mnt)
}

func TestContradictions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	up(t, "--data", data, anyPort, "--asds", "3").stop()
	refused(t, dir, "was made with 3 disks", "--data", data, anyPort, "--asds", "4")
	refused(t, dir, "was made with policies", "--data", data, anyPort, "--policy", "1,0,1,1")
	up(t, "--data", data, anyPort, "--asds", "3", "--policy", "2,1,2,3", "--policy", "1,1,2,2", "--policy", "1,0,1,1").stop()
}

// TestStaleMount kills the process, which leaves "transport endpoint is not connected", and starts again.
func TestStaleMount(t *testing.T) {
	t.Parallel()
	mnt := mountPoint(t)
	data := filepath.Join(t.TempDir(), "data")
	p := up(t, "--data", data, "--mount", mnt, "--dav", "off")
	sh(t, `echo kept > "$1/f"; sync "$1/f"`, mnt)
	p.crash()
	var st syscall.Statfs_t // which the kernel does not cache
	if err := syscall.Statfs(mnt, &st); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("no stale mount was left: %v", err)
	}
	p = up(t, "--data", data, "--mount", mnt, "--dav", "off")
	if got := sh(t, `cat "$1/f"`, mnt); got != "kept\n" {
		t.Errorf("after the crash: %q", got)
	}
	p.stop()
	gabion(t, "fsck", "--data", data).want(t, 0, "clean")
}

// TestCrashWhileCreating kills the first start at many moments; the next one always works.
func TestCrashWhileCreating(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		data := filepath.Join(t.TempDir(), "data")
		cmd := exec.Command(binary, "up", "--data", data, anyPort, "--asds", "2")
		cmd.Dir, cmd.Env = t.TempDir(), environment()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 25 * time.Millisecond) // any moment is right
		cmd.Process.Kill()
		cmd.Wait()
		p := up(t, "--data", data, anyPort)
		gabion(t, "status", "--data", data, "--json").want(t, 0, fmt.Sprintf(`"data": %q`, data))
		p.stop()
	}
}

// TestBusyUnmount stops while a program still uses the mount.
// TestCopiedMount: a mount namespace that was made while the mount was there has a copy of it, as containers do.
func TestCopiedMount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	mnt := mountPoint(t)
	p := up(t, "--data", filepath.Join(t.TempDir(), "data"), "--mount", mnt, "--dav", "off")
	cmd := exec.Command("unshare", "-m", "sh", "-euc", letGo+`echo copied; read x`, "sh", mnt)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "copied\n" {
		t.Fatalf("%q %v", line, err)
	}
	p.stop()
	p.says("another mount namespace")
}

// letGo is shell that detaches the mounts of others from a new mount namespace, all but "$1". It has copies of
// all that were there when it was made, and tests beside this one wait for theirs to end.
const letGo = `awk -v keep="$1" '($1 ~ "^/dev/loop" || $3 ~ "^fuse") && $2 != keep { print $2 }' /proc/mounts |
	while read m; do umount -lnc "$m" || true; done
`

func TestBusyUnmount(t *testing.T) {
	t.Parallel()
	mnt := mountPoint(t)
	p := up(t, "--data", filepath.Join(t.TempDir(), "data"), "--mount", mnt, "--dav", "off")
	user := exec.Command("sh", "-c", `cd "$1" && echo there && exec sleep 60`, "sh", mnt)
	out, err := user.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { user.Process.Kill(); user.Wait() }()
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p.says("the mount is in use by sleep")
	if out := sh(t, `ls -A "$1"`, mnt); out != "" {
		t.Errorf("still mounted: %s", out)
	}
}

// TestForced sends a second signal while an upload keeps the first from ending the process.
func TestForced(t *testing.T) {
	t.Parallel()
	p := up(t, "--data", filepath.Join(t.TempDir(), "data"), anyPort, "--asds", "1", "--log-level", "info")
	c, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(p.dav, "http://"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PUT /f HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n", c.RemoteAddr())
	if _, err := c.Read(make([]byte, 64)); err != nil { // "continue": the request is under way
		t.Fatal(err)
	}
	p.cmd.Process.Signal(syscall.SIGINT)
	p.says("msg=stopping")
	for ended := false; !ended; { // right after the first it is taken for the same one
		p.cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-p.ended:
			ended = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d after a second signal", code)
	}
	p.says("forced")
}

// TestUnmountedFromOutside: WebDAV goes on; without it there is nothing left to do.
func TestUnmountedFromOutside(t *testing.T) {
	needRoot(t)
	t.Parallel()
	mnt, data := mountPoint(t), filepath.Join(t.TempDir(), "data")
	p := up(t, "--data", data, "--mount", mnt, anyPort)
	if err := syscall.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
	p.says("unmounted from outside; WebDAV goes on")
	sh(t, `curl -sf "$1" > /dev/null`, p.dav)
	gabion(t, "status", "--data", data).want(t, 0, "mount        -")
	p.stop()

	p = up(t, "--data", data, "--mount", mnt, "--dav", "off", "--log-level", "info")
	if err := syscall.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.says("WebDAV is off: stopping")
}

// BenchmarkUp measures the time from the start of the process to its ready line, and to its end after a
// signal: of a new data directory, and of one that is there.
func BenchmarkUp(b *testing.B) {
	for _, fresh := range []bool{true, false} {
		b.Run(fmt.Sprintf("new=%v", fresh), func(b *testing.B) {
			dir := b.TempDir()
			for i := range b.N {
				data := filepath.Join(dir, "data")
				if fresh {
					data = filepath.Join(dir, fmt.Sprint(i))
				}
				cmd := exec.Command(binary, "up", "--data", data, anyPort)
				out, err := cmd.StdoutPipe()
				if err != nil {
					b.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				if _, err := out.Read(make([]byte, 1)); err != nil {
					b.Fatal(err)
				}
				cmd.Process.Signal(syscall.SIGINT)
				if err := cmd.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
