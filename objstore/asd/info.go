package asd

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// readInfo reads the recovery information from the frame of the record.
func (a *ASD) readInfo(s *segment, key []byte, e *entry) ([]byte, error) {
	at := int64(e.page) * pageSize
	f, err := s.reader()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, corrupt(key, e, at, -1, "the segment file is missing")
		}
		return nil, err
	}
	info, err := findInfo(f, s, key, e)
	var fe formatError
	if errors.As(err, &fe) {
		if d, derr := s.directReader(); derr == nil {
			info, err = findInfo(directFile{a, d}, s, key, e)
		}
	}
	if errors.As(err, &fe) || isEOF(err) {
		a.counters.corrupt.Add(1)
		return nil, corrupt(key, e, at, -1, err.Error())
	}
	if err != nil {
		return nil, fmt.Errorf("asd %s: head %q: %w", a.dir, key, err)
	}
	return info, nil
}

type readerAt interface {
	ReadAt(p []byte, off int64) (int, error)
}

// directFile aligns reads of a file that was opened with O_DIRECT.
type directFile struct {
	a *ASD
	f *os.File
}

func (d directFile) ReadAt(p []byte, off int64) (int, error) {
	start := off &^ (pageSize - 1)
	b := d.a.buffers.Get(int(pageCeil(off + int64(len(p)) - start)))
	defer b.Free()
	n, err := d.f.ReadAt(b.Bytes(), start)
	if int64(n) < off-start+int64(len(p)) {
		return 0, cmp.Or(err, errUnexpectedEOF)
	}
	return copy(p, b.Bytes()[off-start:]), nil
}

func findInfo(f readerAt, s *segment, key []byte, e *entry) ([]byte, error) {
	at := int64(e.page) * pageSize
	b := make([]byte, pageSize)
	if _, err := f.ReadAt(b, at); err != nil {
		return nil, err
	}
	h, err := decodeFrame(b)
	if err != nil {
		return nil, err
	}
	if h.epoch != s.epoch || h.segment != s.id || h.page != e.page {
		return nil, bad("frame of another life")
	}
	meta := b[frameHeader:]
	if int(h.metaLen) > len(meta) {
		meta = make([]byte, h.metaLen)
		if _, err := f.ReadAt(meta, at+frameHeader); err != nil {
			return nil, err
		}
	}
	var info []byte
	found := false
	err = decodeOps(&h, meta[:h.metaLen], func(o *opView) error {
		if o.ord == e.ord && o.seq == e.seq && bytes.Equal(o.key, key) {
			info, found = bytes.Clone(o.info), true
		}
		return nil
	})
	if err == nil && !found {
		err = bad("the frame does not have the record")
	}
	return info, err
}
