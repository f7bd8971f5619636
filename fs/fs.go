// Package fs is the vocabulary of gabion's filesystem: the contract between what exports a tree (a
// FUSE mount, WebDAV) and what keeps it.
//
// What an FS promises:
//
//   - Every namespace operation is one transaction: after a crash it happened whole or not at all, and
//     what happened is a prefix of what was asked for.
//   - A file's content after a crash is an earlier content of that file, whole. What Fsync or Sync
//     returned for survives power loss.
//   - Bytes read were verified against a checksum, or the read fails with ErrIO.
//   - POSIX semantics of names, links, times and modes. Permission bits are stored and maintained here
//     but enforced by the exporter (the kernel, or the WebDAV server's user rules).
//
// Implementations: fs/volume over keyspaces and objects; fs/memfs, the reference model. fs/fstest is
// the suite that both pass.
package fs

import "context"

// Limits of the contract.
const (
	MaxName    = 255       // bytes in a name
	MaxSymlink = 4095      // bytes in a symlink's target
	MaxXattr   = 64 << 10  // bytes in an extended attribute's value, and in the list of names
	MaxFile    = 1<<53 - 1 // bytes in a file
	MaxLink    = 1 << 30   // hard links to an inode
)

// Ino is an inode number. Numbers are never reused.
type Ino uint64

// Root is the inode number of the root directory.
const Root Ino = 1

// File types, the S_IFMT part of a mode.
const (
	TypeMask    uint32 = 0o170000
	TypeSocket  uint32 = 0o140000
	TypeSymlink uint32 = 0o120000
	TypeRegular uint32 = 0o100000
	TypeBlock   uint32 = 0o060000
	TypeDir     uint32 = 0o040000
	TypeChar    uint32 = 0o020000
	TypeFifo    uint32 = 0o010000

	ModeSetuid uint32 = 0o4000
	ModeSetgid uint32 = 0o2000
	ModeSticky uint32 = 0o1000
)

// Attr is what stat tells of an inode. Times are nanoseconds since the Unix epoch.
type Attr struct {
	Ino                        Ino
	Mode                       uint32 // type and permission bits, as in st_mode
	Nlink                      uint32
	UID, GID                   uint32
	Rdev                       uint32 // of devices, in the kernel's encoding
	Size                       int64
	Blocks                     int64 // units of 512 bytes
	Atime, Mtime, Ctime, Btime int64
	Version                    uint64 // rises with every change of content or attributes
}

// IsDir reports whether a is of a directory; IsRegular likewise of a regular file.
func (a *Attr) IsDir() bool     { return a.Mode&TypeMask == TypeDir }
func (a *Attr) IsRegular() bool { return a.Mode&TypeMask == TypeRegular }

// SetMask says which fields of a SetAttr are to be set.
type SetMask uint8

const (
	SetMode SetMask = 1 << iota // permission bits; the type never changes
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetAtimeNow // to the server's clock
	SetMtimeNow
)

// SetAttr is a change of attributes. Ctime becomes now with any of them.
type SetAttr struct {
	Mask         SetMask
	Mode         uint32
	UID, GID     uint32
	Size         int64
	Atime, Mtime int64
}

// Cred is who creates an inode: its owner. Umask was applied by the caller.
type Cred struct{ UID, GID uint32 }

// Dirent is one entry of a directory. Cookie is its position: stable while the entry exists, whatever
// else is added or removed, and never 0, 1 or 2 ("." and ".." belong to the exporter).
type Dirent struct {
	Ino    Ino
	Type   uint32 // TypeDir, ...
	Cookie uint64 // fits 63 bits
	Name   string
}

// RenameFlags are those of renameat2(2); they exclude each other.
type RenameFlags uint32

const (
	RenameNoReplace RenameFlags = 1 << iota
	RenameExchange
)

// AllocMode is the mode of fallocate(2).
type AllocMode uint32

const (
	AllocKeepSize  AllocMode = 0x1
	AllocPunchHole AllocMode = 0x2 // with AllocKeepSize
	AllocZeroRange AllocMode = 0x10
)

// Whence of Seek.
const (
	SeekData = 3
	SeekHole = 4
)

// XattrMode is the flags argument of setxattr(2).
type XattrMode uint32

const (
	XattrCreate  XattrMode = 1
	XattrReplace XattrMode = 2
)

// Stat is the state of the whole filesystem. Sizes are bytes of user data after coding.
type Stat struct {
	Total, Free, Avail uint64
	Files, FilesFree   uint64
}

// FS is a tree of inodes. Safe for concurrent use. Names are one path component, never "", "." or "..";
// an implementation checks them again. Errors match those of errors.go.
//
// A change that has begun is finished even when its context is cancelled.
type FS interface {
	// Lookup returns ErrNotExist when parent has no such entry.
	Lookup(ctx context.Context, parent Ino, name string) (Attr, error)
	Getattr(ctx context.Context, ino Ino) (Attr, error)
	Setattr(ctx context.Context, ino Ino, s SetAttr) (Attr, error)
	// Parent returns the directory that holds directory dir; Root is its own parent.
	Parent(ctx context.Context, dir Ino) (Ino, error)

	// Mknod creates an inode of any type but directory and symlink; type 0 is a regular file. ErrExist when
	// the name is taken. In a directory with the set-group-ID bit everything that is created gets the
	// directory's group, and directories get the bit.
	Mknod(ctx context.Context, c Cred, parent Ino, name string, mode, rdev uint32) (Attr, error)
	Mkdir(ctx context.Context, c Cred, parent Ino, name string, mode uint32) (Attr, error)
	Symlink(ctx context.Context, c Cred, parent Ino, name, target string) (Attr, error)
	Readlink(ctx context.Context, ino Ino) (string, error)
	// Tmpfile creates a regular file without a name, held once as by Hold. Link gives it one.
	Tmpfile(ctx context.Context, c Cred, parent Ino, mode uint32) (Attr, error)
	Link(ctx context.Context, ino, parent Ino, name string) (Attr, error)
	Unlink(ctx context.Context, parent Ino, name string) error
	Rmdir(ctx context.Context, parent Ino, name string) error
	Rename(ctx context.Context, parent Ino, name string, newParent Ino, newName string, f RenameFlags) error
	// ReadDir calls fn for the entries of dir whose cookie is above after, in cookie order, until fn
	// returns false. With plus, a is the entry's attributes, else nil. fn must not call the FS.
	ReadDir(ctx context.Context, dir Ino, after uint64, plus bool, fn func(d Dirent, a *Attr) bool) error

	// Read fills p from off and returns fewer bytes only at the end of the file.
	Read(ctx context.Context, ino Ino, off int64, p []byte) (int, error)
	// Write takes all of p or fails. It does not keep p.
	Write(ctx context.Context, ino Ino, off int64, p []byte) error
	// Fsync makes the content of ino and the inode itself durable, and everything that was sequenced
	// before it.
	Fsync(ctx context.Context, ino Ino) error
	Allocate(ctx context.Context, ino Ino, m AllocMode, off, length int64) error
	// Seek returns the next offset at or after off in data or in a hole; ErrNoData past the last.
	Seek(ctx context.Context, ino Ino, off int64, whence int) (int64, error)
	// CopyRange copies up to n bytes by reference where blocks align, and returns how many it copied:
	// fewer than n only at the end of src. ErrInvalid when src is dst and the ranges overlap.
	CopyRange(ctx context.Context, src Ino, srcOff int64, dst Ino, dstOff, n int64) (int64, error)
	// ReplaceContent gives dst the content of src in one transaction, and leaves src empty. dst keeps
	// its number, links, mode, owner and extended attributes.
	ReplaceContent(ctx context.Context, dst, src Ino) (Attr, error)

	GetXattr(ctx context.Context, ino Ino, name string) ([]byte, error)
	SetXattr(ctx context.Context, ino Ino, name string, value []byte, m XattrMode) error
	RemoveXattr(ctx context.Context, ino Ino, name string) error
	ListXattr(ctx context.Context, ino Ino) ([]string, error)

	// Hold keeps ino, and its content, alive without a name until Drop has been called as many times as
	// Hold. Hold fails with ErrNotExist when the inode is gone already.
	Hold(ino Ino) error
	Drop(ino Ino, n uint64)

	StatFS(ctx context.Context) (Stat, error)
	// Sync is Fsync of everything.
	Sync(ctx context.Context) error
}

// Watcher is told of changes that others made, after they were sequenced and before the operation that
// made them returns. Its methods are called without any lock of the FS held, and may block on the kernel.
type Watcher interface {
	// EntryChanged: the entry name of dir was added, removed or now means another inode. It implies that the
	// attributes of dir changed.
	EntryChanged(dir Ino, name string)
	// InodeChanged: attributes of ino changed, and its content when content is set.
	InodeChanged(ino Ino, content bool)
}
