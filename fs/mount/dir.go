package mount

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/gabionfs/gabion/fs"
)

// Offsets in a directory: 1 is after ".", 2 after "..", and any other is the cookie of an entry.

func (r *raw) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	full, err := r.dots(in, func(e fuse.DirEntry) bool { return out.AddDirEntry(e) })
	if err != nil || full {
		return r.status("readdir", in.NodeId, err)
	}
	err = r.fs.ReadDir(r.ctx, fs.Ino(in.NodeId), max(in.Offset, 2), false, func(d fs.Dirent, _ *fs.Attr) bool {
		return out.AddDirEntry(fuse.DirEntry{Ino: uint64(d.Ino), Mode: d.Type, Name: d.Name, Off: d.Cookie})
	})
	return r.status("readdir", in.NodeId, err)
}

func (r *raw) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	full, err := r.dots(in, func(e fuse.DirEntry) bool { return out.AddDirLookupEntry(e) != nil }) // node id 0: no lookup
	if err != nil || full {
		return r.status("readdir", in.NodeId, err)
	}
	var told []*fuse.EntryOut
	err = r.fs.ReadDir(r.ctx, fs.Ino(in.NodeId), max(in.Offset, 2), true, func(d fs.Dirent, a *fs.Attr) bool {
		e := out.AddDirLookupEntry(fuse.DirEntry{Ino: uint64(d.Ino), Mode: d.Type, Name: d.Name, Off: d.Cookie})
		if e == nil {
			return false
		}
		fillEntry(a, e)
		told = append(told, e)
		return true
	})
	if err != nil {
		return r.status("readdir", in.NodeId, err)
	}
	for _, e := range told { // not before: fn of ReadDir must not call the FS
		if err := r.remember(fs.Ino(e.NodeId)); err != nil {
			*e = fuse.EntryOut{} // gone meanwhile: only a name, as in a plain listing
		}
	}
	return fuse.OK
}

// dots adds "." and ".." when the listing starts there. full says that there was no room.
func (r *raw) dots(in *fuse.ReadIn, add func(fuse.DirEntry) bool) (full bool, err error) {
	if in.Offset < 1 && !add(fuse.DirEntry{Ino: in.NodeId, Mode: fs.TypeDir, Name: ".", Off: 1}) {
		return true, nil
	}
	if in.Offset >= 2 {
		return false, nil
	}
	parent, err := r.fs.Parent(r.ctx, fs.Ino(in.NodeId))
	if err != nil { // the directory was removed and has no parent: it is empty
		return true, nil
	}
	return !add(fuse.DirEntry{Ino: uint64(parent), Mode: fs.TypeDir, Name: "..", Off: 2}), nil
}
