// Package mount shows an fs.FS to the kernel through FUSE: translation, and nothing else.
//
// Promises:
//
//   - POSIX semantics as far as package fs has them. The kernel enforces permissions
//     (default_permissions), follows symlinks and keeps flock and POSIX locks.
//   - The kernel's caches are used fully: entries, attributes, content and directory listings stay
//     valid until the kernel changes them itself, or until the FS tells the session's watcher that
//     somebody else did. One mount must therefore be the only way for the kernel to a session.
//   - A change that has begun is finished, whatever signals the caller gets.
//   - Access times are those of creation or utimensat(2): reading does not change them (noatime).
//
// It assumes that inode numbers are never reused (they are the kernel's node ids), that directory
// cookies fit 63 bits, and that watchers are called without locks.
//
// Not there, because go-fuse's raw API does not pass it on: birth times (FUSE_STATX) and syncfs(2).
package mount

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/fs"
)

// fsType is what /proc/mounts calls a mount of ours.
const (
	subtype = "gabion"
	fsType  = "fuse." + subtype
)

// maxIO is the largest read or write the kernel sends, in bytes.
const maxIO = 1 << 20

// Options of a mount. The zero value is good for `gabion up`.
type Options struct {
	FSName        string       // the source that df shows; "gabion" when empty
	Private       bool         // only for the user who mounts; always so for ordinary users unless Shared
	Shared        bool         // for all users; an ordinary user needs user_allow_other in /etc/fuse.conf. Root's mounts are unless Private
	ReadOnly      bool         // the kernel refuses changes
	NonEmpty      bool         // mount over a directory that has entries, and hide them
	ReadAheadKiB  int          // the kernel's read-ahead, set when root; 0 means 1024
	MaxBackground int          // reads ahead and such that the kernel has under way at most; 0 means 64
	Debug         bool         // log every message, through the standard logger
	Logger        *slog.Logger // slog.Default when nil
}

// Server is a filesystem that is mounted.
type Server struct {
	dir  string
	raw  *raw
	fuse *fuse.Server
	done chan struct{} // closed when the kernel has let go and all is dropped
}

// Mount mounts a session on the directory dir and serves it until it is unmounted. attach opens the
// session: the FS tells the watcher that attach is given of what others change. Cancelling ctx after
// Mount has returned has no effect.
//
// Errors are of type *Error.
func Mount(ctx context.Context, dir string, attach func(fs.Watcher) fs.FS, o Options) (*Server, error) {
	dir, err := mountPoint(dir, o.NonEmpty)
	if err != nil {
		return nil, err
	}
	if err := checkDevice(dir); err != nil {
		return nil, err
	}
	logger := cmp.Or(o.Logger, slog.Default())
	r := newRaw(context.WithoutCancel(ctx), logger)
	r.fs = attach(r)
	server, err := fuse.NewServer(r, dir, fuseOptions(o, logger))
	if err != nil {
		r.close()
		return nil, mountError(dir, err)
	}
	s := &Server{dir: dir, raw: r, fuse: server, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		server.Serve()
		r.close()
	}()
	r.prime(dir)
	if err := setReadAhead(dir, cmp.Or(o.ReadAheadKiB, 1024)); err != nil {
		logger.Debug("the kernel's read-ahead stays as it is", "mount", dir, "err", err)
	}
	return s, nil
}

func mountError(dir string, err error) error {
	if isErrno(err, syscall.EPERM) || isErrno(err, syscall.EACCES) {
		return &Error{Op: "mount", Dir: dir, Err: ErrNotPermitted, Advice: "in a container, give it --cap-add SYS_ADMIN and --device /dev/fuse"}
	}
	return &Error{Op: "mount", Dir: dir, Err: err, Advice: "see above for what fusermount3 said, or the kernel's log"}
}

// Dir returns the absolute path of the mount point.
func (s *Server) Dir() string { return s.dir }

// Wait returns when the mount is gone, by whatever means, and its requests are answered.
func (s *Server) Wait() { <-s.done }

func fuseOptions(o Options, logger *slog.Logger) *fuse.MountOptions {
	root := os.Geteuid() == 0
	background := cmp.Or(o.MaxBackground, 64)
	m := &fuse.MountOptions{
		FsName:        cmp.Or(o.FSName, subtype),
		Name:          subtype,
		Options:       []string{"default_permissions"},
		AllowOther:    o.Shared || root && !o.Private,
		MaxWrite:      maxIO,
		MaxBackground: background,
		Debug:         o.Debug,
		Logger:        slog.NewLogLogger(quiet{logger.Handler()}, slog.LevelWarn),
		DisableSplice: true, // content is in memory, there is nothing to splice from
		// Watchers say what changed; the kernel need not guess from times and sizes.
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_ASYNC_DIO |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ABORT_ERROR | fuse.CAP_EXPORT_SUPPORT,
		PanicHandler: func(v any) fuse.Status {
			logger.Error("panic while serving the mount", "panic", v, "stack", stack())
			return fuse.EIO
		},
	}
	if o.ReadOnly {
		m.Options = append(m.Options, "ro")
	}
	if root {
		m.DirectMountStrict = true
		m.DirectMountFlags = unix.MS_NOATIME // and so not nosuid, nodev: root may have both
		if o.ReadOnly {
			m.Options = m.Options[:1]
			m.DirectMountFlags |= unix.MS_RDONLY
		}
	} else {
		m.Options = append(m.Options, "noatime")
	}
	return m
}

// setReadAhead sets how far the kernel reads ahead. Only root may.
func setReadAhead(dir string, kib int) error {
	device, err := deviceOf(dir)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(device), unix.Minor(device))
	return os.WriteFile(name, fmt.Append(nil, kib), 0)
}

// mountPoint checks that dir can be mounted on and returns its absolute path.
func mountPoint(dir string, nonEmpty bool) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", &Error{Op: "mount", Dir: dir, Err: err}
	}
	abs, err = filepath.EvalSymlinks(abs)
	fail := func(err error, advice string) (string, error) {
		return "", &Error{Op: "mount", Dir: dir, Err: err, Advice: advice}
	}
	switch {
	case isErrno(err, syscall.ENOENT):
		return fail(ErrMissing, "create it first: mkdir -p "+dir)
	case isErrno(err, syscall.ENOTCONN):
		return fail(ErrStale, "detach it: umount -l "+dir)
	case err != nil:
		return fail(err, "")
	}
	mounts, err := mountsAt(abs)
	if err != nil {
		return fail(err, "")
	}
	if len(mounts) > 0 && mounts[len(mounts)-1].fsType == fsType && stale(abs) {
		return fail(ErrStale, "detach it: umount -l "+dir)
	}
	if len(mounts) > 0 {
		return fail(ErrMounted, fmt.Sprintf("unmount the filesystem of type %s, or choose another directory", mounts[len(mounts)-1].fsType))
	}
	st, err := os.Stat(abs)
	switch {
	case err != nil:
		return fail(err, "")
	case !st.IsDir():
		return fail(ErrNotDir, "choose a directory")
	}
	if nonEmpty {
		return abs, nil
	}
	f, err := os.Open(abs)
	if err != nil {
		return fail(err, "")
	}
	defer f.Close()
	if names, _ := f.Readdirnames(1); len(names) > 0 {
		return fail(ErrNotEmpty, "what is in it would be hidden; choose an empty directory")
	}
	return abs, nil
}

// checkDevice checks that FUSE can be used at all.
func checkDevice(dir string) error {
	const device = "/dev/fuse"
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		if _, err := exec.LookPath("fusermount3"); err != nil && os.Geteuid() != 0 {
			return &Error{Op: "mount", Dir: dir, Err: ErrNoHelper, Advice: "install the package fuse3, or run as root"}
		}
		return nil
	case isErrno(err, syscall.ENOENT), isErrno(err, syscall.ENODEV), isErrno(err, syscall.ENXIO):
		return &Error{Op: "mount", Dir: dir, Err: ErrNoFuse, Advice: "load the kernel's module (modprobe fuse), or give the container --device /dev/fuse"}
	case isErrno(err, syscall.EACCES), isErrno(err, syscall.EPERM):
		return &Error{Op: "mount", Dir: dir, Err: ErrNotPermitted, Advice: "allow this user to open /dev/fuse (chmod 666 /dev/fuse), or run as root"}
	}
	return &Error{Op: "mount", Dir: dir, Err: err}
}
