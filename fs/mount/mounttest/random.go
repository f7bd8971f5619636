package mounttest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

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
