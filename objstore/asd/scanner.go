package asd

import (
	"hash/crc32"
	"os"
	"slices"
)

// scanner reads the frames of one segment, ahead when they are small.
type scanner struct {
	f     *os.File
	id    uint64
	epoch uint64
	size  int64
	win   []byte
	off   int64 // of win
	next  int64 // where a reader of small frames would go on
}

// bytes returns n bytes at off, or fewer at the end of the file.
func (s *scanner) bytes(off int64, n int) ([]byte, error) {
	if off >= s.off && off+int64(n) <= s.off+int64(len(s.win)) {
		return s.win[off-s.off:][:n], nil
	}
	size := max(n, pageSize)
	if off-s.next < scanWindow && off >= s.next {
		size = max(n, scanWindow)
	}
	size = int(min(int64(size), max(0, s.size-off)))
	if cap(s.win) < size {
		s.win = make([]byte, size)
	}
	s.win, s.off = s.win[:size], off
	m, err := s.f.ReadAt(s.win, off)
	s.win, s.next = s.win[:m], off+int64(m)
	if err != nil && !isEOF(err) {
		return nil, err
	}
	return s.win[:min(n, m)], nil
}

// header returns the frame at off, if it is one of this life of the segment.
func (s *scanner) header(off int64) (frameInfo, error) {
	b, err := s.bytes(off, frameHeader)
	if err != nil {
		return frameInfo{}, err
	}
	h, err := decodeFrame(b)
	if err != nil {
		return h, err
	}
	if h.epoch != s.epoch || h.segment != s.id || h.offset() != off {
		return h, bad("frame of another life, of segment %d at page %d", h.segment, h.page)
	}
	return h, nil
}

func (s *scanner) meta(h *frameInfo) ([]byte, error) {
	return s.bytes(h.offset()+frameHeader, int(h.metaLen))
}

// verify checks everything in the frame against its checksums.
func (s *scanner) verify(h *frameInfo) error {
	meta, err := s.meta(h)
	if err != nil {
		return err
	}
	meta = slices.Clone(meta)
	var buf []byte
	return decodeOps(h, meta, func(o *opView) error {
		if o.kind != opPut || o.damaged {
			return nil
		}
		if cap(buf) < o.size {
			buf = make([]byte, o.size)
		}
		buf = buf[:o.size]
		if _, err := s.f.ReadAt(buf, h.offset()+int64(o.off)); err != nil {
			return err
		}
		if i := badBlock(buf, o.crcs); i >= 0 {
			return bad("block %d fails its checksum", i)
		}
		return nil
	})
}

// badBlock returns the number of the first block that fails its checksum, -1 when there is none.
func badBlock(payload, crcs []byte) int {
	for i := 0; len(payload) > 0; i++ {
		n := min(len(payload), BlockSize)
		if crc32.Checksum(payload[:n], castagnoli) != le.Uint32(crcs[4*i:]) {
			return i
		}
		payload = payload[n:]
	}
	return -1
}

// resync finds the next frame at or after off.
func (s *scanner) resync(off, end int64) (int64, bool) {
	for ; off+pageSize <= end; off += pageSize {
		s.next = off // read ahead
		if _, err := s.header(off); err == nil {
			return off, true
		}
	}
	return 0, false
}

// durableEnd returns the offset below which everything was durable, as far as the frames from off on know.
func (s *scanner) durableEnd(off int64) int64 {
	var durable int64
	for off+pageSize <= s.size {
		h, err := s.header(off)
		if err != nil {
			next, ok := s.resync(off+pageSize, min(s.size, off+resyncWindow))
			if !ok {
				break
			}
			off = next
			continue
		}
		durable = max(durable, h.synced)
		off = h.end()
	}
	return durable
}
