package meta

import (
	"encoding/binary"
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// What stat tells of every directory: their rows have no size that would mean anything to a user.
const (
	dirSize   = 4096
	dirBlocks = 8
)

// Inode is one row of the inode keyspace.
//
//	[version 1] [mode] [nlink] [uid] [gid] [size] [blocks] [change] [xattrs]   uvarints after the version
//	[btime 8 BE] [ctime-btime] [mtime-ctime] [atime-mtime]                     varints, ns, wrapping
//	[parent]   of a directory, uvarint
//	[rdev]     of a device, uvarint
//	[target]   of a symlink: as many bytes as its size
//	[content]  of a regular file, uvarint; absent when it is the inode number
//
// change is fs.Attr.Version. The inode number is in the key only. A new file's row takes about 23 bytes.
type Inode struct {
	fs.Attr
	Parent fs.Ino // of a directory: which one holds it (Root: itself); 0 of anything else
	Xattrs uint32 // how many extended attributes it has
	Target string // of a symlink

	// Content is the id under which package data keeps the extents of a regular file. A new file's is
	// its inode number.
	Content uint64
}

const inodeVersion = 1

// permMask is the part of a mode that can be set.
const permMask uint32 = 0o7777

// Changed notes a change of attributes at now: ctime and version.
func (in *Inode) Changed(now int64) {
	in.Ctime = now
	in.Version++
}

// Modified notes a change of content at now: mtime, ctime and version.
func (in *Inode) Modified(now int64) {
	in.Mtime = now
	in.Changed(now)
}

// Apply makes the change s at now, all of it but the size, which is a change of content. That a change
// of owner or content takes the setuid bit is the kernel's doing: it sets the mode as well.
func (in *Inode) Apply(s fs.SetAttr, now int64) {
	if s.Mask == 0 {
		return
	}
	if s.Mask&fs.SetMode != 0 {
		in.Mode = in.Mode&fs.TypeMask | s.Mode&permMask
	}
	if s.Mask&fs.SetUID != 0 {
		in.UID = s.UID
	}
	if s.Mask&fs.SetGID != 0 {
		in.GID = s.GID
	}
	if s.Mask&fs.SetAtime != 0 {
		in.Atime = s.Atime
	}
	if s.Mask&fs.SetMtime != 0 {
		in.Mtime = s.Mtime
	}
	if s.Mask&fs.SetAtimeNow != 0 {
		in.Atime = now
	}
	if s.Mask&fs.SetMtimeNow != 0 {
		in.Mtime = now
	}
	in.Changed(now)
}

// GetInode reads an inode; fs.ErrNotExist (bare) when there is none.
func GetInode(r kv.Reader, ino fs.Ino) (Inode, error) {
	key := inodeKey(ino)
	b, err := r.Get(InodeKeyspace, key)
	if err != nil {
		if errors.Is(err, kv.ErrNotFound) {
			err = fs.ErrNotExist
		}
		return Inode{}, err
	}
	return decodeInode(ino, b)
}

// PutInode writes in as it is: whoever changed it has called Changed or Modified.
func PutInode(t kv.Txn, in *Inode) {
	t.Put(InodeKeyspace, inodeKey(in.Ino), encodeInode(make([]byte, 0, 48+len(in.Target)), in))
}

func inodeKey(ino fs.Ino) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(ino))
}

// inoOf is the inode number that a key begins with.
func inoOf(key []byte) fs.Ino { return fs.Ino(binary.BigEndian.Uint64(key)) }

func encodeInode(b []byte, in *Inode) []byte {
	b = append(b, inodeVersion)
	b = binary.AppendUvarint(b, uint64(in.Mode))
	b = binary.AppendUvarint(b, uint64(in.Nlink))
	b = binary.AppendUvarint(b, uint64(in.UID))
	b = binary.AppendUvarint(b, uint64(in.GID))
	b = binary.AppendUvarint(b, uint64(in.Size))
	b = binary.AppendUvarint(b, uint64(in.Blocks))
	b = binary.AppendUvarint(b, in.Version)
	b = binary.AppendUvarint(b, uint64(in.Xattrs))
	b = binary.BigEndian.AppendUint64(b, uint64(in.Btime))
	b = binary.AppendVarint(b, in.Ctime-in.Btime)
	b = binary.AppendVarint(b, in.Mtime-in.Ctime)
	b = binary.AppendVarint(b, in.Atime-in.Mtime)
	switch in.Mode & fs.TypeMask {
	case fs.TypeDir:
		b = binary.AppendUvarint(b, uint64(in.Parent))
	case fs.TypeChar, fs.TypeBlock:
		b = binary.AppendUvarint(b, uint64(in.Rdev))
	case fs.TypeSymlink:
		b = append(b, in.Target...)
	case fs.TypeRegular:
		if in.Content != 0 && in.Content != uint64(in.Ino) {
			b = binary.AppendUvarint(b, in.Content)
		}
	}
	return b
}

func decodeInode(ino fs.Ino, b []byte) (Inode, error) {
	d := decoder{rest: b}
	if version := d.byte(); version != inodeVersion && d.reason == "" {
		return Inode{}, damaged(InodeKeyspace, inodeKey(ino), "version %d", version)
	}
	in := Inode{Attr: fs.Attr{
		Ino:     ino,
		Mode:    uint32(d.uvarint(0o177777, "mode")),
		Nlink:   uint32(d.uvarint(fs.MaxLink, "nlink")),
		UID:     uint32(d.uvarint(1<<32-1, "uid")),
		GID:     uint32(d.uvarint(1<<32-1, "gid")),
		Size:    int64(d.uvarint(fs.MaxFile, "size")),
		Blocks:  int64(d.uvarint(fs.MaxFile, "blocks")),
		Version: d.uvarint(1<<64-1, "change"),
	}}
	in.Xattrs = uint32(d.uvarint(1<<32-1, "xattrs"))
	in.Btime = d.int64()
	in.Ctime = in.Btime + d.varint()
	in.Mtime = in.Ctime + d.varint()
	in.Atime = in.Mtime + d.varint()
	switch in.Mode & fs.TypeMask {
	case fs.TypeDir:
		in.Parent = fs.Ino(d.uvarint(uint64(maxIno), "parent"))
	case fs.TypeChar, fs.TypeBlock:
		in.Rdev = uint32(d.uvarint(1<<32-1, "rdev"))
	case fs.TypeSymlink:
		in.Target = d.target(in.Size)
	case fs.TypeRegular:
		if in.Content = uint64(ino); len(d.rest) != 0 {
			if in.Content = d.uvarint(1<<64-1, "content"); in.Content == 0 {
				d.fail("content")
			}
		}
	case fs.TypeFifo, fs.TypeSocket:
	default:
		d.fail("type")
	}
	if len(d.rest) != 0 {
		d.fail("length")
	}
	if d.reason != "" {
		return Inode{}, damaged(InodeKeyspace, inodeKey(ino), "%s", d.reason)
	}
	return in, nil
}

// decoder reads fields from a row and remembers the first that was wrong.
type decoder struct {
	rest   []byte
	reason string
}

func (d *decoder) fail(field string) {
	if d.reason == "" {
		d.reason = "bad " + field
	}
	d.rest = nil
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail("length")
		return 0
	}
	c := d.rest[0]
	d.rest = d.rest[1:]
	return c
}

func (d *decoder) uvarint(limit uint64, field string) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > limit {
		d.fail(field)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail("time")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int64() int64 {
	if len(d.rest) < 8 {
		d.fail("time")
		return 0
	}
	v := int64(binary.BigEndian.Uint64(d.rest))
	d.rest = d.rest[8:]
	return v
}

func (d *decoder) target(size int64) string {
	if size < 1 || size > fs.MaxSymlink || int64(len(d.rest)) != size {
		d.fail("target")
		return ""
	}
	s := string(d.rest)
	d.rest = nil
	return s
}
