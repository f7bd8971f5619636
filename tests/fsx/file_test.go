package fsx

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

// file is one file and what it should hold.
type file struct {
	*pair
	name, path, model string
	fd                *os.File // never nil between operations
	want              []byte
}

func (f *file) size() int { return len(f.want) }

// load reads the model that an earlier phase has left, if there was one, and compares.
func (f *file) load() error {
	want, err := os.ReadFile(f.model)
	if errors.Is(err, os.ErrNotExist) {
		if f.fd, err = os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	f.want = want
	if f.fd, err = os.OpenFile(f.path, os.O_RDWR, 0); err != nil {
		return err
	}
	if err := f.whole(); err != nil {
		return fmt.Errorf("at the start: %w", err)
	}
	return nil
}

func (f *file) close() error {
	if f.fd == nil {
		return nil
	}
	err := f.fd.Close()
	f.fd = nil
	return err
}

func (f *file) no() int { return int(f.fd.Fd()) }

// region returns a random part of the file, possibly empty, or past its end when past is set. Its ends are
// often multiples of what filesystems count in.
func (f *file) region(past bool) (off, n int) {
	top := f.size()
	if past {
		top += f.r.IntN(f.most)
	}
	off, n = f.r.IntN(top+1), f.r.IntN(f.most)
	switch f.r.IntN(4) {
	case 0:
		off, n = off&^4095, n&^4095
	case 1:
		n = f.r.IntN(600)
	}
	if !past {
		n = min(n, f.size()-off)
	}
	return off, n
}

func (f *file) resize(n int) {
	if n <= len(f.want) {
		f.want = f.want[:n:n]
		return
	}
	f.want = append(f.want, make([]byte, n-len(f.want))...)
}

func (f *file) put(off int, p []byte) {
	if off+len(p) > len(f.want) {
		f.resize(off + len(p))
	}
	copy(f.want[off:], p)
}

// step does one random operation and holds its result against the model.
func (f *file) step(n int) error {
	if n%checkAll == checkAll-1 {
		return f.whole()
	}
	switch k := f.r.IntN(100); {
	case k < 22:
		return f.write(false)
	case k < 28:
		return f.write(true)
	case k < 42:
		return f.read()
	case k < 50:
		return f.mapWrite()
	case k < 56:
		return f.mapRead()
	case k < 64:
		size := f.r.IntN(f.size() + 1)
		if f.r.IntN(2) == 0 {
			size = f.size() + f.r.IntN(f.most)
		}
		return f.truncate(size)
	case k < 76:
		return f.allocate()
	case k < 82:
		return f.copyRange()
	case k < 88:
		return f.sync()
	case k < 94:
		return f.reopen()
	case k < 96:
		return f.rename()
	}
	return f.seek()
}

func (f *file) write(atEnd bool) error {
	off, n := f.region(true)
	p := harness.Noise(f.r, n)
	if f.r.IntN(5) == 0 {
		clear(p)
	}
	if atEnd {
		off = f.size()
	}
	f.note("%s: write %d at %d, append %v, size %d", f.name, n, off, atEnd, f.size())
	if n == 0 {
		return nil
	}
	f.put(off, p)
	if !atEnd {
		_, err := f.fd.WriteAt(p, int64(off))
		return err
	}
	fd, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer fd.Close()
	_, err = fd.Write(p)
	return err
}

func (f *file) read() error {
	off, n := f.region(true)
	f.note("%s: read %d at %d of %d", f.name, n, off, f.size())
	p := make([]byte, n)
	got, err := f.fd.ReadAt(p, int64(off))
	if err != nil && err != io.EOF {
		return err
	}
	want := f.want[min(off, f.size()):min(off+n, f.size())]
	return f.compare("read", off, p[:got], want)
}

func (f *file) compare(how string, off int, got, want []byte) error {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			last := i
			for j := i; j < min(len(got), len(want)); j++ {
				if got[j] != want[j] {
					last = j
				}
			}
			return fmt.Errorf("%s: byte %d is %#x and should be %#x; the last one that differs is %d; %s %d at %d, size %d",
				f.name, off+i, got[i], want[i], off+last, how, len(want), off, f.size())
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s: %s at %d: got %d bytes and should get %d, size %d", f.name, how, off, len(got), len(want), f.size())
	}
	return nil
}

// whole compares all of the file, and its size.
func (f *file) whole() error {
	f.note("%s: compare all of %d", f.name, f.size())
	var st unix.Stat_t
	if err := unix.Fstat(f.no(), &st); err != nil {
		return err
	}
	if st.Size != int64(f.size()) {
		return fmt.Errorf("%s: has size %d and should have %d", f.name, st.Size, f.size())
	}
	p := make([]byte, f.size()+1)
	n, err := f.fd.ReadAt(p, 0)
	if err != nil && err != io.EOF {
		return err
	}
	return f.compare("read", 0, p[:n], f.want)
}

func (f *file) truncate(size int) error {
	f.note("%s: truncate to %d from %d", f.name, size, f.size())
	f.resize(size)
	if f.r.IntN(2) == 0 {
		return os.Truncate(f.path, int64(size))
	}
	return f.fd.Truncate(int64(size))
}

func (f *file) allocate() error {
	modes := []uint32{
		0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
	}
	mode := modes[f.r.IntN(len(modes))]
	off, n := f.region(true)
	n++
	f.note("%s: fallocate mode %#x, %d at %d, size %d", f.name, mode, n, off, f.size())
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && off+n > f.size() {
		f.resize(off + n)
	}
	if mode&(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_PUNCH_HOLE) != 0 {
		clear(f.want[min(off, f.size()):min(off+n, f.size())])
	}
	return os.NewSyscallError("fallocate", unix.Fallocate(f.no(), mode, int64(off), int64(n)))
}

// copyRange copies from one file of the pair to the other, or within one.
func (f *file) copyRange() error {
	src := f.files[f.r.IntN(2)]
	from, n := src.region(false)
	to, _ := f.region(true)
	if src == f && from < to+n && to < from+n {
		return nil // EINVAL
	}
	f.note("%s: copy %d at %d of %s to %d, size %d", f.name, n, from, src.name, to, f.size())
	if n == 0 {
		return nil
	}
	p := append([]byte(nil), src.want[from:from+n]...)
	f.put(to, p)
	rd, wr := int64(from), int64(to)
	for n > 0 {
		c, err := unix.CopyFileRange(src.no(), &rd, f.no(), &wr, n, 0)
		if err != nil {
			return os.NewSyscallError("copy_file_range", err)
		}
		if c == 0 {
			return fmt.Errorf("copy_file_range copied nothing of %d", n)
		}
		n -= c
	}
	return nil
}

func (f *file) sync() error {
	f.note("%s: sync", f.name)
	if f.r.IntN(2) == 0 {
		return os.NewSyscallError("fdatasync", unix.Fdatasync(f.no()))
	}
	return f.fd.Sync()
}

// reopen closes the file and opens it again, often with the kernel's cache of it dropped.
func (f *file) reopen() error {
	how := f.r.IntN(3)
	f.note("%s: reopen, %d", f.name, how)
	if how > 0 {
		if err := unix.Fadvise(f.no(), 0, 0, unix.FADV_DONTNEED); err != nil {
			return err
		}
	}
	if err := f.close(); err != nil {
		return err
	}
	var err error
	f.fd, err = os.OpenFile(f.path, os.O_RDWR, 0)
	return err
}

// rename gives the file another name and its own again, sometimes over one that is there.
func (f *file) rename() error {
	f.note("%s: rename", f.name)
	other := f.path + ".other"
	if f.r.IntN(2) == 0 {
		if err := os.WriteFile(other, []byte("to be replaced"), 0o644); err != nil {
			return err
		}
	}
	if err := os.Rename(f.path, other); err != nil {
		return err
	}
	return os.Rename(other, f.path)
}

// seek walks over data and holes: what is said to be a hole must hold nothing.
func (f *file) seek() error {
	f.note("%s: seek, size %d", f.name, f.size())
	for at := int64(0); at < int64(f.size()); {
		data, err := unix.Seek(f.no(), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data = int64(f.size())
		} else if err != nil {
			return os.NewSyscallError("lseek SEEK_DATA", err)
		}
		if data < at || data > int64(f.size()) {
			return fmt.Errorf("SEEK_DATA from %d leads to %d, size %d", at, data, f.size())
		}
		for i := at; i < data; i++ {
			if f.want[i] != 0 {
				return fmt.Errorf("SEEK_DATA from %d leads to %d, past data at %d", at, data, i)
			}
		}
		if data == int64(f.size()) {
			return nil
		}
		hole, err := unix.Seek(f.no(), data, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek SEEK_HOLE", err)
		}
		if hole <= data || hole > int64(f.size()) {
			return fmt.Errorf("SEEK_HOLE from %d leads to %d, size %d", data, hole, f.size())
		}
		at = hole
	}
	return nil
}
