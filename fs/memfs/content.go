package memfs

import (
	"context"
	"math"

	"github.com/gabionfs/gabion/fs"
)

const pageSize = 4096

type page [pageSize]byte

// content is what a file holds: its pages by number. A page that is missing is a hole, and bytes past
// the end of the file are zero in every page.
type content struct {
	pages map[int64]*page
}

func (c *content) blocks() int64 { return int64(len(c.pages)) * (pageSize / 512) }

// eachPage calls fn with the pages that [off, off+n) touches: the page's number, and the part of it.
func eachPage(off, n int64, fn func(number, from, to int64)) {
	for end := off + n; off < end; {
		number, from := off/pageSize, off%pageSize
		to := min(from+end-off, pageSize)
		fn(number, from, to)
		off += to - from
	}
}

func (c *content) read(off int64, p []byte) {
	eachPage(off, int64(len(p)), func(number, from, to int64) {
		if pg := c.pages[number]; pg != nil {
			copy(p, pg[from:to])
		} else {
			clear(p[:to-from])
		}
		p = p[to-from:]
	})
}

func (c *content) write(off int64, p []byte) {
	eachPage(off, int64(len(p)), func(number, from, to int64) {
		pg := c.pages[number]
		if pg == nil {
			pg = new(page)
			c.pages[number] = pg
		}
		copy(pg[from:to], p)
		p = p[to-from:]
	})
}

// punch makes [off, off+n) read as zeroes; whole pages become holes.
func (c *content) punch(off, n int64) {
	if n/pageSize > int64(len(c.pages)) {
		for number := range c.pages {
			lo, hi := max(off, number*pageSize), min(off+n, (number+1)*pageSize)
			c.punchPage(number, lo-number*pageSize, hi-number*pageSize)
		}
		return
	}
	eachPage(off, n, c.punchPage)
}

func (c *content) punchPage(number, from, to int64) {
	pg := c.pages[number]
	switch {
	case pg == nil || from >= to:
	case from == 0 && to == pageSize:
		delete(c.pages, number)
	default:
		clear(pg[from:to])
	}
}

func (c *content) truncate(size, newSize int64) {
	if newSize < size { // to the end of the last page, so that the page goes when all of it is past the end
		c.punch(newSize, (size+pageSize-1)/pageSize*pageSize-newSize)
	}
}

// seek returns the start of the next data, or hole, at or after off; size when there is none.
func (c *content) seek(off, size int64, data bool) int64 {
	if data { // skips over holes of any length
		next := int64(math.MaxInt64)
		for number := range c.pages {
			if (number+1)*pageSize > off {
				next = min(next, max(off, number*pageSize))
			}
		}
		return min(next, size)
	}
	for ; off < size; off = (off/pageSize + 1) * pageSize {
		if c.pages[off/pageSize] == nil {
			return off
		}
	}
	return size
}

// checkRange reports whether a file may have [off, off+n).
func checkRange(off, n int64) error {
	switch {
	case off < 0 || n < 0:
		return fs.ErrInvalid
	case off > fs.MaxFile || n > fs.MaxFile-off:
		return fs.ErrFileTooBig
	}
	return nil
}

func (f *FS) Read(_ context.Context, ino fs.Ino, off int64, p []byte) (got int, err error) {
	err = f.view("read", ino, "", func(st *state) error {
		n, err := st.regular(ino)
		if err != nil {
			return err
		}
		if off < 0 {
			return fs.ErrInvalid
		}
		got = int(min(int64(len(p)), max(n.attr.Size-off, 0)))
		n.data.read(off, p[:got])
		return nil
	})
	return got, err
}

func (f *FS) Write(_ context.Context, ino fs.Ino, off int64, p []byte) error {
	return f.update("write", ino, "", func(c *change) error {
		n, err := c.regular(ino)
		if err != nil {
			return err
		}
		if err := checkRange(off, int64(len(p))); err != nil {
			return err
		}
		if len(p) == 0 {
			return nil
		}
		n.data.write(off, p)
		n.attr.Size = max(n.attr.Size, off+int64(len(p)))
		c.touch(n, true)
		return nil
	})
}

func (f *FS) Fsync(_ context.Context, ino fs.Ino) error {
	return f.view("fsync", ino, "", func(st *state) error {
		_, err := st.get(ino)
		return err
	})
}

func (f *FS) Sync(context.Context) error { return nil }

func (f *FS) Allocate(_ context.Context, ino fs.Ino, m fs.AllocMode, off, length int64) error {
	return f.update("allocate", ino, "", func(c *change) error {
		n, err := c.regular(ino)
		if err != nil {
			return err
		}
		if off < 0 || length <= 0 {
			return fs.ErrInvalid
		}
		switch m {
		case 0, fs.AllocKeepSize, fs.AllocPunchHole | fs.AllocKeepSize, fs.AllocZeroRange, fs.AllocZeroRange | fs.AllocKeepSize:
		default:
			return fs.ErrNotSupported
		}
		if err := checkRange(off, length); err != nil {
			return err
		}
		if m&(fs.AllocPunchHole|fs.AllocZeroRange) != 0 {
			n.data.punch(off, length)
		}
		if m&fs.AllocKeepSize == 0 {
			n.attr.Size = max(n.attr.Size, off+length)
		}
		c.touch(n, true)
		return nil
	})
}

func (f *FS) Seek(_ context.Context, ino fs.Ino, off int64, whence int) (at int64, err error) {
	err = f.view("seek", ino, "", func(st *state) error {
		n, err := st.regular(ino)
		if err != nil {
			return err
		}
		if whence != fs.SeekData && whence != fs.SeekHole {
			return fs.ErrInvalid
		}
		if off < 0 || off >= n.attr.Size {
			return fs.ErrNoData
		}
		at = n.data.seek(off, n.attr.Size, whence == fs.SeekData)
		if whence == fs.SeekData && at == n.attr.Size {
			return fs.ErrNoData
		}
		return nil
	})
	return at, err
}

func (f *FS) CopyRange(_ context.Context, src fs.Ino, srcOff int64, dst fs.Ino, dstOff, n int64) (copied int64, err error) {
	err = f.update("copy", src, "", func(c *change) error {
		from, err := c.regular(src)
		if err != nil {
			return err
		}
		to, err := c.regular(dst)
		if err != nil {
			return err
		}
		if srcOff < 0 || dstOff < 0 || n < 0 {
			return fs.ErrInvalid
		}
		n = min(n, max(from.attr.Size-srcOff, 0))
		if n == 0 {
			return nil
		}
		if from == to && srcOff < dstOff+n && dstOff < srcOff+n {
			return fs.ErrInvalid
		}
		if err := checkRange(dstOff, n); err != nil {
			return err
		}
		copyContent(&from.data, srcOff, &to.data, dstOff, n)
		to.attr.Size = max(to.attr.Size, dstOff+n)
		c.touch(to, true)
		copied = n
		return nil
	})
	return copied, err
}

// copyContent copies page by page of the source, and holes as holes.
func copyContent(from *content, srcOff int64, to *content, dstOff, n int64) {
	to.punch(dstOff, n)
	eachPage(srcOff, n, func(number, lo, hi int64) {
		if pg := from.pages[number]; pg != nil {
			to.write(dstOff+number*pageSize+lo-srcOff, pg[lo:hi])
		}
	})
}

func (f *FS) ReplaceContent(_ context.Context, dst, src fs.Ino) (a fs.Attr, err error) {
	err = f.update("replace", dst, "", func(c *change) error {
		to, err := c.regular(dst)
		if err != nil {
			return err
		}
		from, err := c.regular(src)
		if err != nil {
			return err
		}
		if from == to {
			return fs.ErrInvalid
		}
		to.data, to.attr.Size = from.data, from.attr.Size
		from.data, from.attr.Size = content{pages: map[int64]*page{}}, 0
		c.touch(to, true)
		c.touch(from, true)
		a = to.stat()
		return nil
	})
	return a, err
}
