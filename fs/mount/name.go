package mount

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/gabionfs/gabion/fs"
)

func (r *raw) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if lookupPrime(&r.priming, h, name, out) {
		return fuse.OK
	}
	a, err := r.lookup(fs.Ino(h.NodeId), name)
	if err == nil {
		err = r.remember(a.Ino)
	}
	if errors.Is(err, fs.ErrNotExist) {
		out.EntryValid = forever // node id 0: the kernel remembers that there is nothing
		return fuse.OK
	}
	if err != nil {
		return r.status("lookup", h.NodeId, err)
	}
	fillEntry(&a, out)
	return fuse.OK
}

// lookup also knows "." and "..": with them the kernel finds what a file handle means that it has
// forgotten (open_by_handle_at(2), and export through NFS).
func (r *raw) lookup(dir fs.Ino, name string) (fs.Attr, error) {
	switch name {
	case ".":
		return r.fs.Getattr(r.ctx, dir)
	case "..":
		parent, err := r.fs.Parent(r.ctx, dir)
		if err != nil {
			return fs.Attr{}, err
		}
		return r.fs.Getattr(r.ctx, parent)
	}
	return r.fs.Lookup(r.ctx, dir, name)
}

func (r *raw) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.fs.Mknod(r.ctx, cred(&in.InHeader), fs.Ino(in.NodeId), name, in.Mode, in.Rdev)
	if err != nil {
		return r.status("mknod", in.NodeId, err)
	}
	return r.entry(&a, out)
}

func (r *raw) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.fs.Mkdir(r.ctx, cred(&in.InHeader), fs.Ino(in.NodeId), name, in.Mode)
	if err != nil {
		return r.status("mkdir", in.NodeId, err)
	}
	return r.entry(&a, out)
}

func (r *raw) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.fs.Symlink(r.ctx, cred(h), fs.Ino(h.NodeId), name, target)
	if err != nil {
		return r.status("symlink", h.NodeId, err)
	}
	return r.entry(&a, out)
}

func (r *raw) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := r.fs.Link(r.ctx, fs.Ino(in.Oldnodeid), fs.Ino(in.NodeId), name)
	if err != nil {
		return r.status("link", in.NodeId, err)
	}
	return r.entry(&a, out)
}

func (r *raw) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.status("unlink", h.NodeId, r.fs.Unlink(r.ctx, fs.Ino(h.NodeId), name))
}

func (r *raw) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.status("rmdir", h.NodeId, r.fs.Rmdir(r.ctx, fs.Ino(h.NodeId), name))
}

func (r *raw) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	if in.Flags&^uint32(fs.RenameNoReplace|fs.RenameExchange) != 0 {
		return fuse.EINVAL // RENAME_WHITEOUT
	}
	err := r.fs.Rename(r.ctx, fs.Ino(in.NodeId), name, fs.Ino(in.Newdir), newName, fs.RenameFlags(in.Flags))
	return r.status("rename", in.NodeId, err)
}

func (r *raw) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := r.fs.Readlink(r.ctx, fs.Ino(h.NodeId))
	return []byte(target), r.status("readlink", h.NodeId, err)
}

func (r *raw) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	mode := fs.TypeRegular | in.Mode&0o7777
	a, err := r.fs.Mknod(r.ctx, cred(&in.InHeader), fs.Ino(in.NodeId), name, mode, 0)
	if errors.Is(err, fs.ErrExist) && in.Flags&syscall.O_EXCL == 0 {
		a, err = r.openExisting(in, name) // another session made it since the kernel looked
	}
	if err != nil {
		return r.status("create", in.NodeId, err)
	}
	r.openCreated(in.Flags, &out.OpenOut)
	return r.entry(&a, &out.EntryOut)
}

// openExisting does for the kernel what it does not do after a CREATE: it truncates.
func (r *raw) openExisting(in *fuse.CreateIn, name string) (fs.Attr, error) {
	a, err := r.fs.Lookup(r.ctx, fs.Ino(in.NodeId), name)
	if err == nil && !a.IsRegular() {
		err = errLookAgain
	}
	if err == nil && in.Flags&syscall.O_TRUNC != 0 {
		a, err = r.fs.Setattr(r.ctx, a.Ino, fs.SetAttr{Mask: fs.SetSize})
	}
	return a, err
}

func (r *raw) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	a, err := r.fs.Tmpfile(r.ctx, cred(&in.InHeader), fs.Ino(in.NodeId), in.Mode&0o7777)
	if err != nil {
		return r.status("tmpfile", in.NodeId, err)
	}
	r.rememberHeld(a.Ino)
	fillEntry(&a, &out.EntryOut)
	r.openCreated(in.Flags, &out.OpenOut)
	return fuse.OK
}
