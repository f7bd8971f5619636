package mounttest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = r.Read(p)
	return p
}

func sparse(c *kase) {
	fd := c.open(c.path("f"), unix.O_RDWR|unix.O_CREAT, 0o644)
	const far = 5 << 30
	_, err := unix.Pwrite(fd, []byte("end"), far)
	c.ok(err)
	_, err = unix.Pwrite(fd, []byte("start"), 0)
	c.ok(err)
	if st := c.fstat(fd); st.Size != far+3 || st.Blocks > 1024 {
		c.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
	buf := make([]byte, 10)
	n, err := unix.Pread(fd, buf, far-3)
	if c.ok(err); string(buf[:n]) != "\x00\x00\x00end" {
		c.Errorf("reads %q", buf[:n])
	}
	hole, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
	c.ok(err)
	data, err := unix.Seek(fd, hole, unix.SEEK_DATA)
	c.ok(err)
	if hole < 5 || hole > 8<<20 || data > far || data < far-8<<20 {
		c.Errorf("a hole from %d to %d", hole, data)
	}
	end, err := unix.Seek(fd, far, unix.SEEK_HOLE)
	if c.ok(err); end != far+3 {
		c.Errorf("the last hole is at %d", end)
	}
	_, err = unix.Seek(fd, far+3, unix.SEEK_DATA)
	c.want(err, unix.ENXIO)
	_, err = unix.Seek(fd, far+3, unix.SEEK_HOLE)
	c.want(err, unix.ENXIO)
}

func truncate(c *kase) {
	text := noise(1, 300_000)
	for _, size := range []int64{0, 1, 4095, 4096, 4097, 131072, 200_001} {
		c.ok(os.WriteFile(c.path("f"), text, 0o644))
		c.ok(unix.Truncate(c.path("f"), size))
		c.wantFile(c.path("f"), string(text[:size]))
		c.ok(unix.Truncate(c.path("f"), 300_000))
		c.wantFile(c.path("f"), string(text[:size])+string(make([]byte, 300_000-size)))
	}
	fd := c.open(c.path("f"), unix.O_RDONLY, 0)
	c.want(unix.Ftruncate(fd, 0), unix.EINVAL)
	c.want(unix.Truncate(c.path("f"), -1), unix.EINVAL)
	c.want(unix.Truncate(c.dir, 0), unix.EISDIR)
	c.want(unix.Truncate(c.path("none"), 0), unix.ENOENT)
}

func openFlags(c *kase) {
	c.write(c.path("f"), "some content")
	fd := c.open(c.path("f"), unix.O_WRONLY|unix.O_TRUNC, 0)
	if st := c.fstat(fd); st.Size != 0 {
		c.Errorf("O_TRUNC left %d bytes", st.Size)
	}
	_, err := unix.Read(fd, make([]byte, 1))
	c.want(err, unix.EBADF)
	c.write(c.path("f"), "some content")
	fd = c.open(c.path("f"), unix.O_RDWR|unix.O_APPEND, 0)
	_, err = unix.Pwrite(fd, []byte("!"), 0) // Linux appends even so
	c.ok(err)
	c.wantFile(c.path("f"), "some content!")
	fd = c.open(c.path("f"), unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600) // exists: mode stays
	if st := c.fstat(fd); st.Size != 0 || st.Mode&0o777 != 0o644 {
		c.Errorf("%+v", st)
	}
	fd = c.open(c.path("g"), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o400) // may be written through this descriptor
	_, err = unix.Write(fd, []byte("x"))
	c.ok(err)
	fd = c.open(c.path("g"), unix.O_PATH, 0)
	if st := c.fstat(fd); st.Size != 1 {
		c.Errorf("%+v", st)
	}
	_, err = unix.Read(fd, make([]byte, 1))
	c.want(err, unix.EBADF)
	fd = c.open(c.path("h"), unix.O_RDWR|unix.O_CREAT|unix.O_SYNC, 0o644)
	_, err = unix.Write(fd, []byte("synced"))
	c.ok(err)
	c.ok(unix.Fdatasync(fd))
	c.ok(unix.Fsync(c.open(c.dir, unix.O_RDONLY, 0)))
	c.ok(unix.Syncfs(fd))
	c.wantFile(c.path("h"), "synced")
}

func allocate(c *kase) {
	fd := c.open(c.path("f"), unix.O_RDWR|unix.O_CREAT, 0o644)
	want := noise(2, 300_000)
	_, err := unix.Pwrite(fd, want, 0)
	c.ok(err)
	check := func() {
		c.Helper()
		c.wantFile(c.path("f"), string(want))
		got := make([]byte, len(want)+1)
		n, err := unix.Pread(fd, got, 0)
		if c.ok(err); !bytes.Equal(got[:n], want) {
			c.Error("the descriptor reads something else")
		}
	}
	c.ok(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5000, 100_000))
	clear(want[5000:105_000])
	check()
	c.ok(unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 200_000, 10))
	clear(want[200_000:200_010])
	check()
	c.ok(unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20))
	check()
	c.ok(unix.Fallocate(fd, 0, 0, 300_100))
	want = append(want, make([]byte, 100)...)
	check()
	c.ok(unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 300_000, 200))
	want = append(want, make([]byte, 100)...)
	check()
	c.want(unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096), unix.EOPNOTSUPP)
	c.want(unix.Fallocate(fd, unix.FALLOC_FL_INSERT_RANGE, 0, 4096), unix.EOPNOTSUPP)
	c.want(unix.Fallocate(fd, 0, 0, 0), unix.EINVAL)
	c.want(unix.Fallocate(fd, 0, -1, 1), unix.EINVAL)
	c.want(unix.Fallocate(c.open(c.path("f"), unix.O_RDONLY, 0), 0, 0, 1), unix.EBADF)
}

// execute runs a program and a script from the mount, and a program that gets signals all the time.
func execute(c *kase) {
	self, err := os.ReadFile("/proc/self/exe")
	c.ok(err)
	c.ok(os.WriteFile(c.path("program"), self, 0o755))
	cmd := Role("id")
	cmd.Path = c.path("program")
	out, err := cmd.CombinedOutput()
	c.ok(err, string(out))
	c.ok(os.WriteFile(c.path("script"), []byte("#!/bin/sh\necho from a script\n"), 0o755))
	out, err = exec.Command(c.path("script")).CombinedOutput()
	if c.ok(err); string(out) != "from a script\n" {
		c.Errorf("the script says %q", out)
	}
	// what runs cannot be written, and what is written cannot run
	running := exec.Command(c.path("program"))
	running.Env = Role("locker", c.path("script")).Env
	in, err := running.StdinPipe()
	c.ok(err)
	c.ok(running.Start())
	_, err = unix.Open(c.path("program"), unix.O_WRONLY, 0)
	c.want(err, unix.ETXTBSY)
	c.want(unix.Truncate(c.path("program"), 0), unix.ETXTBSY)
	in.Close()
	c.ok(running.Wait())
	written := c.open(c.path("script"), unix.O_WRONLY, 0)
	_, err = exec.Command(c.path("script")).CombinedOutput()
	c.want(err, unix.ETXTBSY)
	unix.Close(written)
	c.ok(os.Chmod(c.path("script"), 0o644))
	_, err = exec.Command(c.path("script")).CombinedOutput()
	c.want(err, unix.EACCES)

	// signals interrupt requests, and nothing may be lost or done twice
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Microsecond):
				_ = unix.Kill(os.Getpid(), unix.SIGURG)
			}
		}
	}()
	for i := range 300 {
		path := c.path(fmt.Sprint("i", i))
		fd := ignoringEINTR(c, func() (int, error) { return unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644) })
		ignoringEINTR(c, func() (int, error) { return unix.Write(fd, []byte("once")) })
		ignoringEINTR(c, func() (int, error) { return 0, unix.Rename(path, path+"r") })
		unix.Close(fd)
		c.wantFile(path+"r", "once")
		ignoringEINTR(c, func() (int, error) { return 0, unix.Unlink(path + "r") })
	}
	close(stop)
	<-done
}

// ignoringEINTR is here only so that the test says what it is about: nothing returns EINTR.
func ignoringEINTR(c *kase, fn func() (int, error)) int {
	c.Helper()
	n, err := fn()
	c.ok(err)
	return n
}

func ioctl(c *kase) {
	c.write(c.path("f"), "12345")
	fd := c.open(c.path("f"), unix.O_RDWR, 0)
	_, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	c.want(err, unix.ENOTTY)
	_, err = unix.IoctlGetTermios(fd, unix.TCGETS)
	c.want(err, unix.ENOTTY)
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if c.ok(err); n != 5 {
		c.Errorf("FIONREAD says %d", n)
	}
	var st unix.Statfs_t
	c.ok(unix.Statfs(c.dir, &st))
	if st.Namelen != 255 || st.Blocks == 0 || st.Bfree == 0 || st.Bavail == 0 || st.Files == 0 || st.Bsize != 4096 {
		c.Errorf("%+v", st)
	}
	var stx unix.Statx_t
	c.ok(unix.Statx(unix.AT_FDCWD, c.path("f"), 0, unix.STATX_BASIC_STATS, &stx))
	if stx.Size != 5 || stx.Mask&unix.STATX_BASIC_STATS != unix.STATX_BASIC_STATS {
		c.Errorf("%+v", stx)
	}
}
