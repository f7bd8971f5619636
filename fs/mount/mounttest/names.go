package mounttest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// posix runs the cases of go-fuse's own suite.
func posix(c *kase) {
	for name, fn := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue // wants a POSIX lock to keep out its own process, which no filesystem does
		}
		c.Run(name, func(t *testing.T) {
			dir := filepath.Join(c.dir, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			fn(t, dir)
		})
	}
}

func kinds(c *kase) {
	c.ok(unix.Mkfifo(c.path("fifo"), 0o640))
	l, err := net.Listen("unix", c.path("socket"))
	c.ok(err)
	defer l.Close()
	c.ok(os.Symlink("target", c.path("symlink")))
	c.write(c.path("file"), "x")
	c.mkdir("dir")
	want := map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "symlink": unix.S_IFLNK, "file": unix.S_IFREG, "dir": unix.S_IFDIR}
	if os.Geteuid() == 0 {
		c.ok(unix.Mknod(c.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		c.ok(unix.Mknod(c.path("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
		want["null"], want["block"] = unix.S_IFCHR, unix.S_IFBLK
		if st := c.lstat(c.path("block")); st.Rdev != unix.Mkdev(259, 70000) {
			c.Errorf("the device is %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		c.ok(os.WriteFile(c.path("null"), []byte("swallowed"), 0))
		c.wantFile(c.path("null"), "")
	}
	for name, kind := range want {
		if st := c.lstat(c.path(name)); st.Mode&unix.S_IFMT != kind {
			c.Errorf("%s has mode %o", name, st.Mode)
		}
	}
	entries, err := os.ReadDir(c.dir)
	c.ok(err)
	for _, e := range entries {
		var st unix.Stat_t
		c.ok(unix.Lstat(c.path(e.Name()), &st))
		if got := e.Type(); got != fileMode(st.Mode) {
			c.Errorf("%s is listed as %v", e.Name(), got)
		}
	}
	conn, err := net.Dial("unix", c.path("socket"))
	c.ok(err)
	conn.Close()
	// a fifo works between two ends
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(c.path("fifo"), []byte("through"), 0) }()
	c.wantFile(c.path("fifo"), "through")
	c.ok(<-done)
	if fd, err := unix.Open(c.path("socket"), unix.O_RDONLY, 0); !errors.Is(err, unix.ENXIO) {
		c.Errorf("opening a socket: %d, %v", fd, err)
	}
	if fd, err := unix.Open(c.path("fifo"), unix.O_WRONLY|unix.O_NONBLOCK, 0); !errors.Is(err, unix.ENXIO) {
		c.Errorf("opening a fifo that nobody reads: %d, %v", fd, err)
	}
	if target, err := os.Readlink(c.path("symlink")); err != nil || target != "target" {
		c.Errorf("readlink: %q, %v", target, err)
	}
}

func fileMode(mode uint32) os.FileMode {
	return map[uint32]os.FileMode{
		unix.S_IFIFO: os.ModeNamedPipe, unix.S_IFSOCK: os.ModeSocket, unix.S_IFLNK: os.ModeSymlink, unix.S_IFREG: 0,
		unix.S_IFDIR: os.ModeDir, unix.S_IFCHR: os.ModeDevice | os.ModeCharDevice, unix.S_IFBLK: os.ModeDevice,
	}[mode&unix.S_IFMT]
}

func limits(c *kase) {
	long := strings.Repeat("x", 255)
	c.write(c.path(long), "long")
	c.wantFile(c.path(long), "long")
	_, err := os.Stat(c.path(long + "x"))
	c.want(err, unix.ENAMETOOLONG)
	c.want(os.WriteFile(c.path(long+"x"), nil, 0o644), unix.ENAMETOOLONG)
	c.want(unix.Mkdir(c.path(long+"x"), 0o755), unix.ENAMETOOLONG)
	c.want(unix.Rename(c.path(long), c.path(long+"x")), unix.ENAMETOOLONG)
	c.want(unix.Symlink("x", c.path(long+"x")), unix.ENAMETOOLONG)
	c.want(unix.Link(c.path(long), c.path(long+"x")), unix.ENAMETOOLONG)
	for _, name := range []string{" ", "\n", "ü", "\xff\xfe", "...", "-rf", "*"} {
		c.write(c.path(name), name)
		c.wantFile(c.path(name), name)
	}

	// a path of 4095 bytes and its zero byte is the longest there can be
	path := c.path("deep")
	c.ok(os.Mkdir(path, 0o755))
	for len(path)+202 < 4095-2 {
		path += "/" + strings.Repeat("d", 200)
		c.ok(unix.Mkdir(path, 0o755))
	}
	last := path + "/" + strings.Repeat("f", 4095-len(path)-1)
	c.write(last, "at the end")
	c.wantFile(last, "at the end")
	_, err = os.Stat(last + "f")
	c.want(err, unix.ENAMETOOLONG)

	c.ok(os.Symlink(strings.Repeat("t", 4095), c.path("longest")))
	target, err := os.Readlink(c.path("longest"))
	if c.ok(err); len(target) != 4095 {
		c.Errorf("the target has %d bytes", len(target))
	}
	c.want(unix.Symlink(strings.Repeat("t", 4096), c.path("longer")), unix.ENAMETOOLONG)
	c.want(unix.Symlink("", c.path("empty")), unix.ENOENT)

	c.ok(os.Symlink("loop2", c.path("loop1")))
	c.ok(os.Symlink("loop1", c.path("loop2")))
	_, err = os.Stat(c.path("loop1"))
	c.want(err, unix.ELOOP)
	_, err = unix.Open(c.path("longest"), unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	c.want(err, unix.ELOOP)
	c.write(c.path("file"), "")
	_, err = os.Stat(c.path("file", "below"))
	c.want(err, unix.ENOTDIR)
	_, err = unix.Open(c.path("file")+"/", unix.O_RDONLY, 0)
	c.want(err, unix.ENOTDIR)
	_, err = unix.Open(c.path("new")+"/", unix.O_CREAT|unix.O_WRONLY, 0o644)
	c.want(err, unix.EISDIR)
	_, err = unix.Open(c.dir, unix.O_WRONLY, 0)
	c.want(err, unix.EISDIR)
	_, err = unix.Open(c.path("file"), unix.O_DIRECTORY, 0)
	c.want(err, unix.ENOTDIR)
	_, err = unix.Open(c.path("file"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	c.want(err, unix.EEXIST)
}

func links(c *kase) {
	c.write(c.path("a"), "content")
	c.ok(os.Link(c.path("a"), c.path("b")))
	if st := c.lstat(c.path("b")); st.Nlink != 2 || st.Ino != c.lstat(c.path("a")).Ino {
		c.Errorf("%+v", st)
	}
	c.write(c.path("b"), "changed")
	c.wantFile(c.path("a"), "changed")
	before := c.lstat(c.path("b"))
	c.ok(os.Remove(c.path("a")))
	if st := c.lstat(c.path("b")); st.Nlink != 1 || st.Ctim == before.Ctim || st.Mtim != before.Mtim {
		c.Errorf("after unlink: %+v, before: %+v", st, before)
	}
	d := c.mkdir("d")
	c.want(unix.Link(d, c.path("d2")), unix.EPERM)
	c.want(unix.Link(c.path("none"), c.path("x")), unix.ENOENT)
	c.want(unix.Link(c.path("b"), d), unix.EEXIST)
	c.want(unix.Unlink(d), unix.EISDIR)
	c.want(unix.Rmdir(c.path("b")), unix.ENOTDIR)
	c.want(unix.Rmdir(d+"/."), unix.EINVAL)
	c.want(unix.Rmdir(d+"/.."), unix.ENOTEMPTY)
	c.want(unix.Rmdir(c.dir), unix.ENOTEMPTY)
	if st := c.lstat(c.dir); st.Nlink != 3 {
		c.Errorf("a directory with one subdirectory has %d links", st.Nlink)
	}
	c.ok(os.Symlink("b", c.path("s")))
	c.ok(unix.Linkat(unix.AT_FDCWD, c.path("s"), unix.AT_FDCWD, c.path("s2"), 0))
	if st := c.lstat(c.path("s2")); st.Nlink != 2 || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		c.Errorf("a link to a symlink: %+v", st)
	}
}

func renames(c *kase) {
	rename := func(a, b string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, c.path(a), unix.AT_FDCWD, c.path(b), flags)
	}
	c.write(c.path("a"), "a")
	c.write(c.path("b"), "b")
	c.want(rename("a", "b", unix.RENAME_NOREPLACE), unix.EEXIST)
	c.ok(rename("a", "b", unix.RENAME_EXCHANGE))
	c.wantFile(c.path("a"), "b")
	c.wantFile(c.path("b"), "a")
	c.want(rename("a", "none", unix.RENAME_EXCHANGE), unix.ENOENT)
	c.ok(rename("a", "c", unix.RENAME_NOREPLACE))
	c.want(rename("c", "w", unix.RENAME_WHITEOUT), unix.EINVAL)
	c.want(rename("none", "c", 0), unix.ENOENT)

	// over a file that is open: who has it open keeps it
	fd := c.open(c.path("b"), unix.O_RDONLY, 0)
	c.ok(rename("c", "b", 0))
	buf := make([]byte, 10)
	if n, err := unix.Pread(fd, buf, 0); err != nil || string(buf[:n]) != "a" {
		c.Errorf("the old file reads %q, %v", buf[:n], err)
	}
	if st := c.fstat(fd); st.Nlink != 0 {
		c.Errorf("the old file has %d links", st.Nlink)
	}
	c.wantFile(c.path("b"), "b")

	// directories
	d, e := c.mkdir("d"), c.mkdir("e")
	c.mkdir("d", "sub")
	c.want(rename("d", "d/sub/x", 0), unix.EINVAL)
	c.want(rename("d/sub", "d", 0), unix.ENOTEMPTY)
	c.want(rename("d", "b", 0), unix.ENOTDIR)
	c.want(rename("b", "d", 0), unix.EISDIR)
	c.want(rename("e", "d", 0), unix.ENOTEMPTY)
	c.ok(rename("d/sub", "e/sub", 0))
	if a, b := c.lstat(d).Nlink, c.lstat(e).Nlink; a != 2 || b != 3 {
		c.Errorf("links are %d and %d", a, b)
	}
	if st := c.lstat(c.path("e/sub/..")); st.Ino != c.lstat(e).Ino {
		c.Error(`".." did not move`)
	}
	c.ok(rename("d", "e/sub", 0)) // over an empty directory
	c.ok(rename("e/sub", "d", unix.RENAME_NOREPLACE))
	c.ok(rename("d", "b", unix.RENAME_EXCHANGE))
	c.wantFile(c.path("d"), "b")
	if st := c.lstat(c.path("b")); st.Mode&unix.S_IFMT != unix.S_IFDIR {
		c.Error("a file and a directory were not exchanged")
	}
	c.want(unix.Rename(c.path("b")+"/.", c.path("z")), unix.EBUSY)
}

// unlinked: a file without a name works on until it is closed.
func unlinked(c *kase) {
	fd := c.open(c.path("f"), unix.O_RDWR|unix.O_CREAT, 0o644)
	_, err := unix.Write(fd, []byte("still "))
	c.ok(err)
	before := c.fstat(fd)
	c.ok(unix.Unlink(c.path("f")))
	if st := c.fstat(fd); st.Nlink != 0 || st.Ino != before.Ino || st.Ctim == before.Ctim {
		c.Errorf("%+v", st)
	}
	_, err = unix.Write(fd, []byte("here"))
	c.ok(err)
	c.ok(unix.Fsync(fd))
	c.ok(unix.Fchmod(fd, 0o600))
	c.ok(unix.Ftruncate(fd, 9))
	buf := make([]byte, 20)
	n, err := unix.Pread(fd, buf, 0)
	if c.ok(err); string(buf[:n]) != "still her" {
		c.Errorf("reads %q", buf[:n])
	}
	if st := c.fstat(fd); st.Size != 9 || st.Mode&0o777 != 0o600 {
		c.Errorf("%+v", st)
	}
	c.ok(unix.Fsetxattr(fd, "user.a", []byte("v"), 0))
	c.write(c.path("f"), "another")
	if c.lstat(c.path("f")).Ino == before.Ino {
		c.Error("the inode number is used again")
	}
	c.want(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, c.path("back"), unix.AT_SYMLINK_FOLLOW), unix.ENOENT)
}

// deletedCwd works in a directory that is gone.
func deletedCwd(c *kase) {
	d := c.mkdir("d")
	old, err := os.Getwd()
	c.ok(err)
	c.ok(unix.Chdir(d))
	defer func() { c.ok(unix.Chdir(old)) }()
	c.ok(unix.Rmdir(d))
	var st unix.Stat_t
	c.ok(unix.Stat(".", &st))
	if st.Nlink != 0 {
		c.Errorf("it has %d links", st.Nlink)
	}
	_, err = unix.Open("new", unix.O_CREAT|unix.O_WRONLY, 0o644)
	c.want(err, unix.ENOENT)
	c.want(unix.Mkdir("sub", 0o755), unix.ENOENT)
	_, err = unix.Open("none", unix.O_RDONLY, 0)
	c.want(err, unix.ENOENT)
	fd := c.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	buf := make([]byte, 4096)
	if n, err := unix.Getdents(fd, buf); err != nil && !errors.Is(err, unix.ENOENT) {
		c.Errorf("listing it: %d, %v", n, err)
	}
	_, err = unix.Getcwd(buf)
	c.want(err, unix.ENOENT)
	c.ok(unix.Mkdir(d, 0o755)) // the name is free again
}

func tmpfile(c *kase) {
	fd := c.open(c.dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	if st := c.fstat(fd); st.Nlink != 0 || st.Mode != unix.S_IFREG|0o640 {
		c.Errorf("%+v", st)
	}
	_, err := unix.Write(fd, []byte("named later"))
	c.ok(err)
	c.ok(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, c.path("f"), unix.AT_SYMLINK_FOLLOW))
	c.wantFile(c.path("f"), "named later")
	if st := c.fstat(fd); st.Nlink != 1 {
		c.Errorf("it has %d links", st.Nlink)
	}
	fd = c.open(c.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
	c.want(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, c.path("g"), unix.AT_SYMLINK_FOLLOW), unix.ENOENT)
	if names, err := os.ReadDir(c.dir); err != nil || len(names) != 1 {
		c.Errorf("%v, %v", names, err)
	}
}
