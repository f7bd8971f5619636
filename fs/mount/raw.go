package mount

import (
	"context"
	"log/slog"
	"math"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/gabionfs/gabion/fs"
)

// forever is how long the kernel may keep entries and attributes, in seconds. Watchers end it.
const forever = uint64(10 * 365 * 24 * time.Hour / time.Second)

// raw answers the kernel's requests. Node ids are inode numbers.
type raw struct {
	fuse.RawFileSystem // answers ENOSYS to what is not implemented
	fs                 fs.FS
	ctx                context.Context // of all operations: signals to the caller do not cancel them
	log                *slog.Logger
	nodes              *table
	direct             bool // new files can be written past the kernel's cache
	priming            atomic.Bool
	kernel             atomic.Pointer[fuse.Server] // nil before the first request and after the last
}

func newRaw(ctx context.Context, log *slog.Logger) *raw {
	return &raw{RawFileSystem: fuse.NewDefaultRawFileSystem(), ctx: ctx, log: log, nodes: newTable()}
}

func (r *raw) String() string { return subtype }

func (r *raw) Init(s *fuse.Server) {
	r.kernel.Store(s)
	// Since it can do this (Linux 6.6), the kernel drops cached pages before it writes past them.
	r.direct = s.KernelSettings().Flags64()&fuse.CAP_DIRECT_IO_ALLOW_MMAP != 0
}

// close lets go of everything that the kernel did not forget.
func (r *raw) close() {
	r.kernel.Store(nil)
	if r.fs == nil {
		return
	}
	for _, ino := range r.nodes.empty() {
		r.fs.Drop(ino, 1)
	}
}

// remember counts a lookup of ino, which the kernel is about to be told of. It fails when the inode has
// died meanwhile.
func (r *raw) remember(ino fs.Ino) error {
	if ino == fs.Root || r.nodes.again(ino) {
		return nil
	}
	if err := r.fs.Hold(ino); err != nil {
		return err
	}
	r.rememberHeld(ino)
	return nil
}

// rememberHeld is remember for an inode that the caller holds, and gives up.
func (r *raw) rememberHeld(ino fs.Ino) {
	if !r.nodes.add(ino) {
		r.fs.Drop(ino, 1) // another lookup came first
	}
}

func (r *raw) Forget(nodeid, lookups uint64) {
	if ino := fs.Ino(nodeid); ino != fs.Root && r.nodes.forget(ino, lookups) {
		r.fs.Drop(ino, 1)
	}
}

// entry answers with an inode by name.
func (r *raw) entry(a *fs.Attr, out *fuse.EntryOut) fuse.Status {
	if err := r.remember(a.Ino); err != nil {
		return r.status("entry", uint64(a.Ino), errLookAgain) // it was just there
	}
	fillEntry(a, out)
	return fuse.OK
}

func fillEntry(a *fs.Attr, out *fuse.EntryOut) {
	out.NodeId = uint64(a.Ino)
	out.Generation = 1
	out.EntryValid, out.AttrValid = forever, forever
	fillAttr(a, &out.Attr)
}

func fillAttr(a *fs.Attr, out *fuse.Attr) {
	out.Ino = uint64(a.Ino)
	out.Size = uint64(a.Size)
	out.Blocks = uint64(a.Blocks)
	out.Atime, out.Atimensec = split(a.Atime)
	out.Mtime, out.Mtimensec = split(a.Mtime)
	out.Ctime, out.Ctimensec = split(a.Ctime)
	out.Mode = a.Mode
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Rdev = a.Rdev
	out.Blksize = 4096
}

// split turns nanoseconds since the epoch into seconds, rounded down, and the rest.
func split(t int64) (uint64, uint32) {
	sec, nsec := t/1e9, t%1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	return uint64(sec), uint32(nsec)
}

// join is the reverse of split. Times that do not fit are the nearest that do.
func join(sec uint64, nsec uint32) int64 {
	const limit = math.MaxInt64/1_000_000_000 - 1
	return max(min(int64(sec), limit), -limit)*1e9 + int64(nsec)
}

func cred(h *fuse.InHeader) fs.Cred { return fs.Cred{UID: h.Uid, GID: h.Gid} }

func stack() string { return string(debug.Stack()) }

// quiet keeps go-fuse from logging what the kernel only tries out.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, rec slog.Record) error {
	if strings.HasPrefix(rec.Message, "Unimplemented opcode") {
		return nil
	}
	return q.Handler.Handle(ctx, rec)
}
