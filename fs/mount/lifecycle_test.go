package mount_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
	"github.com/gabionfs/gabion/fs/mount"
	"github.com/gabionfs/gabion/fs/mount/mounttest"
)

func TestMountErrors(t *testing.T) {
	needFuse(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m := mountModel(t, mount.Options{})
	attach := func(fs.Watcher) fs.FS { t.Error("attached though it could not be mounted"); return memfs.New() }
	for name, c := range map[string]struct {
		dir  string
		want error
	}{
		"missing": {filepath.Join(dir, "none"), mount.ErrMissing}, "file": {file, mount.ErrNotDir},
		"below a file": {filepath.Join(file, "x"), syscall.ENOTDIR}, "not empty": {dir, mount.ErrNotEmpty}, "mounted": {m.dir, mount.ErrMounted},
	} {
		s, err := mount.Mount(t.Context(), c.dir, attach, mount.Options{})
		var e *mount.Error
		if !errors.Is(err, c.want) || !errors.As(err, &e) || !strings.Contains(err.Error(), c.dir) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if cleaned, err := mount.CleanStale(m.dir); cleaned || err != nil {
		t.Errorf("a mount that lives was cleaned: %v, %v", cleaned, err)
	}
	if cleaned, err := mount.CleanStale(dir); cleaned || err != nil {
		t.Errorf("a plain directory was cleaned: %v, %v", cleaned, err)
	}
	if cleaned, err := mount.CleanStale(filepath.Join(dir, "none", "none")); cleaned || err != nil {
		t.Errorf("a missing directory was cleaned: %v, %v", cleaned, err)
	}
	m.shell(t).do("stat", m.dir) // it does live
}

// TestNonEmpty mounts over a directory with entries when told to.
func TestNonEmpty(t *testing.T) {
	needFuse(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hidden"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := mount.Mount(t.Context(), dir, memfs.New().Session, mount.Options{NonEmpty: true})
	if err != nil {
		t.Fatal(err)
	}
	unmount(t, s)
	if _, err := os.Stat(filepath.Join(dir, "hidden")); err != nil {
		t.Error(err)
	}
}

// TestUnmountBusy: a mount in use stays, and the error says by whom; detached it goes, and who uses it
// goes on.
func TestUnmountBusy(t *testing.T) {
	m := mountModel(t, mount.Options{})
	sh := m.shell(t)
	sh.do("write", "f", "content")
	sh.do("open", "f")
	err := m.server.Unmount(t.Context())
	var busy *mount.BusyError
	if !errors.Is(err, mount.ErrBusy) || !errors.As(err, &busy) {
		t.Fatalf("unmounting: %v", err)
	}
	if len(busy.Holders) != 1 || busy.Holders[0].PID != sh.cmd.Process.Pid || !strings.HasPrefix(busy.Holders[0].Path, m.dir) {
		t.Errorf("held by %+v, not by %d", busy.Holders, sh.cmd.Process.Pid)
	}
	if !strings.Contains(err.Error(), fmt.Sprint(sh.cmd.Process.Pid)) {
		t.Error(err)
	}
	if err := m.server.Detach(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "f")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if got := sh.do("pread", "20"); got != "content" {
		t.Errorf("who has it open reads %q", got)
	}
	sh.close()
	m.server.Wait()
	if err := m.server.Unmount(t.Context()); err != nil {
		t.Errorf("unmounting what is gone: %v", err)
	}
	if n := m.inodes(t); n != 2 {
		t.Errorf("%d inodes are held", n)
	}
}

// TestUnmountedByOthers: umount(8) from outside ends the server.
func TestUnmountedByOthers(t *testing.T) {
	m := mountModel(t, mount.Options{})
	m.shell(t).do("write", "f", "x")
	helper := exec.Command("umount", m.dir)
	if os.Geteuid() != 0 {
		helper = exec.Command("fusermount3", "-u", m.dir)
	}
	for { // the shell has just ended, and the kernel may not know yet
		out, err := helper.CombinedOutput()
		if err == nil {
			break
		}
		if !strings.Contains(string(out), "busy") {
			t.Fatalf("%s: %v", out, err)
		}
		helper = exec.Command(helper.Args[0], helper.Args[1:]...)
	}
	m.server.Wait()
}

// TestCleanStale kills the process that serves a mount and cleans up after it.
func TestCleanStale(t *testing.T) {
	needFuse(t)
	dir := t.TempDir()
	for range 2 {
		cmd := mounttest.Role("serve", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(dir, unix.MNT_DETACH) })
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if cleaned, err := mount.CleanStale(dir); cleaned || err != nil {
			t.Fatalf("a mount that lives was cleaned: %v, %v", cleaned, err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if _, err := mount.Mount(t.Context(), dir, memfs.New().Session, mount.Options{}); !errors.Is(err, mount.ErrStale) {
		t.Errorf("mounting over it: %v", err)
	}
	if cleaned, err := mount.CleanStale(dir); !cleaned || err != nil {
		t.Fatalf("cleaned: %v, %v", cleaned, err)
	}
	if cleaned, err := mount.CleanStale(dir); cleaned || err != nil {
		t.Fatalf("cleaned twice: %v, %v", cleaned, err)
	}
	s, err := mount.Mount(t.Context(), dir, memfs.New().Session, mount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	unmount(t, s)
}

func serve(args []string) {
	s, err := mount.Mount(context.Background(), args[0], memfs.New().Session, mount.Options{NonEmpty: true})
	if errors.Is(err, mount.ErrStale) {
		if _, err = mount.CleanStale(args[0]); err == nil {
			s, err = mount.Mount(context.Background(), args[0], memfs.New().Session, mount.Options{})
		}
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	s.Wait()
}

// TestReadOnly: nothing can be changed through a read-only mount.
func TestReadOnly(t *testing.T) {
	m := mountModel(t, mount.Options{ReadOnly: true})
	if _, err := m.fs.Mknod(t.Context(), fs.Cred{}, fs.Root, "f", 0o666, 0); err != nil {
		t.Fatal(err)
	}
	sh := m.shell(t)
	for _, line := range [][]string{{"write", "g", "x"}, {"write", "f", "x"}, {"unlink", "f"}, {"rename", "f", "g"}, {"mkdir", "d"}, {"chmod", "f", "0600"}} {
		if got := sh.try(line...); !strings.Contains(got, syscall.EROFS.Error()) {
			t.Errorf("%v: %s", line, got)
		}
	}
	if got := sh.do("read", "f"); got != "" {
		t.Errorf("reads %q", got)
	}
}

// TestNothingIsHeld: when everything was removed and forgotten, the FS holds nothing but the root.
func TestNothingIsHeld(t *testing.T) {
	m := mountModel(t, mount.Options{})
	sh := m.shell(t)
	for i := range 100 {
		name := fmt.Sprint("f", i)
		sh.do("write", name, "content")
		sh.do("open", name)
		sh.do("unlink", name)
		sh.do("closefd")
		sh.do("mkdir", name)
		sh.do("ls", name)
		sh.do("rmdir", name)
	}
	sh.close()
	if err := m.server.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := m.inodes(t); n != 1 {
		t.Errorf("%d inodes are left", n)
	}
}

// inodes counts the inodes of the model, including those that are only held.
func (m *model) inodes(t *testing.T) uint64 {
	s, err := m.fs.StatFS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Files - s.FilesFree
}

// TestOrdinaryUser mounts as an ordinary user, through fusermount3, in a mount namespace where
// everybody may open /dev/fuse.
func TestOrdinaryUser(t *testing.T) {
	needFuse(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to become an ordinary user; the other tests run as one now")
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip("needs fusermount3")
	}
	dir, err := os.MkdirTemp("", "gabion-mount") // t.TempDir is not for others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := mounttest.Role("ordinary", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// letGo detaches the mounts of others from the mount namespace of this process, which has copies of all that
// there were when it was made: tests beside this one wait for theirs to end.
func letGo() {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && (strings.HasPrefix(f[0], "/dev/loop") || strings.HasPrefix(f[2], "fuse")) {
			_ = unix.Unmount(f[1], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // it may be gone already
		}
	}
}

// ordinary runs in a mount namespace of its own, first as root to prepare it, and then as a user.
func ordinary(args []string) {
	dir := args[0]
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	if os.Geteuid() == 0 {
		letGo()
		must(os.Mkdir(dir+"/dev", 0o755))
		must(unix.Mount("none", dir+"/dev", "tmpfs", 0, ""))
		must(unix.Mknod(dir+"/dev/fuse", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))))
		must(unix.Mount(dir+"/dev/fuse", "/dev/fuse", "", unix.MS_BIND, ""))
		must(os.Mkdir(dir+"/mnt", 0o777))
		must(os.Chmod(dir+"/mnt", 0o777))
		must(os.Chown(dir+"/mnt", 1000, 1000)) // fusermount3 mounts only on what belongs to the user
		self, err := os.ReadFile("/proc/self/exe")
		must(err)
		must(os.WriteFile(dir+"/self", self, 0o755))
		for _, mode := range []os.FileMode{0o600, 0o666} {
			must(os.Chmod(dir+"/dev/fuse", mode))
			cmd := exec.Command(dir + "/self")
			cmd.Env = append(os.Environ(), fmt.Sprintf("GABION_TEST_ARGS=%s\n%o", dir+"/mnt", mode))
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
			out, err := cmd.CombinedOutput()
			os.Stdout.Write(out)
			must(err)
		}
		must(unix.Unmount("/dev/fuse", unix.MNT_DETACH))
		must(unix.Unmount(dir+"/dev", unix.MNT_DETACH))
		return
	}
	m := memfs.New()
	_, err := m.Setattr(context.Background(), fs.Root, fs.SetAttr{Mask: fs.SetUID | fs.SetGID, UID: 1000, GID: 1000})
	must(err)
	s, err := mount.Mount(context.Background(), dir, m.Session, mount.Options{})
	if args[1] == "600" {
		if !errors.Is(err, mount.ErrNotPermitted) {
			panic(fmt.Sprint("mounting without permission: ", err))
		}
		return
	}
	must(err)
	out, err := exec.Command("sh", "-ec", "cd "+dir+"; echo hello > f; cat f; mkdir d; mv f d/g; ls -l d; rm -r d; grep ' "+dir+" ' /proc/mounts").CombinedOutput()
	os.Stdout.Write(out)
	must(err)
	must(s.Unmount(context.Background()))
}
