package mount

import (
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/gabionfs/gabion/fs"
)

// openFlags are those of files that are created; others are never opened, so far as we are told: Open
// answers ENOSYS, and the kernel then opens on its own with the cache kept, and closes on its own.
const openFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH

func (r *raw) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (r *raw) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (r *raw) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (r *raw) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

func (r *raw) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := r.fs.Read(r.ctx, fs.Ino(in.NodeId), int64(in.Offset), buf[:min(int(in.Size), len(buf))])
	if err != nil {
		return nil, r.status("read", in.NodeId, err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (r *raw) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	ino := fs.Ino(in.NodeId)
	if in.Offset > math.MaxInt64 {
		return 0, fuse.Status(syscall.EFBIG)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := r.killPrivileges(ino); err != nil {
			return 0, r.status("write", in.NodeId, err)
		}
	}
	if err := r.fs.Write(r.ctx, ino, int64(in.Offset), data); err != nil {
		return 0, r.status("write", in.NodeId, err)
	}
	return uint32(len(data)), fuse.OK
}

func (r *raw) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return r.status("fsync", in.NodeId, r.fs.Fsync(r.ctx, fs.Ino(in.NodeId)))
}

func (r *raw) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return r.status("fsyncdir", in.NodeId, r.fs.Fsync(r.ctx, fs.Ino(in.NodeId)))
}

func (r *raw) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	ino := fs.Ino(in.NodeId)
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64 {
		return fuse.Status(syscall.EFBIG)
	}
	if in.Uid != 0 {
		if err := r.killPrivileges(ino); err != nil {
			return r.status("fallocate", in.NodeId, err)
		}
	}
	return r.status("fallocate", in.NodeId, r.fs.Allocate(r.ctx, ino, fs.AllocMode(in.Mode), int64(in.Offset), int64(in.Length)))
}

func (r *raw) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	off, err := r.fs.Seek(r.ctx, fs.Ino(in.NodeId), int64(in.Offset), int(in.Whence))
	if err != nil {
		return r.status("lseek", in.NodeId, err)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

func (r *raw) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	dst := fs.Ino(in.NodeIdOut)
	if in.Uid != 0 {
		if err := r.killPrivileges(dst); err != nil {
			return 0, r.status("copy", in.NodeIdOut, err)
		}
	}
	// The answer has 32 bits; whole blocks of any size keep the next call aligned.
	n := int64(min(in.Len, 1<<31))
	n, err := r.fs.CopyRange(r.ctx, fs.Ino(in.NodeId), int64(in.OffIn), dst, int64(in.OffOut), n)
	if err != nil {
		return 0, r.status("copy", in.NodeId, err)
	}
	return uint32(n), fuse.OK
}

func (r *raw) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}
