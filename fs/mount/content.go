package mount

import (
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/gabionfs/gabion/fs"
)

// Only files that are created are opened, so far as we are told: Open answers ENOSYS, and the kernel then
// opens all others on its own, with the cache kept, and closes all on its own. So a handle says one bit.
const (
	cachedHandle = iota
	directHandle // its writes bypass the kernel's cache
)

// openCreated fills in how a new file is opened. What is only written goes to us directly, from the
// writer's memory: for the cache the kernel would first ask for security.capability, and then copy.
// Other descriptors of the file use the cache all the same; the kernel keeps it coherent.
func (r *raw) openCreated(flags uint32, out *fuse.OpenOut) {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	if r.direct && flags&syscall.O_ACCMODE == syscall.O_WRONLY {
		out.Fh = directHandle
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
}

func (r *raw) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (r *raw) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (r *raw) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (r *raw) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

func (r *raw) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	r.nodes.mark(fs.Ino(in.NodeId), cached) // before it is read: see dropCached
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
	if in.Fh == directHandle {
		if err := r.killCapabilities(ino); err != nil {
			return 0, r.status("write", in.NodeId, err)
		}
	}
	off := int64(in.Offset)
	if in.Flags&syscall.O_APPEND != 0 && r.nodes.take(ino, resized) {
		end, err := r.appendOffset(ino, off)
		if err != nil {
			return 0, r.status("write", in.NodeId, err)
		}
		off = end
	}
	if err := r.fs.Write(r.ctx, ino, off, data); err != nil {
		return 0, r.status("write", in.NodeId, err)
	}
	if in.Fh == directHandle {
		r.dropCached(ino, off, len(data))
	}
	return uint32(len(data)), fuse.OK
}

// dropCached drops pages that were read while they were written past the kernel's cache. The kernel drops
// them before such a write, but only the newest ones do it afterwards as well, when a reader may have got
// the old content meanwhile. It waits for reads under way, which need nothing of this request.
func (r *raw) dropCached(ino fs.Ino, off int64, n int) {
	if k := r.kernel.Load(); k != nil && n > 0 && r.nodes.take(ino, cached) {
		k.InodeNotify(uint64(ino), off, int64(n))
	}
}

// appendOffset corrects the end of the file that the kernel appends at, after another session has
// changed it. The kernel's cache then has the data in the wrong place, and is dropped when it has
// unlocked its pages, after the answer.
func (r *raw) appendOffset(ino fs.Ino, off int64) (int64, error) {
	a, err := r.fs.Getattr(r.ctx, ino)
	if err != nil {
		r.nodes.mark(ino, resized)
		return 0, err
	}
	if a.Size != off {
		r.nodes.mark(ino, resized) // until the kernel has asked for the size, and agrees
		go r.invalidate(ino, 0)
	}
	return a.Size, nil
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
