package mounttest

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func utimens(c *kase) {
	c.needRoot()
	path := c.path("f")
	c.write(path, "x")
	c.ok(os.Chown(path, alice, team))
	c.ok(os.Chmod(path, 0o666))
	set := func(a, m unix.Timespec) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{a, m}, 0)
	}
	now, omit := unix.Timespec{Nsec: unix.UTIME_NOW}, unix.Timespec{Nsec: unix.UTIME_OMIT}
	at := unix.Timespec{Sec: 1_000_000_000, Nsec: 1}
	c.ok(set(at, at))
	c.ok(set(omit, omit))
	if st := c.lstat(path); st.Atim != at || st.Mtim != at {
		c.Errorf("%+v", st)
	}
	c.ok(set(unix.Timespec{Sec: 5}, omit))
	if st := c.lstat(path); st.Atim != (unix.Timespec{Sec: 5}) || st.Mtim != at {
		c.Errorf("%+v", st)
	}
	c.as(bob, bob, nil, func() { // may write, is not the owner: may set to now, and nothing else
		c.ok(set(now, now))
		c.want(set(at, at), unix.EPERM)
		c.want(set(now, omit), unix.EPERM)
		c.want(set(omit, now), unix.EPERM)
		c.ok(set(omit, omit))
	})
	if st := c.lstat(path); time.Since(time.Unix(st.Mtim.Unix())) > time.Minute {
		c.Errorf("now is %v", st.Mtim)
	}
	c.ok(os.Chmod(path, 0o644))
	c.as(bob, bob, nil, func() { c.want(set(now, now), unix.EACCES) })
	c.as(alice, alice, nil, func() { c.ok(set(at, now)) })
	c.ok(os.Symlink("f", c.path("l")))
	c.ok(unix.UtimesNanoAt(unix.AT_FDCWD, c.path("l"), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
	if st := c.lstat(c.path("l")); st.Mtim != at {
		c.Errorf("of the symlink: %+v", st)
	}
	far := unix.Timespec{Sec: 1 << 33, Nsec: 999_999_999} // past 2106
	c.ok(set(far, far))
	if st := c.lstat(path); st.Mtim != far {
		c.Errorf("far: %+v", st.Mtim)
	}
}

// directoryTimes: what changes a directory moves its times, and what fails does not.
func directoryTimes(c *kase) {
	moved := func(what, path string, op func() error) {
		c.Helper()
		before := c.lstat(path)
		time.Sleep(time.Millisecond)
		c.ok(op(), what)
		if st := c.lstat(path); st.Mtim == before.Mtim || st.Ctim == before.Ctim {
			c.Errorf("%s left the times of %s", what, path)
		}
	}
	stayed := func(what, path string, op func()) {
		c.Helper()
		before := c.lstat(path)
		time.Sleep(time.Millisecond)
		op()
		if st := c.lstat(path); st != before {
			c.Errorf("%s changed %s from %+v to %+v", what, path, before, st)
		}
	}
	d, e := c.mkdir("d"), c.mkdir("e")
	in := func(name string) string { return filepath.Join(d, name) }
	moved("create", d, func() error { return os.WriteFile(in("f"), nil, 0o644) })
	moved("mkdir", d, func() error { return os.Mkdir(in("sub"), 0o755) })
	moved("symlink", d, func() error { return os.Symlink("x", in("l")) })
	moved("mkfifo", d, func() error { return unix.Mkfifo(in("p"), 0o644) })
	moved("link", d, func() error { return os.Link(in("f"), in("g")) })
	moved("rename", d, func() error { return os.Rename(in("g"), in("h")) })
	moved("rename out", d, func() error { return os.Rename(in("h"), filepath.Join(e, "h")) })
	moved("rename in", d, func() error { return os.Rename(filepath.Join(e, "h"), in("h")) })
	moved("unlink", d, func() error { return os.Remove(in("h")) })
	moved("rmdir", d, func() error { return os.Remove(in("sub")) })
	stayed("failing", d, func() {
		c.want(unix.Mkdir(in("f"), 0o755), unix.EEXIST)
		c.want(unix.Unlink(in("none")), unix.ENOENT)
		c.want(unix.Rename(in("none"), in("x")), unix.ENOENT)
		c.want(unix.Rmdir(in("f")), unix.ENOTDIR)
	})
	stayed("writing to a file", d, func() { c.write(in("f"), "content") })
	stayed("listing", d, func() {
		_, err := os.ReadDir(d)
		c.ok(err)
	})
	ctime := func(what, path string, op func() error) {
		c.Helper()
		before := c.lstat(path)
		time.Sleep(time.Millisecond)
		c.ok(op(), what)
		if st := c.lstat(path); st.Mtim != before.Mtim || st.Ctim == before.Ctim {
			c.Errorf("%s: %+v became %+v", what, before, st)
		}
	}
	ctime("link", in("f"), func() error { return os.Link(in("f"), in("g")) })
	ctime("unlink of another link", in("f"), func() error { return os.Remove(in("g")) })
	ctime("setxattr", in("f"), func() error { return unix.Setxattr(in("f"), "user.a", []byte("v"), 0) })
	ctime("removexattr", in("f"), func() error { return unix.Removexattr(in("f"), "user.a") })
	fd := c.open(in("f"), unix.O_RDONLY, 0)
	before := c.fstat(fd)
	time.Sleep(time.Millisecond)
	c.ok(os.Rename(in("f"), in("f2")))
	if st := c.fstat(fd); st.Ctim == before.Ctim || st.Mtim != before.Mtim {
		c.Errorf("rename: %+v became %+v", before, st)
	}
}

func xattr(c *kase) {
	path := c.path("f")
	c.write(path, "")
	c.ok(unix.Setxattr(path, "user.a", []byte("value"), 0))
	c.want(unix.Setxattr(path, "user.a", nil, unix.XATTR_CREATE), unix.EEXIST)
	c.want(unix.Setxattr(path, "user.b", nil, unix.XATTR_REPLACE), unix.ENODATA)
	c.ok(unix.Setxattr(path, "user.empty", nil, 0))
	buf := make([]byte, 100)
	n, err := unix.Getxattr(path, "user.a", buf)
	if c.ok(err); string(buf[:n]) != "value" {
		c.Errorf("%q", buf[:n])
	}
	if n, err := unix.Getxattr(path, "user.a", nil); n != 5 || err != nil {
		c.Errorf("its size is %d, %v", n, err)
	}
	_, err = unix.Getxattr(path, "user.a", buf[:2])
	c.want(err, unix.ERANGE)
	if n, err := unix.Getxattr(path, "user.empty", buf); n != 0 || err != nil {
		c.Errorf("the empty one: %d, %v", n, err)
	}
	_, err = unix.Getxattr(path, "user.none", buf)
	c.want(err, unix.ENODATA)
	big := noise(1, 64<<10)
	c.ok(unix.Setxattr(path, "user.big", big, 0))
	got := make([]byte, 64<<10)
	if n, err := unix.Getxattr(path, "user.big", got); err != nil || string(got[:n]) != string(big) {
		c.Errorf("the largest: %d, %v", n, err)
	}
	c.want(unix.Setxattr(path, "user.big", append(big, 0), 0), unix.E2BIG)
	c.want(unix.Setxattr(path, "user."+strings.Repeat("n", 251), nil, 0), unix.ERANGE)
	c.want(unix.Setxattr(path, "other.a", nil, 0), unix.EOPNOTSUPP)
	c.want(unix.Setxattr(path, "system.posix_acl_access", []byte{2, 0, 0, 0}, 0), unix.EOPNOTSUPP)
	n, err = unix.Listxattr(path, got)
	if c.ok(err); string(got[:n]) != "user.a\x00user.big\x00user.empty\x00" {
		c.Errorf("the list is %q", got[:n])
	}
	if m, err := unix.Listxattr(path, nil); m != n || err != nil {
		c.Errorf("the list has %d bytes, %v", m, err)
	}
	_, err = unix.Listxattr(path, got[:3])
	c.want(err, unix.ERANGE)
	c.ok(unix.Removexattr(path, "user.a"))
	c.want(unix.Removexattr(path, "user.a"), unix.ENODATA)
	c.ok(unix.Setxattr(c.dir, "user.dir", []byte("d"), 0))
	c.ok(os.Symlink("f", c.path("l")))
	c.want(unix.Lsetxattr(c.path("l"), "user.a", nil, 0), unix.EPERM)
	if os.Geteuid() != 0 {
		return
	}
	c.ok(unix.Lsetxattr(c.path("l"), "trusted.a", []byte("t"), 0))
	c.ok(unix.Setxattr(path, "trusted.a", []byte("t"), 0))
	c.ok(unix.Setxattr(path, "security.other", []byte("s"), 0))
	c.ok(os.Chmod(path, 0o644))
	c.as(bob, bob, nil, func() {
		n, err := unix.Listxattr(path, got)
		if c.ok(err); strings.Contains(string(got[:n]), "trusted") || !strings.Contains(string(got[:n]), "security.other") {
			c.Errorf("an ordinary user sees %q", got[:n])
		}
		_, err = unix.Getxattr(path, "trusted.a", got)
		c.want(err, unix.ENODATA)
		c.want(unix.Setxattr(path, "user.a", nil, 0), unix.EACCES)
		c.want(unix.Setxattr(path, "trusted.b", nil, 0), unix.EPERM)
	})
}
