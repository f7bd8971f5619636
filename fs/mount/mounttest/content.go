package mounttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"
	"unsafe"

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

// appendMany appends from several processes at once: no record is lost, torn or overwritten.
func appendMany(c *kase) {
	const writers, records = 4, 300
	c.write(c.path("log"), "")
	var cmds []*exec.Cmd
	for w := range writers {
		cmd := Role("append", c.path("log"), fmt.Sprint(w), fmt.Sprint(records))
		cmd.Stderr = os.Stderr
		c.ok(cmd.Start())
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		c.ok(cmd.Wait())
	}
	log, err := os.ReadFile(c.path("log"))
	c.ok(err)
	next := map[byte]int{}
	for _, line := range bytes.Split(bytes.TrimSuffix(log, []byte("\n")), []byte("\n")) {
		want := record(int(line[0]-'0'), next[line[0]])
		if string(line)+"\n" != want {
			c.Fatalf("a record is %.40q, want %.40q", line, want)
		}
		next[line[0]]++
	}
	for w := range writers {
		if n := next[byte('0'+w)]; n != records {
			c.Errorf("%d of %d records of writer %d are there", n, records, w)
		}
	}
}

func record(w, i int) string {
	return fmt.Sprintf("%d:%d:%s\n", w, i, bytes.Repeat([]byte{'a' + byte(w)}, i%700))
}

func appender(args []string) {
	w := int(args[1][0] - '0')
	var n int
	fmt.Sscan(args[2], &n)
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		panic(err)
	}
	for i := range n {
		if _, err := f.WriteString(record(w, i)); err != nil {
			panic(err)
		}
	}
	if err := f.Close(); err != nil {
		panic(err)
	}
}

// sharedMmap: what one process writes to a mapping, another sees in its mapping and by read(2), and the
// other way round.
func sharedMmap(c *kase) {
	const size = 64 << 10
	path := c.path("f")
	fd := c.open(path, unix.O_RDWR|unix.O_CREAT, 0o644)
	c.ok(unix.Ftruncate(fd, size))
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	c.ok(err)
	other := Role("mmap", path)
	in, err := other.StdinPipe()
	c.ok(err)
	out, err := other.StdoutPipe()
	c.ok(err)
	other.Stderr = os.Stderr
	c.ok(other.Start())
	ack := make([]byte, 1)
	for i := range 20 {
		binary.LittleEndian.PutUint64(mem[i*3000:], uint64(i)+1)
		c.ok(binary.Write(in, binary.LittleEndian, uint64(i))) // now it reads there, and answers beside
		_, err := io.ReadFull(out, ack)
		c.ok(err)
		if got := binary.LittleEndian.Uint64(mem[i*3000+8:]); got != uint64(i)+1001 {
			c.Fatalf("round %d: the mapping has %d", i, got)
		}
		buf := make([]byte, 16)
		_, err = unix.Pread(fd, buf, int64(i*3000))
		c.ok(err)
		if binary.LittleEndian.Uint64(buf[8:]) != uint64(i)+1001 {
			c.Fatalf("round %d: read says %x", i, buf)
		}
		_, err = unix.Pwrite(fd, []byte("pwrite"), int64(i*3000+16))
		c.ok(err)
		if string(mem[i*3000+16:i*3000+22]) != "pwrite" {
			c.Fatalf("round %d: pwrite does not show in the mapping", i)
		}
	}
	in.Close()
	c.ok(other.Wait())
	want := bytes.Clone(mem)
	c.ok(unix.Msync(mem, unix.MS_SYNC))
	c.ok(unix.Munmap(mem))
	c.wantFile(path, string(want))

	// a private mapping changes nothing, and past the end of the file there is SIGBUS's page, not data
	mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	c.ok(err)
	copy(mem, "private")
	c.ok(unix.Munmap(mem))
	c.wantFile(path, string(want))
	ro := c.open(path, unix.O_RDONLY, 0)
	_, err = unix.Mmap(ro, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	c.want(err, unix.EACCES)
}

func mapper(args []string) {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	for {
		var i uint64
		if err := binary.Read(os.Stdin, binary.LittleEndian, &i); err != nil {
			return
		}
		if got := binary.LittleEndian.Uint64(mem[i*3000:]); got != i+1 {
			panic(fmt.Sprint("round ", i, ": the other process' mapping has ", got))
		}
		binary.LittleEndian.PutUint64(mem[i*3000+8:], i+1001)
		os.Stdout.Write([]byte{1})
	}
}

func direct(c *kase) {
	fd := c.open(c.path("f"), unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT, 0o644)
	buf := aligned(1 << 20)
	copy(buf, noise(1, len(buf)))
	n, err := unix.Pwrite(fd, buf, 0)
	if c.ok(err); n != len(buf) {
		c.Fatalf("wrote %d", n)
	}
	c.wantFile(c.path("f"), string(buf))
	cached := c.open(c.path("f"), unix.O_RDWR, 0)
	_, err = unix.Pwrite(cached, []byte("through the cache"), 5000)
	c.ok(err)
	got := aligned(8192)
	n, err = unix.Pread(fd, got, 4096)
	if c.ok(err); !bytes.HasPrefix(got[5000-4096:n], []byte("through the cache")) {
		c.Error("a direct read misses a cached write")
	}
	copy(buf, "directly")
	_, err = unix.Pwrite(fd, buf[:4096], 0)
	c.ok(err)
	n, err = unix.Pread(cached, got[:8], 0)
	if c.ok(err); string(got[:n]) != "directly" {
		c.Error("a cached read misses a direct write")
	}
}

func aligned(n int) []byte {
	b := make([]byte, n+4096)
	off := 4096 - int(uintptr(unsafe.Pointer(&b[0]))%4096)
	return b[off : off+n]
}

// created writes through a descriptor that bypasses the cache, while other threads read, map and drop
// the same pages: who has written sees what was written, through any descriptor.
func created(c *kase) {
	const pages = 8
	path := c.path("f")
	w := c.open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	c.ok(unix.Ftruncate(w, pages*4096))
	fd := c.open(path, unix.O_RDWR, 0)
	mem, err := unix.Mmap(fd, 0, pages*4096, unix.PROT_READ, unix.MAP_SHARED)
	c.ok(err)
	stop := make(chan struct{})
	var others sync.WaitGroup
	defer func() {
		close(stop)
		others.Wait()
		c.ok(unix.Munmap(mem))
	}()
	for i := range 3 {
		others.Go(func() {
			buf := make([]byte, pages*4096)
			for sum := byte(0); ; sum++ {
				select {
				case <-stop:
					return
				default:
				}
				switch i {
				case 0:
					_, _ = unix.Pread(fd, buf, 0)
				case 1:
					sum += mem[int(sum)%pages*4096]
				case 2:
					_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
				}
			}
		})
	}
	buf := make([]byte, 4096)
	for i := range 3000 {
		page := int64(i % pages)
		want := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 2048)
		_, err := unix.Pwrite(w, want, page*4096)
		c.ok(err)
		_, err = unix.Pread(fd, buf, page*4096)
		c.ok(err)
		if !bytes.Equal(buf, want) {
			c.Fatalf("round %d: page %d reads %x, want %x", i, page, buf[:2], want[:2])
		}
		if got := mem[page*4096]; got != byte(i) {
			c.Fatalf("round %d: the mapping has %x", i, got)
		}
	}
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

// random does random things to one file through several descriptors and a mapping, and compares with a
// slice after each.
func random(c *kase) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("GABION_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	defer func() {
		if c.Failed() {
			c.Logf("replay with GABION_SEED=%d", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, 0))
	f := newRandomFile(c)
	ops := []func(off, n int){f.pwrite, f.pwrite, f.mapWrite, f.truncate, f.punch, f.zero, f.copy, f.grow, f.directWrite, f.recreate, f.append, f.createdWrite}
	for range 3000 {
		op := r.IntN(len(ops))
		off, n := r.IntN(f.limit), 1+r.IntN(20_000)
		if r.IntN(2) == 0 {
			off, n = off/4096*4096, (n+4095)/4096*4096
		}
		n = min(n, f.limit-off)
		f.seed++
		ops[op](off, n)
		f.check(r.IntN(len(f.fds)), r.IntN(f.limit), 1+r.IntN(50_000))
		if c.Failed() {
			c.Fatalf("after operation %d at %d of %d bytes", op, off, n)
		}
	}
	c.wantFile(f.path, string(f.want))
}

type randomFile struct {
	*kase
	path    string
	limit   int
	fds     []int
	created int
	mem     []byte
	want    []byte
	seed    uint64
}

func newRandomFile(c *kase) *randomFile {
	f := &randomFile{kase: c, path: c.path("f"), limit: 1 << 20}
	f.created = c.open(f.path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644) // bypasses the cache
	for _, flags := range []int{0, 0, unix.O_DIRECT} {
		f.fds = append(f.fds, c.open(f.path, unix.O_RDWR|flags, 0o644))
	}
	var err error
	f.mem, err = unix.Mmap(f.fds[0], 0, f.limit, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	c.ok(err)
	c.Cleanup(func() { unix.Munmap(f.mem) })
	return f
}

func (f *randomFile) extend(size int) {
	if size > len(f.want) {
		f.want = append(f.want, make([]byte, size-len(f.want))...)
	}
}

func (f *randomFile) pwrite(off, n int) {
	p := noise(f.seed, n)
	_, err := unix.Pwrite(f.fds[f.seed%2], p, int64(off))
	f.ok(err)
	f.extend(off + n)
	copy(f.want[off:], p)
}

func (f *randomFile) append(_, n int) {
	p := noise(f.seed, min(n, f.limit-len(f.want)))
	fd, err := unix.Open(f.path, unix.O_WRONLY|unix.O_APPEND, 0)
	f.ok(err)
	_, err = unix.Write(fd, p)
	f.ok(err)
	unix.Close(fd)
	f.want = append(f.want, p...)
}

func (f *randomFile) directWrite(off, n int) {
	off, n = off/4096*4096, max(n/4096*4096, 4096)
	p := aligned(n)
	copy(p, noise(f.seed, n))
	_, err := unix.Pwrite(f.fds[2], p, int64(off))
	f.ok(err)
	f.extend(off + n)
	copy(f.want[off:], p)
}

func (f *randomFile) createdWrite(off, n int) {
	p := noise(f.seed, n)
	_, err := unix.Pwrite(f.created, p, int64(off))
	f.ok(err)
	f.extend(off + n)
	copy(f.want[off:], p)
}

func (f *randomFile) mapWrite(off, n int) {
	if off >= len(f.want) {
		return
	}
	n = min(n, len(f.want)-off)
	p := noise(f.seed, n)
	copy(f.mem[off:], p)
	copy(f.want[off:], p)
	if f.seed%5 == 0 {
		f.ok(unix.Msync(f.mem, unix.MS_SYNC))
	}
}

func (f *randomFile) truncate(off, _ int) {
	f.ok(unix.Ftruncate(f.fds[0], int64(off)))
	f.extend(off)
	f.want = f.want[:off:off]
}

func (f *randomFile) grow(off, n int) {
	f.ok(unix.Fallocate(f.fds[0], 0, int64(off), int64(n)))
	f.extend(off + n)
}

func (f *randomFile) punch(off, n int) {
	f.ok(unix.Fallocate(f.fds[0], unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)))
	if off < len(f.want) {
		clear(f.want[off:min(off+n, len(f.want))])
	}
}

func (f *randomFile) zero(off, n int) {
	f.ok(unix.Fallocate(f.fds[0], unix.FALLOC_FL_ZERO_RANGE, int64(off), int64(n)))
	f.extend(off + n)
	clear(f.want[off : off+n])
}

func (f *randomFile) copy(off, n int) {
	at := int64((off + f.limit/2) % f.limit)
	from := int64(off)
	n = min(n, f.limit-int(at), max(len(f.want)-off, 0))
	if n == 0 || from < at+int64(n) && at < from+int64(n) {
		return
	}
	got, err := unix.CopyFileRange(f.fds[0], &from, f.fds[1], &at, n, 0)
	if f.ok(err); got != n {
		f.Fatalf("copied %d of %d", got, n)
	}
	f.extend(int(at))
	copy(f.want[int(at)-n:], bytes.Clone(f.want[off:off+n]))
}

// recreate opens the file anew, and now and then truncates it so.
func (f *randomFile) recreate(int, int) {
	flags := unix.O_RDWR
	if f.seed%7 == 0 {
		flags |= unix.O_TRUNC
		f.want = nil
	}
	unix.Close(f.fds[1])
	fd, err := unix.Open(f.path, flags|unix.O_CLOEXEC, 0)
	f.ok(err)
	f.fds[1] = fd
}

// check reads through one of the descriptors, and looks at the mapping and at the size.
func (f *randomFile) check(fd, off, n int) {
	if st := f.fstat(f.fds[fd]); st.Size != int64(len(f.want)) {
		f.Errorf("size is %d, want %d", st.Size, len(f.want))
		return
	}
	buf := make([]byte, n)
	if fd == 2 {
		off, n = off/4096*4096, (n+4095)/4096*4096
		buf = aligned(n)
	}
	got, err := unix.Pread(f.fds[fd], buf, int64(off))
	f.ok(err)
	want := f.want[min(off, len(f.want)):min(off+n, len(f.want))]
	if !bytes.Equal(buf[:got], want) {
		f.Errorf("descriptor %d reads %d bytes at %d, want %d: first difference at %d", fd, got, off, len(want), firstDiff(buf[:got], want))
	}
	if got := f.mem[min(off, len(f.want)):min(off+n, len(f.want))]; !bytes.Equal(got, want) {
		f.Errorf("the mapping differs at %d", off+firstDiff(got, want))
	}
}

func firstDiff(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
