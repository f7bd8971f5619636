package mount

import (
	"errors"
	"math"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/gabionfs/gabion/fs"
)

func (r *raw) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, err := r.fs.Getattr(r.ctx, fs.Ino(in.NodeId))
	if err != nil {
		return r.status("getattr", in.NodeId, err)
	}
	out.AttrValid = forever
	fillAttr(&a, &out.Attr)
	return fuse.OK
}

func (r *raw) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ino := fs.Ino(in.NodeId)
	s := setAttr(in)
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 && s.Mask&fs.SetMode == 0 {
		a, err := r.fs.Getattr(r.ctx, ino)
		if err != nil {
			return r.status("setattr", in.NodeId, err)
		}
		if mode := withoutPrivileges(a.Mode); mode != a.Mode {
			s.Mask |= fs.SetMode
			s.Mode = mode
		}
	}
	a, err := r.fs.Setattr(r.ctx, ino, s)
	if err != nil {
		return r.status("setattr", in.NodeId, err)
	}
	out.AttrValid = forever
	fillAttr(&a, &out.Attr)
	return fuse.OK
}

func setAttr(in *fuse.SetAttrIn) fs.SetAttr {
	s := fs.SetAttr{Mode: in.Mode, UID: in.Uid, GID: in.Gid}
	for _, f := range [...]struct {
		valid uint32
		mask  fs.SetMask
	}{
		{fuse.FATTR_MODE, fs.SetMode}, {fuse.FATTR_UID, fs.SetUID}, {fuse.FATTR_GID, fs.SetGID}, {fuse.FATTR_SIZE, fs.SetSize},
	} {
		if in.Valid&f.valid != 0 {
			s.Mask |= f.mask
		}
	}
	s.Size = int64(min(in.Size, math.MaxInt64))
	switch {
	case in.Valid&fuse.FATTR_ATIME_NOW != 0:
		s.Mask |= fs.SetAtimeNow
	case in.Valid&fuse.FATTR_ATIME != 0:
		s.Mask |= fs.SetAtime
		s.Atime = join(in.Atime, in.Atimensec)
	}
	switch {
	case in.Valid&fuse.FATTR_MTIME_NOW != 0:
		s.Mask |= fs.SetMtimeNow
	case in.Valid&fuse.FATTR_MTIME != 0:
		s.Mask |= fs.SetMtime
		s.Mtime = join(in.Mtime, in.Mtimensec)
	}
	return s
}

// withoutPrivileges is the mode of a file after someone unprivileged has written to it: without the
// set-user-ID bit, and without the set-group-ID bit when the group may execute it.
func withoutPrivileges(mode uint32) uint32 {
	mode &^= fs.ModeSetuid
	if mode&0o010 != 0 {
		mode &^= fs.ModeSetgid
	}
	return mode
}

// killPrivileges is what the kernel leaves to us (CAP_HANDLE_KILLPRIV_V2) in exchange for not asking
// for security.capability before each write.
func (r *raw) killPrivileges(ino fs.Ino) error {
	a, err := r.fs.Getattr(r.ctx, ino)
	if err != nil {
		return err
	}
	mode := withoutPrivileges(a.Mode)
	if mode == a.Mode {
		return nil
	}
	if _, err := r.fs.Setattr(r.ctx, ino, fs.SetAttr{Mask: fs.SetMode, Mode: mode}); err != nil {
		return err
	}
	// The kernel still has the old mode. Dropping attributes only waits for nothing, and so may be done
	// while the request that caused it is under way.
	r.invalidate(ino, -1)
	return nil
}

// capabilities is the attribute that gives a program the privileges of setcap(8).
const capabilities = "security.capability"

// killCapabilities is what the kernel does by itself before a write into its cache, and leaves out
// before one that bypasses it.
func (r *raw) killCapabilities(ino fs.Ino) error {
	if !r.nodes.take(ino, maybeCaps) {
		return nil
	}
	err := r.fs.RemoveXattr(r.ctx, ino, capabilities)
	if err == nil || errors.Is(err, fs.ErrNoAttr) {
		return nil
	}
	r.nodes.mark(ino, maybeCaps)
	return err
}

func (r *raw) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s, err := r.fs.StatFS(r.ctx)
	if err != nil {
		return r.status("statfs", h.NodeId, err)
	}
	const block = 4096
	*out = fuse.StatfsOut{
		Blocks: s.Total / block, Bfree: s.Free / block, Bavail: s.Avail / block, Files: s.Files, Ffree: s.FilesFree,
		Bsize: block, Frsize: block, NameLen: fs.MaxName,
	}
	return fuse.OK
}

// knownXattr reports whether we keep attributes of this name. POSIX ACLs ("system.") we do not.
func knownXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "security.")
}

func (r *raw) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if !knownXattr(name) {
		return 0, fuse.ENOTSUP
	}
	value, err := r.fs.GetXattr(r.ctx, fs.Ino(h.NodeId), name)
	if err != nil {
		return 0, r.status("getxattr", h.NodeId, err)
	}
	return fit(dest, value)
}

func (r *raw) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	names, err := r.fs.ListXattr(r.ctx, fs.Ino(h.NodeId))
	if err != nil {
		return 0, r.status("listxattr", h.NodeId, err)
	}
	var list []byte
	for _, name := range names {
		if h.Uid != 0 && strings.HasPrefix(name, "trusted.") {
			continue // those are not to be seen
		}
		list = append(append(list, name...), 0)
	}
	return fit(dest, list)
}

// fit copies value when it fits, and returns its length in any case.
func fit(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), fuse.OK
}

func (r *raw) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if !knownXattr(name) {
		return fuse.ENOTSUP
	}
	if name == capabilities {
		r.nodes.mark(fs.Ino(in.NodeId), maybeCaps)
	}
	return r.status("setxattr", in.NodeId, r.fs.SetXattr(r.ctx, fs.Ino(in.NodeId), name, value, fs.XattrMode(in.Flags)))
}

func (r *raw) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if !knownXattr(name) {
		return fuse.ENOTSUP
	}
	return r.status("removexattr", h.NodeId, r.fs.RemoveXattr(r.ctx, fs.Ino(h.NodeId), name))
}
