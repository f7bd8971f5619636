package mounttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func copyRange(c *kase) {
	src, dst := c.open(c.path("src"), unix.O_RDWR|unix.O_CREAT, 0o644), c.open(c.path("dst"), unix.O_RDWR|unix.O_CREAT, 0o644)
	want := noise(3, 9<<20)
	_, err := unix.Pwrite(src, want, 0)
	c.ok(err)
	_, err = unix.Pwrite(dst, []byte("old"), 0)
	c.ok(err)
	off, at := int64(0), int64(0)
	for {
		n, err := unix.CopyFileRange(src, &off, dst, &at, 100<<20, 0)
		if c.ok(err); n == 0 {
			break
		}
	}
	c.wantFile(c.path("dst"), string(want))
	if st := c.fstat(dst); st.Size != 9<<20 {
		c.Errorf("%+v", st)
	}
	off, at = 100, 5<<20
	n, err := unix.CopyFileRange(dst, &off, dst, &at, 1<<20, 0)
	if c.ok(err); n != 1<<20 {
		c.Fatalf("copied %d", n)
	}
	copy(want[5<<20:], bytes.Clone(want[100:100+1<<20]))
	c.wantFile(c.path("dst"), string(want))
	off, at = 0, 10
	_, err = unix.CopyFileRange(dst, &off, dst, &at, 1<<20, 0)
	c.want(err, unix.EINVAL)
	// what was mapped of the destination shows the copy
	mem, err := unix.Mmap(dst, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	c.ok(err)
	if mem[0] != want[0] {
		c.Error("the mapping is wrong")
	}
	off, at = 4096, 0
	_, err = unix.CopyFileRange(src, &off, dst, &at, 4096, 0)
	c.ok(err)
	var srcPage [4096]byte
	_, err = unix.Pread(src, srcPage[:], 4096)
	if c.ok(err); !bytes.Equal(mem, srcPage[:]) {
		c.Error("the mapping does not show the copy")
	}
	c.ok(unix.Munmap(mem))
}

// contentTimes: mtime and ctime move with the content, and stat sees it at once.
func contentTimes(c *kase) {
	fd := c.open(c.path("f"), unix.O_RDWR|unix.O_CREAT, 0o644)
	moved := func(what string, op func() error) {
		c.Helper()
		before := c.fstat(fd)
		time.Sleep(time.Millisecond) // so that a new time differs
		c.ok(op(), what)
		st, at := c.fstat(fd), c.lstat(c.path("f"))
		if st.Mtim == before.Mtim || st.Ctim == before.Ctim || at != st {
			c.Errorf("%s: %+v, by name %+v, before %+v", what, st, at, before)
		}
	}
	moved("write", func() error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err })
	moved("write again", func() error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err })
	moved("truncate", func() error { return unix.Ftruncate(fd, 100) })
	moved("truncate to the same", func() error { return unix.Ftruncate(fd, 100) })
	moved("allocate", func() error { return unix.Fallocate(fd, 0, 0, 200) })
	moved("mmap", func() error {
		mem, err := unix.Mmap(fd, 0, 200, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		mem[0] = 'm'
		return errors.Join(unix.Msync(mem, unix.MS_SYNC), unix.Munmap(mem))
	})
	moved("reopen with O_TRUNC", func() error { return os.WriteFile(c.path("f"), nil, 0o644) })

	want := []unix.Timespec{{Sec: 1_234_567_890, Nsec: 123_456_789}, {Sec: -5, Nsec: 999_999_999}}
	c.ok(unix.UtimesNanoAt(unix.AT_FDCWD, c.path("f"), want, 0))
	if st := c.fstat(fd); st.Atim != want[0] || st.Mtim != want[1] {
		c.Errorf("times are %v %v", st.Atim, st.Mtim)
	}
	before := c.fstat(fd)
	_, err := unix.Read(fd, make([]byte, 10))
	c.ok(err)
	if st := c.fstat(fd); st != before {
		c.Errorf("reading changed %+v to %+v", before, st)
	}
}

// big writes past 4 GiB.
func big(c *kase) {
	fd := c.open(c.path("f"), unix.O_RDWR|unix.O_CREAT, 0o644)
	want := noise(4, 3<<20)
	for _, off := range []int64{4<<30 - 1<<20, 9 << 30} {
		n, err := unix.Pwrite(fd, want, off)
		if c.ok(err); n != len(want) {
			c.Fatalf("wrote %d", n)
		}
	}
	c.ok(unix.Fsync(fd))
	for _, off := range []int64{4<<30 - 1<<20, 9 << 30} {
		got := make([]byte, len(want))
		n, err := unix.Pread(fd, got, off)
		if c.ok(err); n != len(want) || !bytes.Equal(got, want) {
			c.Errorf("at %d: %d bytes, equal %v", off, n, bytes.Equal(got, want))
		}
	}
	if st := c.fstat(fd); st.Size != 9<<30+3<<20 {
		c.Errorf("size is %d", st.Size)
	}
	_, err := unix.Pwrite(fd, []byte("x"), 1<<53)
	c.want(err, unix.EFBIG)
	c.want(unix.Ftruncate(fd, 1<<53), unix.EFBIG)
}

// moving goes through sendfile, splice and inotify.
func moving(c *kase) {
	want := noise(7, 300_000)
	c.ok(os.WriteFile(c.path("src"), want, 0o644))
	src := c.open(c.path("src"), unix.O_RDONLY, 0)
	dst := c.open(c.path("sent"), unix.O_WRONLY|unix.O_CREAT, 0o644)
	for off := int64(0); off < int64(len(want)); {
		_, err := unix.Sendfile(dst, src, &off, len(want))
		c.ok(err)
	}
	c.wantFile(c.path("sent"), string(want))
	var pipe [2]int
	c.ok(unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	dst = c.open(c.path("spliced"), unix.O_RDWR|unix.O_CREAT, 0o644)
	for off := int64(0); off < int64(len(want)); {
		n, err := unix.Splice(src, &off, pipe[1], nil, 50_000, 0)
		c.ok(err)
		for n > 0 {
			m, err := unix.Splice(pipe[0], nil, dst, nil, int(n), 0)
			c.ok(err)
			n -= m
		}
	}
	c.wantFile(c.path("spliced"), string(want))

	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	c.ok(err)
	defer unix.Close(watch)
	_, err = unix.InotifyAddWatch(watch, c.dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_CLOSE_WRITE)
	c.ok(err)
	c.write(c.path("a"), "x")
	c.ok(os.Rename(c.path("a"), c.path("b")))
	c.ok(os.Remove(c.path("b")))
	buf := make([]byte, 4096)
	n, err := unix.Read(watch, buf)
	c.ok(err)
	var masks []uint32
	for b := buf[:n]; len(b) > 0; b = b[16+binary.LittleEndian.Uint32(b[12:]):] {
		masks = append(masks, binary.LittleEndian.Uint32(b[4:]))
	}
	if !slices.Equal(masks, []uint32{unix.IN_CREATE, unix.IN_CLOSE_WRITE, unix.IN_MOVED_TO, unix.IN_DELETE}) {
		c.Errorf("inotify says %#x", masks)
	}
}
