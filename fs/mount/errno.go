package mount

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/gabionfs/gabion/fs"
)

// errLookAgain makes the kernel walk the path once more, and ask about each name of it.
var errLookAgain = errors.New("another session was quicker")

// errnos is the one place where errors of the contract become errno.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{fs.ErrNotExist, syscall.ENOENT}, // first: it is by far the most frequent
	{fs.ErrNoAttr, syscall.ENODATA},
	{fs.ErrExist, syscall.EEXIST},
	{fs.ErrNotDir, syscall.ENOTDIR},
	{fs.ErrIsDir, syscall.EISDIR},
	{fs.ErrNotEmpty, syscall.ENOTEMPTY},
	{fs.ErrNameTooLong, syscall.ENAMETOOLONG},
	{fs.ErrInvalid, syscall.EINVAL},
	{fs.ErrNotPermitted, syscall.EPERM},
	{fs.ErrTooManyLinks, syscall.EMLINK},
	{fs.ErrFileTooBig, syscall.EFBIG},
	{fs.ErrNoSpace, syscall.ENOSPC},
	{fs.ErrNoData, syscall.ENXIO},
	{fs.ErrTooBig, syscall.E2BIG},
	{fs.ErrNotSupported, syscall.EOPNOTSUPP},
	{fs.ErrBusy, syscall.EBUSY},
	{errLookAgain, syscall.ESTALE},
	{context.Canceled, syscall.EINTR},
	{context.DeadlineExceeded, syscall.ETIMEDOUT},
}

// status translates the outcome of op on ino. What has no errno of its own is EIO, and logged.
func (r *raw) status(op string, ino uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for i := range errnos {
		if errors.Is(err, errnos[i].err) {
			return fuse.Status(errnos[i].errno)
		}
	}
	r.log.Error("the filesystem failed", "op", op, "ino", ino, "err", err)
	return fuse.EIO
}
