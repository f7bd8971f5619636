package asd

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	segmentMagic   = "GBNSEGMT"
	segmentVersion = 1
	segmentHeader  = 68
	segmentStart   = pageSize // of the first frame

	segmentInUse = 1
	segmentFree  = 2
)

func segmentPath(dir string, slot uint32) string {
	return filepath.Join(dir, segmentsName, fmt.Sprintf("%08d.seg", slot))
}

// segmentInfo is the decoded header of a segment file.
type segmentInfo struct {
	state   uint32
	asd     ID
	id      uint64
	epoch   uint64
	prevID  uint64
	prevEnd int64
}

// encode returns the whole header page, in aligned memory.
func (s *segmentInfo) encode() []byte {
	b := NewBuffer(pageSize)
	copy(b, segmentMagic)
	le.PutUint32(b[8:], segmentVersion)
	le.PutUint32(b[12:], s.state)
	copy(b[16:], s.asd[:])
	le.PutUint64(b[32:], s.id)
	le.PutUint64(b[40:], s.epoch)
	le.PutUint64(b[48:], s.prevID)
	le.PutUint64(b[56:], uint64(s.prevEnd))
	le.PutUint32(b[64:], crc32.Checksum(b[:64], castagnoli))
	return b
}

func decodeSegmentInfo(b []byte) (segmentInfo, error) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic {
		return segmentInfo{}, bad("no segment header")
	}
	if crc32.Checksum(b[:64], castagnoli) != le.Uint32(b[64:]) {
		return segmentInfo{}, bad("segment header fails its checksum")
	}
	if v := le.Uint32(b[8:]); v != segmentVersion {
		return segmentInfo{}, bad("segment of version %d", v)
	}
	s := segmentInfo{
		state: le.Uint32(b[12:]), id: le.Uint64(b[32:]), epoch: le.Uint64(b[40:]),
		prevID: le.Uint64(b[48:]), prevEnd: int64(le.Uint64(b[56:])),
	}
	copy(s.asd[:], b[16:])
	if s.state != segmentInUse && s.state != segmentFree || s.id == 0 {
		return s, bad("segment %d in state %d", s.id, s.state)
	}
	return s, nil
}

// segment is one life of a segment file. Its id and epoch are never used again.
type segment struct {
	id    uint64
	epoch uint64
	path  string

	// state is guarded by ASD.table.
	state segmentState
	// allocated bytes of the file; guarded by ASD.table.
	allocated int64
	sealed    bool  // no longer written to; guarded by ASD.table
	dying     bool  // takes no more readers; guarded by ASD.table
	missing   bool  // its file is lost, or cannot be emptied; guarded by ASD.table
	counted   int64 // when its deletes were counted last: the number of segments freed then; guarded by ASD.table

	// refs counts the readers, and one for the table. Readers take theirs under ASD.table, so that
	// none comes after the segment has left it.
	refs    atomic.Int64
	drained chan struct{}

	mu       sync.Mutex
	buffered *os.File
	direct   *os.File
}

func newSegment(dir string, id uint64, st segmentState) *segment {
	s := &segment{id: id, epoch: st.epoch, path: segmentPath(dir, st.slot), state: st, drained: make(chan struct{})}
	s.refs.Store(1)
	return s
}

func (s *segment) release() {
	if s.refs.Add(-1) == 0 {
		s.closeFiles()
		close(s.drained)
	}
}

func (s *segment) closeFiles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range []*os.File{s.buffered, s.direct} {
		if f != nil {
			f.Close()
		}
	}
	s.buffered, s.direct = nil, nil
}

// reader returns the file for reads through the page cache. The caller holds a reference.
func (s *segment) reader() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buffered == nil {
		f, err := os.Open(s.path)
		if err != nil {
			return nil, err
		}
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
		s.buffered = f
	}
	return s.buffered, nil
}

// directReader returns the file for reads past the page cache, where the filesystem can do that.
func (s *segment) directReader() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.direct == nil {
		f, _, err := openDirect(s.path, os.O_RDONLY)
		if err != nil {
			return nil, err
		}
		s.direct = f
	}
	return s.direct, nil
}

// openDirect opens with O_DIRECT, or without where the filesystem refuses it.
func openDirect(path string, flags int) (f *os.File, direct bool, err error) {
	f, err = os.OpenFile(path, flags|unix.O_DIRECT, 0o600)
	if errors.Is(err, unix.EINVAL) {
		f, err = os.OpenFile(path, flags, 0o600)
		return f, false, err
	}
	return f, true, err
}

// writeAll writes the slices at the offset, all of them.
func writeAll(f *os.File, iov [][]byte, off int64) error {
	const maxIOV = 1024
	for len(iov) > 0 {
		n, err := unix.Pwritev(int(f.Fd()), iov[:min(len(iov), maxIOV)], off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		off += int64(n)
		for n > 0 {
			m := min(n, len(iov[0]))
			iov[0] = iov[0][m:]
			n -= m
			if len(iov[0]) == 0 {
				iov = iov[1:]
			}
		}
		for len(iov) > 0 && len(iov[0]) == 0 {
			iov = iov[1:]
		}
	}
	return nil
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
