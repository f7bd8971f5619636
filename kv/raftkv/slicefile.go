package raftkv

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// sliceFile writes a large file from its beginning such that little of it waits in memory to be written to the disk. What
// piles up there is written all at once some day, before the syncs of the logs on the same disk, and when it is too much the
// kernel lets everyone wait who writes. Zeroes become holes. It makes nothing durable.
type sliceFile struct {
	file  *os.File
	at    int64 // size
	begun int64 // of it, on its way to the disk
	ended int64 // of it, there
}

const (
	// sliceBytes is what is given to the disk at once.
	sliceBytes = 1 << 20
	// slicesAhead is how much may be on its way.
	slicesAhead = 4 * sliceBytes
	// holeBytes is the size of a block that becomes a hole when it is zero.
	holeBytes = 4 << 10
)

var zeroBlock [holeBytes]byte

func (w *sliceFile) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, zero := stretch(p[n:])
		if !zero {
			if _, err := w.file.WriteAt(p[n:n+m], w.at); err != nil {
				return n, err
			}
		}
		n += m
		w.at += int64(m)
	}
	return n, w.writeBack()
}

// stretch returns how many bytes at the beginning of p are of zero blocks only, or of others only.
func stretch(p []byte) (n int, zero bool) {
	for n < len(p) {
		block := p[n:min(len(p), n+holeBytes)]
		isZero := bytes.Equal(block, zeroBlock[:len(block)])
		if n > 0 && isZero != zero {
			return n, zero
		}
		zero = isZero
		n += len(block)
	}
	return n, zero
}

// writeBack starts what was written last on its way to the disk, and waits for what was before.
func (w *sliceFile) writeBack() error {
	if w.at-w.begun < sliceBytes {
		return nil
	}
	fd := int(w.file.Fd())
	if err := unix.SyncFileRange(fd, w.begun, w.at-w.begun, unix.SYNC_FILE_RANGE_WRITE); err != nil {
		return sliceError(err)
	}
	w.begun = w.at
	end := w.begun - slicesAhead
	if end <= w.ended {
		return nil
	}
	err := unix.SyncFileRange(fd, w.ended, end-w.ended, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	w.ended = end
	return sliceError(err)
}

// finish gives the file its size, when it ends with a hole.
func (w *sliceFile) finish() error { return w.file.Truncate(w.at) }

// sliceError passes over a file system that has no such call: it is only for the sake of others.
func sliceError(err error) error {
	switch err {
	case nil, unix.ENOSYS, unix.EINVAL, unix.ESPIPE:
		return nil
	}
	return os.NewSyscallError("sync_file_range", err)
}
