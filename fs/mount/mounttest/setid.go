package mounttest

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// setID: who writes, truncates, allocates or gives a program away takes its set-ID bits; unless root writes.
func setID(c *kase) {
	c.needRoot()
	path := c.path("f")
	reset := func(mode uint32) {
		c.Helper()
		_ = os.Remove(path)
		c.ok(os.WriteFile(path, []byte("program"), 0o777))
		c.ok(os.Chown(path, alice, team))
		c.ok(unix.Chmod(path, mode))
	}
	wantMode := func(what string, mode uint32) {
		c.Helper()
		if st := c.lstat(path); st.Mode&0o7777 != mode {
			c.Errorf("after %s the mode is %o, want %o", what, st.Mode&0o7777, mode)
		}
	}
	for what, op := range map[string]func() error{
		"write": func() error {
			return withFile(path, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
		},
		"truncate": func() error { return unix.Truncate(path, 3) },
		"O_TRUNC":  func() error { fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC, 0); unix.Close(fd); return err },
		"allocate": func() error { return withFile(path, func(fd int) error { return unix.Fallocate(fd, 0, 0, 100) }) },
		"copy": func() error {
			return withFile(path, func(fd int) error {
				a, b := int64(0), int64(100)
				_, err := unix.CopyFileRange(fd, &a, fd, &b, 3, 0)
				return err
			})
		},
	} {
		reset(0o6777)
		c.as(bob, bob, nil, func() { c.ok(op(), what) })
		wantMode(what, 0o777)
		reset(0o6767)
		c.as(bob, bob, nil, func() { c.ok(op(), what) })
		if st := c.lstat(path); st.Mode&unix.S_ISUID != 0 {
			c.Errorf("after %s the mode is %o", what, st.Mode)
		}
		reset(0o6777)
		c.ok(op(), what)
		wantMode(what+" by root", 0o6777)
	}
	reset(0o6777)
	c.ok(os.Chown(path, bob, -1))
	wantMode("chown", 0o777)
	reset(0o6777)
	c.ok(os.Chown(path, -1, bob))
	wantMode("chgrp", 0o777)
	d := c.mkdir("d")
	c.ok(unix.Chmod(d, 0o6777))
	c.ok(os.Chown(d, bob, bob))
	if st := c.lstat(d); st.Mode&0o7777 != 0o6777 {
		c.Errorf("chown of a directory left %o", st.Mode)
	}
	// a program with the bits, written through a descriptor from before
	reset(0o6777)
	c.as(bob, bob, nil, func() {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND, 0)
		c.ok(err)
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("y"))
		c.ok(err)
	})
	wantMode("append", 0o777)
}

func withFile(path string, fn func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return fn(fd)
}

// fileCapabilities: writing takes them away, through whichever descriptor.
func fileCapabilities(c *kase) {
	c.needRoot()
	caps := make([]byte, 20)
	binary.LittleEndian.PutUint32(caps, 0x02000000)
	binary.LittleEndian.PutUint32(caps[4:], 1<<10)
	for what, flags := range map[string]int{"created": unix.O_CREAT | unix.O_WRONLY, "opened": unix.O_WRONLY, "read and written": unix.O_RDWR} {
		path := c.path(strings.ReplaceAll(what, " ", "-"))
		if flags&unix.O_CREAT == 0 {
			c.write(path, "program")
		}
		fd := c.open(path, flags, 0o755)
		for range 2 { // also a second time
			c.ok(unix.Setxattr(path, "security.capability", caps, 0), what)
			if _, err := unix.Getxattr(path, "security.capability", make([]byte, 100)); err != nil {
				c.Errorf("%s: they are not there: %v", what, err)
			}
			_, err := unix.Write(fd, []byte("changed"))
			c.ok(err)
			_, err = unix.Getxattr(path, "security.capability", make([]byte, 100))
			c.want(err, unix.ENODATA, what)
		}
		c.ok(unix.Setxattr(path, "security.capability", caps, 0), what)
		c.ok(unix.Truncate(path, 1))
		_, err := unix.Getxattr(path, "security.capability", make([]byte, 100))
		c.want(err, unix.ENODATA, what, "truncate")
		c.ok(unix.Setxattr(path, "security.capability", caps, 0), what)
		c.ok(os.Chown(path, alice, team))
		_, err = unix.Getxattr(path, "security.capability", make([]byte, 100))
		c.want(err, unix.ENODATA, what, "chown")
	}
}

func setuidProgram(c *kase) {
	c.needRoot()
	self, err := os.ReadFile("/proc/self/exe")
	c.ok(err)
	path := c.path("program")
	c.ok(os.WriteFile(path, self, 0o755))
	c.ok(os.Chown(path, alice, team))
	c.ok(unix.Chmod(path, 0o6755))
	cmd := Role("id")
	cmd.Path = path
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("0 %d 0 %d\n", alice, team); err != nil || string(out) != want {
		c.Errorf("it runs as %q, %v; want %q", out, err, want)
	}
}
