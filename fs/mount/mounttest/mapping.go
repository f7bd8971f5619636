package mounttest

import (
	"bytes"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
