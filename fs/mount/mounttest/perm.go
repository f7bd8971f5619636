package mounttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// as runs fn on a thread with other credentials. The thread ends with it.
func (c *kase) as(uid, gid int, groups []int, fn func()) {
	c.Helper()
	c.needRoot()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread is not fit for anything else
		raw := func(nr, a, b, d uintptr) {
			if _, _, errno := unix.RawSyscall(nr, a, b, d); errno != 0 {
				panic(errno)
			}
		}
		list := make([]uint32, len(groups)+1)
		for i, g := range groups {
			list[i] = uint32(g)
		}
		raw(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(ptr(&list[0])), 0)
		raw(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
		raw(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		fn()
	}()
	<-done
}

const (
	alice, bob, carol = 1001, 1002, 1003
	team              = 2000
)

// access tries to open a file with each mode as its owner, its group, and others.
func access(c *kase) {
	c.needRoot()
	c.ok(os.Chmod(c.dir, 0o777))
	for mode := uint32(0); mode < 0o10; mode++ {
		for shift, who := range []struct {
			name   string
			uid    int
			gid    int
			groups []int
		}{{"others", carol, carol, nil}, {"group", bob, team, nil}, {"owner", alice, alice, nil}, {"supplementary group", carol, carol, []int{5, team}}} {
			bits := shift
			if who.groups != nil {
				bits = 1
			}
			path := c.path(fmt.Sprintf("f%o-%d", mode, shift))
			c.write(path, "x")
			c.ok(os.Chown(path, alice, team))
			c.ok(os.Chmod(path, os.FileMode(mode<<(3*bits))))
			c.as(who.uid, who.gid, who.groups, func() {
				for flags, need := range map[int]uint32{unix.O_RDONLY: 4, unix.O_WRONLY: 2, unix.O_RDWR: 6, unix.O_RDONLY | unix.O_TRUNC: 6} {
					fd, err := unix.Open(path, flags, 0)
					if err == nil {
						unix.Close(fd)
					}
					allowed := mode&need == need
					if (err == nil) != allowed || err != nil && !errors.Is(err, unix.EACCES) {
						c.Errorf("%s opens mode %o with flags %#x: %v", who.name, mode<<(3*bits), flags, err)
					}
				}
				for bit := uint32(1); bit <= 4; bit *= 2 {
					if err := unix.Faccessat(unix.AT_FDCWD, path, bit, 0); (err == nil) != (mode&bit != 0) {
						c.Errorf("%s may access mode %o with %o: %v", who.name, mode<<(3*bits), bit, err)
					}
				}
				if err := unix.Truncate(path, 0); (err == nil) != (mode&2 != 0) {
					c.Errorf("%s truncates mode %o: %v", who.name, mode<<(3*bits), err)
				}
			})
		}
	}
}

func directoryAccess(c *kase) {
	c.needRoot()
	for _, d := range []struct {
		mode                    os.FileMode
		list, search, mayChange bool
	}{{0o700, false, false, false}, {0o704, true, false, false}, {0o701, false, true, false}, {0o705, true, true, false}, {0o703, false, true, true}, {0o702, false, false, false}} {
		dir := c.mkdir(fmt.Sprintf("d%o", d.mode))
		c.write(filepath.Join(dir, "f"), "content")
		c.ok(os.Chmod(filepath.Join(dir, "f"), 0o666))
		c.ok(os.Chmod(dir, d.mode))
		expect := func(what string, err error, allowed bool) {
			if (err == nil) != allowed || err != nil && !errors.Is(err, unix.EACCES) {
				c.Errorf("mode %o: %s: %v", d.mode, what, err)
			}
		}
		c.as(carol, carol, nil, func() {
			_, err := os.ReadDir(dir)
			expect("list", err, d.list)
			_, err = os.ReadFile(filepath.Join(dir, "f"))
			expect("read", err, d.search)
			var st unix.Stat_t
			expect("stat", unix.Stat(filepath.Join(dir, "f"), &st), d.search)
			expect("chdir", unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, 0), d.search)
			expect("link", unix.Link(filepath.Join(dir, "f"), filepath.Join(dir, "g")), d.mayChange)
			expect("create", os.WriteFile(filepath.Join(dir, "new"), nil, 0o644), d.mayChange)
			expect("mkdir", unix.Mkdir(filepath.Join(dir, "sub"), 0o755), d.mayChange)
			expect("symlink", unix.Symlink("x", filepath.Join(dir, "s")), d.mayChange)
			expect("mkfifo", unix.Mkfifo(filepath.Join(dir, "p"), 0o644), d.mayChange)
			expect("rename", unix.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "r")), d.mayChange)
			if d.mayChange {
				expect("unlink", unix.Unlink(filepath.Join(dir, "r")), true)
				expect("rmdir", unix.Rmdir(filepath.Join(dir, "sub")), true)
			} else {
				expect("unlink", unix.Unlink(filepath.Join(dir, "f")), false)
			}
		})
	}
	// moving a directory needs leave to change its ".."
	from, to := c.mkdir("from"), c.mkdir("to")
	sub := c.mkdir("from", "sub")
	for _, d := range []string{from, to} {
		c.ok(os.Chmod(d, 0o777))
	}
	c.ok(os.Chmod(sub, 0o755)) // root's
	c.as(carol, carol, nil, func() {
		c.want(unix.Rename(sub, filepath.Join(to, "sub")), unix.EACCES)
		c.ok(unix.Rename(sub, filepath.Join(from, "sub2")))
	})
}

// sticky: in a sticky directory only the owner of an entry, or of the directory, removes it.
func sticky(c *kase) {
	c.needRoot()
	for _, isDir := range []bool{false, true} {
		dir := c.mkdir(fmt.Sprint("d", isDir))
		c.ok(os.Chown(dir, alice, team))
		c.ok(unix.Chmod(dir, 0o1777))
		made := func(name string, owner int) string {
			path := filepath.Join(dir, name)
			if isDir {
				c.ok(os.Mkdir(path, 0o777))
			} else {
				c.write(path, "")
			}
			c.ok(os.Chmod(path, 0o777))
			c.ok(os.Chown(path, owner, team))
			return path
		}
		remove := unix.Unlink
		if isDir {
			remove = unix.Rmdir
		}
		bobs, carols, carols2 := made("bob", bob), made("carol", carol), made("carol2", carol)
		c.as(bob, team, nil, func() {
			c.want(remove(carols), unix.EPERM, "remove another's")
			c.want(unix.Rename(carols, carols+"x"), unix.EPERM, "rename another's")
			c.want(unix.Rename(bobs, carols), unix.EPERM, "rename over another's")
			c.ok(unix.Rename(bobs, bobs+"x"))
			c.ok(remove(bobs + "x"))
		})
		c.as(alice, alice, nil, func() { c.ok(remove(carols)) })
		c.as(carol, carol, nil, func() { c.ok(remove(carols2)) })
	}
}

func chmod(c *kase) {
	c.needRoot()
	c.write(c.path("f"), "")
	c.mkdir("d")
	for _, name := range []string{"f", "d"} {
		path := c.path(name)
		for _, mode := range []uint32{0, 0o7777, 0o4755, 0o2755, 0o1777, 0o644} {
			before := c.lstat(path)
			time.Sleep(time.Millisecond)
			c.ok(unix.Chmod(path, mode))
			if st := c.lstat(path); st.Mode&0o7777 != mode || st.Mode&unix.S_IFMT != before.Mode&unix.S_IFMT || st.Ctim == before.Ctim || st.Mtim != before.Mtim {
				c.Errorf("chmod %o of %s: %+v", mode, name, st)
			}
		}
		c.ok(os.Chown(path, alice, team))
		c.as(bob, team, nil, func() { c.want(unix.Chmod(path, 0o777), unix.EPERM, "chmod by another") })
		c.as(alice, alice, nil, func() { // not in the file's group: the bit is dropped
			c.ok(unix.Chmod(path, 0o2755))
			if st := c.lstat(path); st.Mode&unix.S_ISGID != 0 {
				c.Errorf("chmod left set-group-ID on %s: %o", name, st.Mode)
			}
		})
		c.as(alice, team, nil, func() {
			c.ok(unix.Chmod(path, 0o2755))
			if st := c.lstat(path); st.Mode&unix.S_ISGID == 0 {
				c.Errorf("chmod lost set-group-ID on %s: %o", name, st.Mode)
			}
		})
	}
	c.ok(os.Symlink("f", c.path("l")))
	c.want(unix.Fchmodat(unix.AT_FDCWD, c.path("l"), 0o600, unix.AT_SYMLINK_NOFOLLOW), unix.EOPNOTSUPP)
}

func chown(c *kase) {
	c.needRoot()
	path := c.path("f")
	c.write(path, "")
	c.ok(os.Chown(path, alice, alice))
	before := c.lstat(path)
	time.Sleep(time.Millisecond)
	c.ok(os.Chown(path, bob, -1))
	if st := c.lstat(path); st.Uid != bob || st.Gid != alice || st.Ctim == before.Ctim || st.Mtim != before.Mtim {
		c.Errorf("%+v", st)
	}
	c.as(bob, bob, []int{team}, func() {
		c.want(os.Chown(path, carol, -1), unix.EPERM, "give away")
		c.want(os.Chown(path, -1, carol), unix.EPERM, "to a group one is not in")
		c.ok(os.Chown(path, -1, team))
		c.ok(os.Chown(path, bob, team))
	})
	c.as(carol, team, nil, func() { c.want(os.Chown(path, -1, team), unix.EPERM, "another's") })
	c.ok(os.Symlink("none", c.path("l")))
	c.ok(os.Lchown(c.path("l"), alice, team))
	if st := c.lstat(c.path("l")); st.Uid != alice || st.Gid != team {
		c.Errorf("lchown: %+v", st)
	}
	c.ok(os.Chown(path, 1<<32-2, 1<<32-2))
	if st := c.lstat(path); st.Uid != 1<<32-2 {
		c.Errorf("%+v", st)
	}
}

// createOwner: what is created belongs to who creates it, with the umask applied.
func createOwner(c *kase) {
	c.needRoot()
	c.ok(os.Chmod(c.dir, 0o777))
	c.as(bob, team, nil, func() {
		c.ok(os.WriteFile(c.path("f"), nil, 0o666))
		c.ok(os.Mkdir(c.path("d"), 0o777))
		c.ok(unix.Mkfifo(c.path("p"), 0o666))
		c.ok(os.Symlink("x", c.path("l")))
		c.want(unix.Mknod(c.path("dev"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.EPERM)
	})
	for _, name := range []string{"f", "d", "p", "l"} {
		if st := c.lstat(c.path(name)); st.Uid != bob || st.Gid != team {
			c.Errorf("%s: %+v", name, st)
		}
	}
	sh := exec.Command("sh", "-ec", "umask 027; cd "+c.dir+"; : > masked; mkdir maskedd; mkfifo maskedp")
	out, err := sh.CombinedOutput()
	c.ok(err, string(out))
	for name, mode := range map[string]uint32{"masked": 0o640, "maskedd": 0o750, "maskedp": 0o640} {
		if st := c.lstat(c.path(name)); st.Mode&0o7777 != mode {
			c.Errorf("%s has mode %o, want %o", name, st.Mode&0o7777, mode)
		}
	}
	d := c.mkdir("setgid")
	c.ok(os.Chown(d, 0, team))
	c.ok(unix.Chmod(d, 0o2777))
	c.as(bob, bob, nil, func() {
		c.ok(os.WriteFile(filepath.Join(d, "f"), nil, 0o644))
		c.ok(os.Mkdir(filepath.Join(d, "d"), 0o755))
		fd, err := unix.Open(filepath.Join(d, "g"), unix.O_CREAT|unix.O_WRONLY, 0o2755) // not in the group: no such bit
		c.ok(err)
		unix.Close(fd)
	})
	if st := c.lstat(filepath.Join(d, "f")); st.Gid != team || st.Mode&0o7777 != 0o644 {
		c.Errorf("%+v", st)
	}
	if st := c.lstat(filepath.Join(d, "d")); st.Gid != team || st.Mode&0o7777 != 0o2755 {
		c.Errorf("%+v", st)
	}
	if st := c.lstat(filepath.Join(d, "g")); st.Gid != team || st.Mode&0o7777 != 0o755 {
		c.Errorf("%+v", st)
	}
}

// special files are opened with permissions checked.
func special(c *kase) {
	c.needRoot()
	c.ok(unix.Mknod(c.path("zero"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
	fd := c.open(c.path("zero"), unix.O_RDONLY, 0)
	buf := []byte("xxxx")
	if n, err := unix.Read(fd, buf); n != 4 || err != nil || string(buf) != "\x00\x00\x00\x00" {
		c.Errorf("%d, %v, %q", n, err, buf)
	}
	c.ok(unix.Mknod(c.path("none"), unix.S_IFCHR|0o600, int(unix.Mkdev(511, 77))))
	_, err := unix.Open(c.path("none"), unix.O_RDONLY, 0)
	c.want(err, unix.ENXIO)
	c.as(bob, bob, nil, func() {
		_, err := unix.Open(c.path("zero"), unix.O_RDONLY, 0)
		c.want(err, unix.EACCES)
	})
}
