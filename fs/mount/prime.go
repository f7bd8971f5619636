package mount

import (
	"path/filepath"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/fs"
)

// The kernel learns that we need no OPEN, OPENDIR, FLUSH and RELEASE when it sends the first of each and
// gets ENOSYS. Until then every file that is created costs a RELEASE. So a mount begins with opening
// and closing a file that exists only for that moment.
const (
	primeName = ".gabion-prime"
	primeNode = 1<<63 | 1
)

// prime makes the kernel ask. That it fails, as when the user may not enter the root, does no harm.
func (r *raw) prime(dir string) {
	r.priming.Store(true)
	defer r.priming.Store(false)
	for _, path := range []string{dir, filepath.Join(dir, primeName)} {
		if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(fd)
		}
	}
}

// lookupPrime answers for the file that is opened by prime.
func lookupPrime(priming *atomic.Bool, h *fuse.InHeader, name string, out *fuse.EntryOut) bool {
	if name != primeName || !priming.Load() || fs.Ino(h.NodeId) != fs.Root {
		return false
	}
	out.NodeId, out.Generation = primeNode, 1
	out.AttrValid = 60
	out.Attr = fuse.Attr{Ino: primeNode, Mode: fs.TypeRegular | 0o444, Nlink: 1, Owner: h.Owner}
	return true
}
