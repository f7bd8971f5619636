package fsx

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

// mapped calls fn with a mapping of a part of the file that holds bytes off..off+n.
func (f *file) mapped(off, n, prot int, fn func(m []byte, at int) error) error {
	start := off &^ (os.Getpagesize() - 1)
	m, err := unix.Mmap(f.no(), int64(start), off+n-start, prot, unix.MAP_SHARED)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	err = fn(m, off-start)
	if e := unix.Munmap(m); err == nil {
		err = os.NewSyscallError("munmap", e)
	}
	return err
}

// mapWrite writes through a mapping, and now and then syncs it.
func (f *file) mapWrite() error {
	off, n := f.region(false)
	if n == 0 {
		return nil
	}
	p := harness.Noise(f.r, n)
	sync := f.r.IntN(3) == 0
	f.note("%s: write %d at %d of %d through a mapping, sync %v", f.name, n, off, f.size(), sync)
	f.put(off, p)
	return f.mapped(off, n, unix.PROT_READ|unix.PROT_WRITE, func(m []byte, at int) error {
		copy(m[at:], p)
		if sync {
			return os.NewSyscallError("msync", unix.Msync(m, unix.MS_SYNC))
		}
		return nil
	})
}

// mapRead reads through a mapping. What lies behind the end of the file in its last page is zero.
func (f *file) mapRead() error {
	off, n := f.region(false)
	if n == 0 {
		return nil
	}
	f.note("%s: read %d at %d of %d through a mapping", f.name, n, off, f.size())
	tail := 0
	if end := off + n; end == f.size() {
		tail = -end & (os.Getpagesize() - 1)
	}
	return f.mapped(off, n+tail, unix.PROT_READ, func(m []byte, at int) error {
		if err := f.compare("mapped", off, m[at:at+n], f.want[off:off+n]); err != nil {
			return err
		}
		for i, b := range m[at+n:] {
			if b != 0 {
				return fmt.Errorf("byte %d behind the end is %#x", i, b)
			}
		}
		return nil
	})
}
