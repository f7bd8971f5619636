package mount

import "github.com/gabionfs/gabion/fs"

// The mount is its session's watcher: what others change is dropped from the kernel's caches. These
// methods run on the goroutine of whoever made the change, and may wait for requests that the kernel
// has under way in the same directory or page; they must not be called with locks that a request needs.

// EntryChanged drops an entry, known or known to be missing, and the listing and attributes of dir.
func (r *raw) EntryChanged(dir fs.Ino, name string) {
	k := r.kernel.Load()
	if k == nil || dir != fs.Root && !r.nodes.mark(dir, 0) {
		return
	}
	if !k.EntryNotify(uint64(dir), name).Ok() {
		// The entry was not cached, and then the kernel leaves the rest alone.
		k.InodeNotify(uint64(dir), 0, 0)
	}
}

// InodeChanged drops attributes, and the cached content when content is set.
func (r *raw) InodeChanged(ino fs.Ino, content bool) {
	flags, off := maybeCaps, int64(-1) // attributes only
	if content {
		flags, off = maybeCaps|resized, 0 // and everything from here
	}
	if known := r.nodes.mark(ino, flags); !known && ino != fs.Root {
		return
	}
	r.invalidate(ino, off)
}

// invalidate drops attributes, and the content from off when that is not negative.
func (r *raw) invalidate(ino fs.Ino, off int64) {
	if k := r.kernel.Load(); k != nil {
		k.InodeNotify(uint64(ino), off, 0) // ENOENT: it was not cached
	}
}
