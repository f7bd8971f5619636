package fstest

import (
	"bytes"
	"math"

	"github.com/gabionfs/gabion/fs"
)

const mib = 1 << 20

func readWrite(e *env) {
	f := e.file(fs.Root, "f")
	e.wantContent(f, nil)
	e.readAt(f, 100, 10)
	text := noise(1, 300_000)
	e.write(f, 0, text[:1])
	e.write(f, 1, text[1:5000])
	e.write(f, 5000, text[5000:])
	e.wantContent(f, text)
	copy(text[4090:], "across a page")
	e.write(f, 4090, []byte("across a page"))
	e.wantContent(f, text)
	for _, at := range []struct{ off, n int }{{0, 1}, {4095, 2}, {131071, 70000}, {299_990, 100}, {300_000, 1}, {1 << 40, 5}} {
		got := e.readAt(f, int64(at.off), at.n)
		if want := text[min(at.off, len(text)):min(at.off+at.n, len(text))]; !bytes.Equal(got, want) {
			e.Fatalf("%d bytes at %d: %s", at.n, at.off, difference(got, want))
		}
	}
	// a write is taken before it returns: what the caller does to its buffer later does not matter
	mine := bytes.Clone(text[:1000])
	e.write(f, 0, mine)
	clear(mine)
	e.wantContent(f, text)
	if e.stat(f).Blocks == 0 {
		e.Log("blocks are not counted before the content is synced")
	}
	e.ok(e.Fsync(e.ctx, f))
	e.wantContent(f, text)
	if b := e.stat(f).Blocks; b == 0 {
		e.Error("a file with content has no blocks")
	}
	e.wrongContentOps(f)
	e.wantContent(f, text)
}

func (e *env) wrongContentOps(f fs.Ino) {
	ctx, p := e.ctx, make([]byte, 10)
	d := e.dir(fs.Root, "d")
	fifo, err := e.Mknod(ctx, owner, fs.Root, "fifo", fs.TypeFifo|0o600, 0)
	e.ok(err)
	for ino, wrong := range map[fs.Ino]error{d: fs.ErrIsDir, fifo.Ino: fs.ErrInvalid, 1 << 40: fs.ErrNotExist} {
		_, err := e.Read(ctx, ino, 0, p)
		e.want(err, wrong, "read")
		e.want(e.Write(ctx, ino, 0, p), wrong, "write")
		e.want(e.Allocate(ctx, ino, 0, 0, 1), wrong, "allocate")
		_, err = e.Seek(ctx, ino, 0, fs.SeekData)
		e.want(err, wrong, "seek")
		_, err = e.Setattr(ctx, ino, fs.SetAttr{Mask: fs.SetSize})
		e.want(err, wrong, "truncate")
		_, err = e.CopyRange(ctx, ino, 0, f, 0, 1)
		e.want(err, wrong, "copy from")
		_, err = e.CopyRange(ctx, f, 0, ino, 0, 1)
		e.want(err, wrong, "copy to")
		_, err = e.ReplaceContent(ctx, f, ino)
		e.want(err, wrong, "replace from")
		_, err = e.ReplaceContent(ctx, ino, f)
		e.want(err, wrong, "replace")
	}
	_, err = e.Read(ctx, f, -1, p)
	e.want(err, fs.ErrInvalid, "read")
	e.want(e.Write(ctx, f, -1, p), fs.ErrInvalid, "write")
	e.want(e.Write(ctx, f, fs.MaxFile-9, p), fs.ErrFileTooBig, "write")
	e.want(e.Write(ctx, f, math.MaxInt64, p), fs.ErrFileTooBig, "write")
	_, err = e.Setattr(ctx, f, fs.SetAttr{Mask: fs.SetSize, Size: -1})
	e.want(err, fs.ErrInvalid, "truncate")
	_, err = e.Setattr(ctx, f, fs.SetAttr{Mask: fs.SetSize, Size: fs.MaxFile + 1})
	e.want(err, fs.ErrFileTooBig, "truncate")
	e.want(e.Allocate(ctx, f, 0, -1, 1), fs.ErrInvalid, "allocate")
	e.want(e.Allocate(ctx, f, 0, 0, 0), fs.ErrInvalid, "allocate")
	e.want(e.Allocate(ctx, f, 0, 10, fs.MaxFile-9), fs.ErrFileTooBig, "allocate")
	e.want(e.Allocate(ctx, f, 0, math.MaxInt64, math.MaxInt64), fs.ErrFileTooBig, "allocate")
	e.want(e.Allocate(ctx, f, fs.AllocPunchHole, 0, 1), fs.ErrNotSupported, "punch without keep-size")
	e.want(e.Allocate(ctx, f, 0x40, 0, 1), fs.ErrNotSupported, "an unknown mode")
}

// sparse: what was never written reads as zeroes and takes no space.
func sparse(e *env) {
	f := e.file(fs.Root, "f")
	const far = 1 << 40
	e.write(f, far, []byte("end"))
	e.write(f, 10*mib, []byte("middle"))
	if a := e.stat(f); a.Size != far+3 {
		e.Fatalf("size is %d", a.Size)
	}
	want := make([]byte, 100)
	copy(want[50:], "middle")
	if got := e.readAt(f, 10*mib-50, 100); !bytes.Equal(got, want) {
		e.Fatal(difference(got, want))
	}
	if got := e.readAt(f, 5<<30, 3*mib); !bytes.Equal(got, make([]byte, 3*mib)) {
		e.Fatal("a hole does not read as zeroes")
	}
	if got := e.readAt(f, far-2, 10); string(got) != "\x00\x00end" {
		e.Fatalf("the end is %q", got)
	}
	e.ok(e.Fsync(e.ctx, f))
	if b := e.stat(f).Blocks; b*512 > 64*mib {
		e.Errorf("a file of two words takes %d blocks", b)
	}
	e.setSize(f, fs.MaxFile)
	if got := e.readAt(f, fs.MaxFile-5, 10); !bytes.Equal(got, make([]byte, 5)) {
		e.Fatalf("the end of the largest file is %q", got)
	}
	e.write(f, fs.MaxFile-1, []byte("!"))
	e.setSize(f, 0)
	e.wantContent(f, nil)
}

// truncate: what was cut off never comes back.
func truncate(e *env) {
	for _, sync := range []bool{false, true} {
		for _, size := range []int{0, 1, 4095, 4096, 4097, 131072, 4*mib - 1, 4 * mib, 4*mib + 1, 5*mib - 1} {
			for _, grow := range []string{"truncate", "write", "allocate"} {
				f := e.file(fs.Root, "f")
				text := noise(uint64(size), 5*mib)
				e.write(f, 0, text)
				if sync && grow == "truncate" {
					e.ok(e.Fsync(e.ctx, f))
				}
				e.setSize(f, int64(size))
				want := make([]byte, 6*mib)
				copy(want, text[:size])
				switch grow {
				case "truncate":
					e.setSize(f, 6*mib)
				case "write":
					e.write(f, 6*mib-1, []byte{0})
				case "allocate":
					e.ok(e.Allocate(e.ctx, f, 0, 6*mib-1, 1))
				}
				e.wantContent(f, want)
				e.ok(e.Unlink(e.ctx, fs.Root, "f"))
			}
		}
	}
}

func allocate(e *env) {
	f := e.file(fs.Root, "f")
	want := noise(3, 9*mib)
	e.write(f, 0, want)
	e.ok(e.Allocate(e.ctx, f, 0, 0, 1000))
	e.ok(e.Allocate(e.ctx, f, fs.AllocKeepSize, 8*mib, 8*mib))
	e.wantContent(f, want)
	for _, hole := range []struct {
		m      fs.AllocMode
		off, n int
	}{
		{fs.AllocPunchHole | fs.AllocKeepSize, 10, 20},
		{fs.AllocPunchHole | fs.AllocKeepSize, 4096, 8192},
		{fs.AllocZeroRange, 100_000, 50_001},
		{fs.AllocPunchHole | fs.AllocKeepSize, 3*mib + 7, 5 * mib},
		{fs.AllocZeroRange | fs.AllocKeepSize, 8*mib + 5, mib/2 + 3},
	} {
		e.ok(e.Allocate(e.ctx, f, hole.m, int64(hole.off), int64(hole.n)))
		clear(want[hole.off : hole.off+hole.n])
		e.wantContent(f, want)
	}
	// past the end
	e.ok(e.Allocate(e.ctx, f, fs.AllocPunchHole|fs.AllocKeepSize, 9*mib-100, 1000))
	clear(want[9*mib-100:])
	e.wantContent(f, want)
	e.ok(e.Allocate(e.ctx, f, fs.AllocZeroRange|fs.AllocKeepSize, 9*mib-200, 1000))
	clear(want[9*mib-200:])
	e.wantContent(f, want)
	e.ok(e.Allocate(e.ctx, f, fs.AllocPunchHole|fs.AllocKeepSize, 20*mib, 1000))
	e.wantContent(f, want)
	e.ok(e.Allocate(e.ctx, f, fs.AllocZeroRange, 9*mib-50, 1050))
	want = append(want, make([]byte, 1000)...)
	e.wantContent(f, want)
	e.ok(e.Allocate(e.ctx, f, 0, 9*mib+900, 200))
	want = append(want, make([]byte, 100)...)
	e.wantContent(f, want)

	// everything punched: no space is left in use
	e.ok(e.Allocate(e.ctx, f, fs.AllocPunchHole|fs.AllocKeepSize, 0, 10*mib))
	e.ok(e.Fsync(e.ctx, f))
	if a := e.stat(f); a.Blocks*512 >= 8*mib {
		e.Errorf("a file of holes takes %d blocks", a.Blocks)
	}
}

// seek: wherever holes begin and end exactly, they are zeroes, data is not forgotten, and a large
// hole is found.
func seek(e *env) {
	f := e.file(fs.Root, "f")
	at := func(off int64, whence int, want int64) {
		e.Helper()
		if got, err := e.Seek(e.ctx, f, off, whence); err != nil || got != want {
			e.Fatalf("seek %d from %d is %d, %v; want %d", whence, off, got, err, want)
		}
	}
	nothing := func(off int64, whence int) {
		e.Helper()
		_, err := e.Seek(e.ctx, f, off, whence)
		e.want(err, fs.ErrNoData)
	}
	nothing(0, fs.SeekData)
	nothing(0, fs.SeekHole)
	e.write(f, 0, []byte("data"))
	at(0, fs.SeekData, 0)
	at(2, fs.SeekData, 2)
	at(0, fs.SeekHole, 4)
	at(3, fs.SeekHole, 4)
	nothing(4, fs.SeekHole)
	nothing(4, fs.SeekData)
	nothing(-1, fs.SeekData)

	const far = 64 * mib
	e.write(f, far, []byte("data"))
	hole, err := e.Seek(e.ctx, f, 0, fs.SeekHole)
	e.ok(err)
	data, err := e.Seek(e.ctx, f, hole, fs.SeekData)
	e.ok(err)
	if hole < 4 || hole > 8*mib || data > far || data < far-8*mib {
		e.Errorf("the hole of 64 MiB is at %d to %d", hole, data)
	}
	at(far, fs.SeekData, far)
	at(far+1, fs.SeekHole, far+4)
	e.setSize(f, 2*far)
	nothing(far+8*mib, fs.SeekData)
	_, err = e.Seek(e.ctx, f, 0, 7)
	e.want(err, fs.ErrInvalid)

	e.setSize(f, 0)
	e.setSize(f, far)
	nothing(0, fs.SeekData)
	at(5, fs.SeekHole, 5)
}

// bigFile writes past 4 GiB in a few places.
func bigFile(e *env) {
	f := e.file(fs.Root, "f")
	offsets := []int64{0, 1<<32 - 3, 1 << 32, 1<<32 + 4*mib - 1, 6 << 30}
	for i, off := range offsets {
		e.write(f, off, noise(uint64(i), 5))
	}
	e.ok(e.Fsync(e.ctx, f))
	for i, off := range offsets[2:] {
		if got := e.readAt(f, off, 5); !bytes.Equal(got, noise(uint64(i+2), 5)) {
			e.Fatalf("at %d: %x", off, got)
		}
	}
	if got := e.readAt(f, 1<<32-3, 3); !bytes.Equal(got, noise(1, 3)) {
		e.Fatalf("before 4 GiB: %x", got)
	}
	if a := e.stat(f); a.Size != 6<<30+5 {
		e.Fatalf("size is %d", a.Size)
	}
}
