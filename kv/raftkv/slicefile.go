package raftkv

import (
	"os"

	"golang.org/x/sys/unix"
)

// sliceFile writes a large file from its beginning such that little of it waits in memory to be written to the disk. What
// piles up there is written all at once some day, before the syncs of the logs on the same disk, and when it is too much the
// kernel lets everyone wait who writes. It makes nothing durable.
type sliceFile struct {
	file  *os.File
	at    int64 // bytes written
	begun int64 // of them, on their way to the disk
	ended int64 // of them, there
}

const (
	// sliceBytes is what is given to the disk at once.
	sliceBytes = 1 << 20
	// slicesAhead is how much may be on its way.
	slicesAhead = 4 * sliceBytes
)

func (w *sliceFile) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.at += int64(n)
	if err != nil || w.at-w.begun < sliceBytes {
		return n, err
	}
	fd := int(w.file.Fd())
	if err := unix.SyncFileRange(fd, w.begun, w.at-w.begun, unix.SYNC_FILE_RANGE_WRITE); err != nil {
		return n, sliceError(err)
	}
	if w.begun = w.at; w.begun-w.ended <= slicesAhead {
		return n, nil
	}
	end := w.begun - slicesAhead
	err = unix.SyncFileRange(fd, w.ended, end-w.ended, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	w.ended = end
	return n, sliceError(err)
}

// sliceError passes over a file system that has no such call: it is only for the sake of others.
func sliceError(err error) error {
	switch err {
	case nil, unix.ENOSYS, unix.EINVAL, unix.ESPIPE:
		return nil
	}
	return os.NewSyscallError("sync_file_range", err)
}
