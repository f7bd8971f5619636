package fstest

import (
	"github.com/gabionfs/gabion/fs"
)

func copyRange(e *env) {
	src, dst := e.file(fs.Root, "src"), e.file(fs.Root, "dst")
	a, b := noise(5, 9*mib+123), noise(6, 6*mib)
	e.write(src, 0, a)
	e.write(dst, 0, b)
	cp := func(from fs.Ino, srcOff int64, to fs.Ino, dstOff, n, want int64) {
		e.Helper()
		if got, err := e.CopyRange(e.ctx, from, srcOff, to, dstOff, n); err != nil || got != want {
			e.Fatalf("copied %d, %v; want %d", got, err, want)
		}
	}
	cp(src, 100, dst, 5000, 3*mib, 3*mib) // not aligned
	copy(b[5000:], a[100:100+3*mib])
	e.wantContent(dst, b)
	cp(src, 0, dst, 4*mib, 100*mib, 9*mib+123) // whole, aligned, past the end of both
	b = append(b[:4*mib], a...)
	e.wantContent(dst, b)
	e.wantContent(src, a)
	cp(src, 9*mib+123, dst, 0, 10, 0)
	cp(src, 1<<50, dst, 0, 10, 0)
	cp(src, 0, dst, 0, 0, 0)
	e.write(src, 5, []byte("later")) // does not show through
	e.wantContent(dst, b)
	copy(a[5:], "later")

	// inside one file
	cp(src, 0, src, 4*mib, 4*mib, 4*mib)
	copy(a[4*mib:], a[:4*mib])
	e.wantContent(src, a)
	cp(src, 9*mib, src, 9*mib+200, 1000, 123)
	a = append(a, make([]byte, 77)...)
	a = append(a, a[9*mib:9*mib+123]...)
	e.wantContent(src, a)
	for _, off := range [][2]int64{{0, 0}, {0, 1}, {1, 0}, {0, mib - 1}, {mib - 1, 0}} {
		_, err := e.CopyRange(e.ctx, src, off[0], src, off[1], mib)
		e.want(err, fs.ErrInvalid, "overlapping", off)
	}
	cp(src, int64(len(a))-10, src, 0, mib, 10) // only what there is counts as overlapping
	copy(a, a[len(a)-10:])
	e.wantContent(src, a)

	for _, bad := range [][3]int64{{-1, 0, 1}, {0, -1, 1}, {0, 0, -1}} {
		_, err := e.CopyRange(e.ctx, src, bad[0], dst, bad[1], bad[2])
		e.want(err, fs.ErrInvalid, bad)
	}
	_, err := e.CopyRange(e.ctx, src, 0, dst, fs.MaxFile, 1)
	e.want(err, fs.ErrFileTooBig)

	// holes over data
	holes := e.file(fs.Root, "holes")
	e.setSize(holes, 5*mib)
	cp(holes, 0, dst, mib, 5*mib, 5*mib)
	clear(b[mib : 6*mib])
	e.wantContent(dst, b)

	// the copy outlives the source
	e.ok(e.Unlink(e.ctx, fs.Root, "src"))
	e.wantContent(dst, b)
}

func replaceContent(e *env) {
	dst, src := e.fileWith(fs.Root, "dst", noise(1, 5*mib)), e.fileWith(fs.Root, "src", []byte("new"))
	_, err := e.Link(e.ctx, dst, fs.Root, "dst2")
	e.ok(err)
	e.ok(e.SetXattr(e.ctx, dst, "user.a", []byte("kept"), 0))
	_, err = e.Setattr(e.ctx, dst, fs.SetAttr{Mask: fs.SetMode | fs.SetUID, Mode: 0o4640, UID: 4})
	e.ok(err)
	before := e.stat(dst)
	a, err := e.ReplaceContent(e.ctx, dst, src)
	e.ok(err)
	if a.Ino != dst || a.Nlink != 2 || a.Mode != before.Mode || a.UID != 4 || a.Size != 3 || a.Btime != before.Btime || a.Version <= before.Version {
		e.Fatalf("%+v became %+v", before, a)
	}
	e.wantContent(dst, []byte("new"))
	e.wantContent(src, nil)
	if v, err := e.GetXattr(e.ctx, dst, "user.a"); err != nil || string(v) != "kept" {
		e.Fatalf("the attribute is %q, %v", v, err)
	}
	e.write(src, 0, []byte("own again"))
	e.wantContent(dst, []byte("new"))
	_, err = e.ReplaceContent(e.ctx, dst, dst)
	e.want(err, fs.ErrInvalid)

	// staged without a name
	big := noise(2, 9*mib+7)
	tmp, err := e.Tmpfile(e.ctx, owner, fs.Root, 0o600)
	e.ok(err)
	e.write(tmp.Ino, 0, big)
	_, err = e.ReplaceContent(e.ctx, dst, tmp.Ino)
	e.ok(err)
	e.Drop(tmp.Ino, 1)
	e.wantContent(dst, big)
	e.ok(e.Fsync(e.ctx, dst))
	e.wantContent(dst, big)
}
