package fstest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

func attributes(e *env) {
	f := e.fileWith(fs.Root, "f", []byte("content"))
	set := func(s fs.SetAttr) (before, after fs.Attr) {
		e.Helper()
		before = e.stat(f)
		after, err := e.Setattr(e.ctx, f, s)
		e.ok(err)
		if after != e.stat(f) {
			e.Fatalf("setattr answers %+v, getattr says %+v", after, e.stat(f))
		}
		if after.Version <= before.Version {
			e.Fatalf("the version went from %d to %d", before.Version, after.Version)
		}
		after.Version = before.Version
		return before, after
	}
	for _, c := range []struct {
		name string
		set  fs.SetAttr
		want func(a *fs.Attr)
	}{
		{"mode", fs.SetAttr{Mask: fs.SetMode, Mode: 0o4751}, func(a *fs.Attr) { a.Mode = fs.TypeRegular | 0o4751 }},
		{"mode with a type", fs.SetAttr{Mask: fs.SetMode, Mode: fs.TypeDir | 0o1640}, func(a *fs.Attr) { a.Mode = fs.TypeRegular | 0o1640 }},
		{"uid", fs.SetAttr{Mask: fs.SetUID, UID: 7, GID: 8}, func(a *fs.Attr) { a.UID = 7 }},
		{"gid", fs.SetAttr{Mask: fs.SetGID, UID: 9, GID: 1<<32 - 2}, func(a *fs.Attr) { a.GID = 1<<32 - 2 }},
		{"atime", fs.SetAttr{Mask: fs.SetAtime, Atime: 1_234_567_890_123_456_789}, func(a *fs.Attr) { a.Atime = 1_234_567_890_123_456_789 }},
		{"mtime before the epoch", fs.SetAttr{Mask: fs.SetMtime, Mtime: -1_500_000_001}, func(a *fs.Attr) { a.Mtime = -1_500_000_001 }},
		{"size with mtime", fs.SetAttr{Mask: fs.SetSize | fs.SetMtime, Size: 3, Mtime: 5}, func(a *fs.Attr) { a.Size, a.Mtime = 3, 5 }},
	} {
		before, after := set(c.set)
		if after.Ctime <= before.Ctime {
			e.Errorf("%s: ctime stayed", c.name)
		}
		before.Ctime, before.Blocks = after.Ctime, after.Blocks
		if c.want(&before); after != before {
			e.Errorf("%s:\n got %+v\nwant %+v", c.name, after, before)
		}
	}
	at := instant()
	if _, a := set(fs.SetAttr{Mask: fs.SetAtimeNow | fs.SetMtimeNow}); a.Atime < at || a.Mtime < at || a.Ctime < at {
		e.Errorf("now: %+v is before %d", a, at)
	}
	before := e.stat(f)
	if a, err := e.Setattr(e.ctx, f, fs.SetAttr{}); err != nil || a != before {
		e.Errorf("an empty setattr: %+v, %v", a, err)
	}
	_, err := e.Setattr(e.ctx, 1<<40, fs.SetAttr{Mask: fs.SetMode})
	e.want(err, fs.ErrNotExist)
	_, err = e.Setattr(e.ctx, fs.Root, fs.SetAttr{Mask: fs.SetSize, Size: 1})
	e.want(err, fs.ErrIsDir)
	e.ok(e.Fsync(e.ctx, f))
	e.ok(e.Fsync(e.ctx, fs.Root))
	e.want(e.Fsync(e.ctx, 1<<40), fs.ErrNotExist)
	e.ok(e.Sync(e.ctx))
}

func xattrs(e *env) {
	f := e.file(fs.Root, "f")
	l, err := e.Symlink(e.ctx, owner, fs.Root, "l", "x")
	e.ok(err)
	for _, ino := range []fs.Ino{f, fs.Root, l.Ino} {
		names, err := e.ListXattr(e.ctx, ino)
		if e.ok(err); len(names) != 0 {
			e.Fatalf("a new inode has %q", names)
		}
		e.ok(e.SetXattr(e.ctx, ino, "trusted.one", []byte("1"), 0))
		e.ok(e.SetXattr(e.ctx, ino, "user.two", nil, fs.XattrCreate))
		e.ok(e.SetXattr(e.ctx, ino, "trusted.one", []byte("\x00again"), fs.XattrReplace))
		e.want(e.SetXattr(e.ctx, ino, "user.two", []byte("x"), fs.XattrCreate), fs.ErrExist)
		e.want(e.SetXattr(e.ctx, ino, "user.none", []byte("x"), fs.XattrReplace), fs.ErrNoAttr)
		e.want(e.SetXattr(e.ctx, ino, "user.two", []byte("x"), 1<<5), fs.ErrInvalid)
		if v, err := e.GetXattr(e.ctx, ino, "trusted.one"); err != nil || string(v) != "\x00again" {
			e.Fatalf("the value is %q, %v", v, err)
		}
		if v, err := e.GetXattr(e.ctx, ino, "user.two"); err != nil || len(v) != 0 {
			e.Fatalf("the value is %q, %v", v, err)
		}
		_, err = e.GetXattr(e.ctx, ino, "user.none")
		e.want(err, fs.ErrNoAttr)
		e.want(e.RemoveXattr(e.ctx, ino, "user.none"), fs.ErrNoAttr)
		names, err = e.ListXattr(e.ctx, ino)
		e.ok(err)
		if slices.Sort(names); !slices.Equal(names, []string{"trusted.one", "user.two"}) {
			e.Fatalf("the list is %q", names)
		}
		e.ok(e.RemoveXattr(e.ctx, ino, "trusted.one"))
		_, err = e.GetXattr(e.ctx, ino, "trusted.one")
		e.want(err, fs.ErrNoAttr)
	}
	e.xattrLimits(f)
	_, err = e.GetXattr(e.ctx, 1<<40, "user.a")
	e.want(err, fs.ErrNotExist)
	_, err = e.ListXattr(e.ctx, 1<<40)
	e.want(err, fs.ErrNotExist)
	e.want(e.SetXattr(e.ctx, 1<<40, "user.a", nil, 0), fs.ErrNotExist)
	e.want(e.RemoveXattr(e.ctx, 1<<40, "user.a"), fs.ErrNotExist)

	// they go with the inode, and stay with it through a rename
	e.ok(e.Rename(e.ctx, fs.Root, "f", fs.Root, "g", 0))
	_, err = e.GetXattr(e.ctx, f, "user.two")
	e.ok(err)
	e.ok(e.Unlink(e.ctx, fs.Root, "g"))
	if names, err := e.ListXattr(e.ctx, e.file(fs.Root, "g")); err != nil || len(names) != 0 {
		e.Fatalf("a new inode has %q, %v", names, err)
	}
}

func (e *env) xattrLimits(f fs.Ino) {
	big := noise(1, fs.MaxXattr)
	e.ok(e.SetXattr(e.ctx, f, "user.big", big, 0))
	if v, err := e.GetXattr(e.ctx, f, "user.big"); err != nil || !bytes.Equal(v, big) {
		e.Fatalf("the largest value: %d bytes, %v", len(v), err)
	}
	e.want(e.SetXattr(e.ctx, f, "user.big", append(big, 1), 0), fs.ErrTooBig)
	e.ok(e.RemoveXattr(e.ctx, f, "user.big"))

	long := "user." + strings.Repeat("n", fs.MaxName-5)
	e.ok(e.SetXattr(e.ctx, f, long, []byte("v"), 0))
	e.ok(e.RemoveXattr(e.ctx, f, long))
	e.want(e.SetXattr(e.ctx, f, long+"n", []byte("v"), 0), fs.ErrNameTooLong)
	e.want(e.SetXattr(e.ctx, f, "", []byte("v"), 0), fs.ErrInvalid)

	// the list of names, each with a zero byte, has room for this many and not for one more
	g := e.file(fs.Root, "many")
	for i := range fs.MaxXattr / (fs.MaxName + 1) {
		e.ok(e.SetXattr(e.ctx, g, fmt.Sprintf("user.%0250d", i), nil, 0))
	}
	e.want(e.SetXattr(e.ctx, g, "u", nil, 0), fs.ErrNoSpace)
	e.ok(e.SetXattr(e.ctx, g, fmt.Sprintf("user.%0250d", 3), []byte("replaced"), 0))
	names, err := e.ListXattr(e.ctx, g)
	if e.ok(err); len(names) != 256 {
		e.Fatalf("%d names are listed", len(names))
	}
}

func statFS(e *env) {
	s, err := e.StatFS(e.ctx)
	e.ok(err)
	if s.Total == 0 || s.Free > s.Total || s.Avail > s.Free || s.FilesFree == 0 || s.FilesFree > s.Files {
		e.Fatalf("statfs says %+v", s)
	}
}
