package raftlog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
)

// segment is one file of the log.
type segment struct {
	file   *os.File
	path   string
	number uint64
	epoch  uint64
	batch  uint64 // number of the first batch
	size   int64  // of the file
	end    int64  // where the next record goes
	last   uint64 // highest index of an entry that was ever written to it
}

func segmentName(n uint64) string { return fmt.Sprintf("%08d.seg", n) }

func (s *segment) header() []byte {
	b := make([]byte, blockSize)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], segmentVersion)
	binary.LittleEndian.PutUint64(b[16:], s.number)
	binary.LittleEndian.PutUint64(b[24:], s.epoch)
	binary.LittleEndian.PutUint64(b[32:], s.batch)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b, castagnoli))
	return b
}

func (s *segment) parseHeader(b []byte) error {
	if len(b) < blockSize || string(b[:8]) != segmentMagic {
		return errors.New("it does not begin like a segment")
	}
	h := append([]byte(nil), b[:blockSize]...)
	want := binary.LittleEndian.Uint32(h[12:])
	clear(h[12:16])
	if crc32.Checksum(h, castagnoli) != want {
		return errors.New("its header does not match its checksum")
	}
	if v := binary.LittleEndian.Uint32(h[8:]); v != segmentVersion {
		return fmt.Errorf("it has version %d, known is %d", v, segmentVersion)
	}
	if n := binary.LittleEndian.Uint64(h[16:]); n != s.number {
		return fmt.Errorf("it says that it is number %d", n)
	}
	s.epoch = binary.LittleEndian.Uint64(h[24:])
	s.batch = binary.LittleEndian.Uint64(h[32:])
	return nil
}

// activate makes a segment of a spare file: it writes and syncs the header, then gives the file its
// name.
func activate(dir, spare string, number, batch uint64) (_ *segment, err error) {
	var epoch [8]byte
	if _, err := rand.Read(epoch[:]); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(spare, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &segment{
		file: f, path: filepath.Join(dir, segmentName(number)), number: number, batch: batch,
		epoch: binary.LittleEndian.Uint64(epoch[:]), size: fi.Size(), end: blockSize,
	}
	if _, err := f.WriteAt(s.header(), 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := os.Rename(spare, s.path); err != nil {
		return nil, err
	}
	return s, syncDir(dir)
}

// prepare writes a file of zeroes, so that later writes into it change no extents.
func prepare(path string, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(path)
		}
	}()
	_ = unix.Fallocate(int(f.Fd()), 0, 0, size) // only so that the file is in one piece
	zeroes := make([]byte, min(size, 256<<10))
	for at := int64(0); at < size; at += int64(len(zeroes)) {
		if _, err := f.WriteAt(zeroes[:min(int64(len(zeroes)), size-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// replay reads the segment and calls fn with every record. It returns how the segment ended.
func (s *segment) replay(fn func(record, int64) error) (ending, error) {
	b := make([]byte, s.size)
	if _, err := io.ReadFull(io.NewSectionReader(s.file, 0, s.size), b); err != nil {
		return 0, s.corrupt(err)
	}
	if err := s.parseHeader(b); err != nil {
		return 0, s.corrupt(err)
	}
	s.end = blockSize
	prev := record{batch: s.batch - 1, last: true}
	for {
		r, _, ok := parse(b[min(s.end, s.size):], s.epoch, s.end)
		if !ok {
			if err := s.evidence(b, prev); err != nil {
				return 0, err
			}
			return torn, nil
		}
		// Only a seal, written after a crash, may follow a batch that is not whole.
		if next := prev.batch + 1; r.batch != next && (prev.last || r.batch != prev.batch) ||
			r.batch == next && !prev.last && r.kind != kindSeal {
			return 0, s.corrupt(fmt.Errorf("batch %d follows %d at offset %d", r.batch, prev.batch, s.end))
		}
		if err := fn(r, s.end); err != nil {
			return 0, err
		}
		s.end += r.size()
		prev = r
		switch r.kind {
		case kindSeal:
			return sealed, nil
		case kindClosed:
			// The log was closed here. If it was opened again, a mark follows.
			if _, _, more := parse(b[min(s.end, s.size):], s.epoch, s.end); !more {
				if err := s.evidence(b, prev); err != nil {
					return 0, err
				}
				return closed, nil
			}
		}
	}
}

// ending is how the records of a segment stop.
type ending int

const (
	torn   ending = iota // without a sign: a crash
	sealed               // another segment follows
	closed               // by Close
)

// evidence looks for a record of this life of the segment behind the place where the records stop. One
// of a later batch than the broken record can have been is a proof that the broken record was durable.
func (s *segment) evidence(b []byte, prev record) error {
	broken := prev.batch // the batch that the broken record belongs to
	if prev.last {
		broken++
	}
	most := broken + uint64(s.size/recordHeader)
	for at := s.end + 8; at+recordHeader <= s.size; at += 8 {
		// Most of what is there is no record; the checksum of the rest is worth its time.
		if n := binary.LittleEndian.Uint64(b[at+40:]); n <= broken || n > most {
			continue
		}
		if r, _, ok := parse(b[at:], s.epoch, at); ok {
			return s.corrupt(fmt.Errorf("the record at offset %d is damaged: batch %d behind it is whole", s.end, r.batch))
		}
	}
	return nil
}

func (s *segment) corrupt(err error) error { return &kv.CorruptError{What: s.path, Err: err} }
