package fstest

import (
	"bytes"
	"fmt"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
)

// kindsOfErrors are those that the model and the filesystem must agree on.
var kindsOfErrors = []error{
	fs.ErrNotExist, fs.ErrExist, fs.ErrNotDir, fs.ErrIsDir, fs.ErrNotEmpty, fs.ErrNameTooLong, fs.ErrInvalid, fs.ErrNotPermitted,
	fs.ErrTooManyLinks, fs.ErrFileTooBig, fs.ErrNoSpace, fs.ErrNoData, fs.ErrNoAttr, fs.ErrTooBig, fs.ErrNotSupported,
}

// pair is a filesystem and its model, doing the same. to maps the model's inode numbers to the real ones.
type pair struct {
	*env
	rt    *rapid.T
	model *memfs.FS
	to    map[fs.Ino]fs.Ino
}

// both fails unless the two outcomes are of the same kind, and reports whether it was success.
func (p *pair) both(what string, model, real error) bool {
	if model == nil && real == nil {
		return true
	}
	for _, kind := range kindsOfErrors {
		if is(model, kind) && is(real, kind) {
			return false
		}
	}
	p.rt.Fatalf("%s: model says %v, got %v", what, model, real)
	return false
}

// same fails unless the attributes agree, apart from numbers and times.
func (p *pair) same(what string, model, real fs.Attr) {
	want, got := model, real
	want.Ino = p.to[model.Ino]
	want.Atime, want.Mtime, want.Ctime, want.Btime, want.Version, want.Blocks = got.Atime, got.Mtime, got.Ctime, got.Btime, got.Version, got.Blocks
	if want.IsDir() {
		want.Size = got.Size
	}
	if want != got {
		p.rt.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// randomContent does random operations on the content of two files.
func randomContent(e *env) {
	n := 0
	rapid.Check(e.T, func(rt *rapid.T) {
		n++
		p := &pair{env: e, rt: rt, model: memfs.New(), to: map[fs.Ino]fs.Ino{}}
		names := []string{fmt.Sprint("a", n), fmt.Sprint("b", n)}
		var files []fs.Ino // the model's
		for _, name := range names {
			a, err := p.model.Mknod(e.ctx, owner, fs.Root, name, 0o644, 0)
			e.ok(err)
			files = append(files, a.Ino)
			p.to[a.Ino] = e.file(fs.Root, name)
		}
		c := &contentOps{pair: p, files: files}
		rt.Repeat(map[string]func(*rapid.T){
			"write": c.write, "append": c.append, "read": c.read, "truncate": c.truncate, "allocate": c.allocate,
			"copy": c.copy, "replace": c.replace, "seek": c.seek, "fsync": c.fsync, "": func(*rapid.T) {},
		})
		for _, f := range files {
			c.compare(f, 0, c.size(f))
		}
		for _, name := range names {
			e.ok(e.Unlink(e.ctx, fs.Root, name))
		}
	})
}

type contentOps struct {
	*pair
	files []fs.Ino
}

// near draws an offset, often beside the boundaries of pages, packs and blocks.
func near(rt *rapid.T, label string) int64 {
	unit := rapid.SampledFrom([]int64{1, 4096, 64 << 10, 128 << 10, mib, 4 * mib}).Draw(rt, label+" unit")
	off := unit*rapid.Int64Range(0, min(9*mib/unit, 40)).Draw(rt, label) + rapid.Int64Range(-2, 2).Draw(rt, label+" beside")
	return max(off, 0)
}

// length draws how much: usually little, at times more than a block.
func length(rt *rapid.T) int64 {
	unit := rapid.SampledFrom([]int64{1, 1, 512, 4096, 4096, 128 << 10, 2 * mib}).Draw(rt, "length unit")
	n := unit*rapid.Int64Range(0, min(5*mib/unit, 20)).Draw(rt, "length") + rapid.Int64Range(-2, 2).Draw(rt, "length beside")
	return max(n, 0)
}

func (c *contentOps) file(rt *rapid.T, label string) fs.Ino {
	return rapid.SampledFrom(c.files).Draw(rt, label)
}

func (c *contentOps) data(rt *rapid.T) []byte {
	return noise(rapid.Uint64Range(0, 1<<30).Draw(rt, "seed"), int(length(rt)))
}

func (c *contentOps) size(f fs.Ino) int64 {
	a, err := c.model.Getattr(c.ctx, f)
	c.ok(err)
	c.same("size", a, c.stat(c.to[f]))
	return a.Size
}

func (c *contentOps) write(rt *rapid.T) {
	f, off, p := c.file(rt, "file"), near(rt, "offset"), c.data(rt)
	c.both("write", c.model.Write(c.ctx, f, off, p), c.Write(c.ctx, c.to[f], off, p))
	c.size(f)
}

func (c *contentOps) append(rt *rapid.T) {
	f, p := c.file(rt, "file"), c.data(rt)
	off := c.size(f)
	p = p[:min(int64(len(p)), max(12*mib-off, 0))]
	c.both("append", c.model.Write(c.ctx, f, off, p), c.Write(c.ctx, c.to[f], off, p))
	c.size(f)
}

func (c *contentOps) read(rt *rapid.T) {
	c.compare(c.file(rt, "file"), near(rt, "offset"), length(rt))
}

// compare reads the same range of both.
func (c *contentOps) compare(f fs.Ino, off, n int64) {
	want, got := make([]byte, n), poison(int(n))
	w, err := c.model.Read(c.ctx, f, off, want)
	c.ok(err)
	g, err := c.Read(c.ctx, c.to[f], off, got)
	if err != nil || g != w {
		c.rt.Fatalf("read %d of %d bytes at %d, %v; want %d", g, n, off, err, w)
	}
	if !bytes.Equal(got[:g], want[:w]) {
		c.rt.Fatalf("content at %d: %s", off, difference(got[:g], want[:w]))
	}
}

func (c *contentOps) truncate(rt *rapid.T) {
	f := c.file(rt, "file")
	s := fs.SetAttr{Mask: fs.SetSize, Size: near(rt, "size")}
	_, want := c.model.Setattr(c.ctx, f, s)
	_, got := c.Setattr(c.ctx, c.to[f], s)
	c.both("truncate", want, got)
	c.size(f)
}

func (c *contentOps) allocate(rt *rapid.T) {
	f, off, n := c.file(rt, "file"), near(rt, "offset"), length(rt)
	m := rapid.SampledFrom([]fs.AllocMode{
		0, fs.AllocKeepSize, fs.AllocPunchHole | fs.AllocKeepSize, fs.AllocZeroRange, fs.AllocZeroRange | fs.AllocKeepSize,
	}).Draw(rt, "mode")
	c.both("allocate", c.model.Allocate(c.ctx, f, m, off, n), c.Allocate(c.ctx, c.to[f], m, off, n))
	c.size(f)
}

func (c *contentOps) copy(rt *rapid.T) {
	src, dst := c.file(rt, "source"), c.file(rt, "destination")
	srcOff, dstOff, n := near(rt, "source offset"), near(rt, "destination offset"), length(rt)
	want, werr := c.model.CopyRange(c.ctx, src, srcOff, dst, dstOff, n)
	got, gerr := c.CopyRange(c.ctx, c.to[src], srcOff, c.to[dst], dstOff, n)
	if c.both("copy", werr, gerr); got != want {
		rt.Fatalf("copied %d, want %d", got, want)
	}
	c.size(dst)
}

func (c *contentOps) replace(rt *rapid.T) {
	dst, src := c.file(rt, "destination"), c.file(rt, "source")
	want, werr := c.model.ReplaceContent(c.ctx, dst, src)
	got, gerr := c.ReplaceContent(c.ctx, c.to[dst], c.to[src])
	if c.both("replace", werr, gerr) {
		c.same("replace", want, got)
	}
}

// seek walks through data and holes: they alternate, end at the size, and holes are zeroes.
func (c *contentOps) seek(rt *rapid.T) {
	f := c.file(rt, "file")
	size := c.size(f)
	for off := int64(0); off < size; {
		hole, err := c.Seek(c.ctx, c.to[f], off, fs.SeekHole)
		if err != nil || hole < off || hole > size {
			rt.Fatalf("hole after %d of %d: %d, %v", off, size, hole, err)
		}
		if hole == size {
			return
		}
		data, err := c.Seek(c.ctx, c.to[f], hole, fs.SeekData)
		if is(err, fs.ErrNoData) {
			data = size
		} else if err != nil || data <= hole || data > size {
			rt.Fatalf("data after %d of %d: %d, %v", hole, size, data, err)
		}
		p := make([]byte, data-hole)
		_, err = c.model.Read(c.ctx, f, hole, p)
		if c.ok(err); !allZero(p) {
			rt.Fatalf("from %d to %d there is said to be a hole, but there is data", hole, data)
		}
		off = data
	}
}

func (c *contentOps) fsync(rt *rapid.T) { c.ok(c.Fsync(c.ctx, c.to[c.file(rt, "file")])) }

func allZero(p []byte) bool { return bytes.Equal(p, make([]byte, len(p))) }
