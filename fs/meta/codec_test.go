package meta

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/fs"
)

func genInode(t *rapid.T) Inode {
	in := Inode{Attr: fs.Attr{
		Ino:   fs.Ino(rapid.Uint64().Draw(t, "ino")),
		Mode:  rapid.Uint32Range(0, 0o7777).Draw(t, "mode") | rapid.SampledFrom([]uint32{fs.TypeDir, fs.TypeRegular, fs.TypeSymlink, fs.TypeFifo, fs.TypeSocket, fs.TypeChar, fs.TypeBlock}).Draw(t, "type"),
		Nlink: rapid.Uint32Range(0, fs.MaxLink).Draw(t, "nlink"), UID: rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
		Size: rapid.Int64Range(0, fs.MaxFile).Draw(t, "size"), Blocks: rapid.Int64Range(0, fs.MaxFile).Draw(t, "blocks"),
		Btime: rapid.Int64().Draw(t, "btime"), Ctime: rapid.Int64().Draw(t, "ctime"), Mtime: rapid.Int64().Draw(t, "mtime"), Atime: rapid.Int64().Draw(t, "atime"),
		Version: rapid.Uint64().Draw(t, "version"),
	}, Xattrs: rapid.Uint32().Draw(t, "xattrs")}
	switch in.Mode & fs.TypeMask {
	case fs.TypeDir:
		in.Parent = fs.Ino(rapid.Uint64Range(0, uint64(maxIno)).Draw(t, "parent"))
	case fs.TypeChar, fs.TypeBlock:
		in.Rdev = rapid.Uint32().Draw(t, "rdev")
	case fs.TypeSymlink:
		in.Target = string(rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "target"))
		in.Size = int64(len(in.Target))
	case fs.TypeRegular:
		in.Content = rapid.SampledFrom([]uint64{uint64(in.Ino), 1, math.MaxUint64}).Draw(t, "content")
	}
	return in
}

func TestInodeCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := genInode(t)
		b := encodeInode(nil, &in)
		if got, err := decodeInode(in.Ino, b); err != nil || got != in {
			t.Fatalf("%+v came back as %+v, %v", in, got, err)
		}
		for n := range len(b) { // no prefix of a row is a row, but for a symlink's or content's tail, which the size guards
			if got, err := decodeInode(in.Ino, b[:n]); err == nil && !got.IsRegular() {
				t.Fatalf("%d of %d bytes decode to %+v", n, len(b), got)
			}
		}
	})
}

// TestInodeRow holds the format: rows of version 1 stay readable.
func TestInodeRow(t *testing.T) {
	now := time.Date(2025, 1, 2, 3, 4, 5, 678, time.UTC).UnixNano()
	in := Inode{Content: 99, Attr: fs.Attr{Ino: 99, Mode: fs.TypeRegular | 0o644, Nlink: 1, UID: 1000, GID: 100, Size: 4096, Blocks: 8,
		Version: 3, Btime: now, Ctime: now + 5, Mtime: now, Atime: now}}
	row := []byte{1, 0xa4, 0x83, 0x02, 1, 0xe8, 0x07, 100, 0x80, 0x20, 8, 3, 0,
		0x18, 0x16, 0xc1, 0x1e, 0xee, 0xf3, 0x34, 0xa6, 10, 9, 0}
	if b := encodeInode(nil, &in); !bytes.Equal(b, row) {
		t.Errorf("the row is % x, want % x", b, row)
	}
	if got, err := decodeInode(99, row); err != nil || got != in {
		t.Errorf("%+v, %v", got, err)
	}
}

func isDamaged(err error) bool {
	var d *DamagedError
	return errors.As(err, &d) && errors.Is(err, fs.ErrIO) && d.Error() != ""
}

func FuzzInode(f *testing.F) {
	for _, mode := range []uint32{fs.TypeRegular, fs.TypeDir, fs.TypeSymlink, fs.TypeChar, fs.TypeFifo} {
		in := Inode{Attr: fs.Attr{Ino: 2, Mode: mode | 0o644, Nlink: 1, Size: 3, Btime: 1}, Parent: 1, Target: "abc", Content: 77}
		f.Add(encodeInode(nil, &in))
	}
	f.Add([]byte{})
	f.Add([]byte{2})
	f.Add([]byte("\x01\xa4\x83\x02000000000000000000\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := decodeInode(2, b)
		if err != nil {
			if !isDamaged(err) || !reflect.ValueOf(in).IsZero() {
				t.Fatalf("%+v, %v", in, err)
			}
			return
		}
		again, err := decodeInode(2, encodeInode(nil, &in))
		if err != nil || again != in {
			t.Fatalf("%+v came back as %+v, %v", in, again, err)
		}
	})
}

func FuzzEntry(f *testing.F) {
	for _, e := range []entry{{1, fs.TypeDir}, {300, fs.TypeRegular}, {maxIno, fs.TypeSocket}} {
		f.Add(append(inodeKey(7), "\x00\x00\x00\x00\x00\x00\x00\x09name"...), encodeEntry(e))
	}
	f.Fuzz(func(t *testing.T, k, b []byte) {
		parent, cookie, name, err := parseDirentKey(k)
		if err == nil {
			if len(name) == 0 || len(name) > fs.MaxName || !bytes.Equal(k, append(append(inodeKey(parent), inodeKey(fs.Ino(cookie))...), name...)) {
				t.Fatalf("%x is %d, %d, %q", k, parent, cookie, name)
			}
		} else if !isDamaged(err) {
			t.Fatal(err)
		}
		e, err := decodeEntry(k, b)
		if err != nil {
			if !isDamaged(err) {
				t.Fatal(err)
			}
			return
		}
		if again, err := decodeEntry(k, encodeEntry(e)); err != nil || again != e {
			t.Fatalf("%+v came back as %+v, %v", e, again, err)
		}
	})
}

func FuzzVolume(f *testing.F) {
	v := Volume{UUID: [16]byte{1}, Created: time.Unix(0, 5), Secret: [32]byte{9}}
	f.Add(encodeVolume(v))
	f.Add([]byte("GABIONFS\x02"))
	f.Add([]byte("GABIONFS\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeVolume(b)
		var newer *VersionError
		switch {
		case err == nil && bytes.Equal(encodeVolume(v), b):
		case err != nil && (isDamaged(err) || errors.As(err, &newer)):
		default:
			t.Fatalf("%x: %v, %v", b, v, err)
		}
	})
}
