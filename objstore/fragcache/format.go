package fragcache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// PageSize is how much of a fragment is kept or not kept together, in bytes; the last page of a fragment may be shorter.
const PageSize = crc.Block

const (
	version     = 1
	segHeader   = 64
	recHeader   = 48
	trailerLen  = 24
	maxRecords  = maxSegment / recHeader
	maxPages    = 1 << 20 // of a fragment
	maxSegment  = 1 << 30
	segMagic    = "GFCS"
	recMagic    = "GFCR"
	endMagic    = "GFCT"
	ownerOffset = 16
)

var le = binary.LittleEndian

// errDamaged is matched by everything that is wrong with what the folder holds.
var errDamaged = errors.New("fragcache: damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// Key names a fragment and what it holds.
type Key struct {
	Fragment objstore.FragmentKey
	Sum      uint32 // CRC32C of the whole fragment, from the manifest
}

// pageKey names one page.
type pageKey struct {
	Key
	page uint32
}

// queue is one of the two of S3-FIFO.
type queue uint8

const (
	small queue = iota
	main
)

// segmentHead is the beginning of a segment.
type segmentHead struct {
	queue  queue
	number uint32
	owner  [16]byte
}

func (h segmentHead) append(b []byte) []byte {
	at := len(b)
	b = append(b, segMagic...)
	b = append(b, version, byte(h.queue), 0, 0)
	b = le.AppendUint64(b, uint64(h.number))
	b = append(b, h.owner[:]...)
	b = append(b, make([]byte, segHeader-4-ownerOffset-16)...)
	return le.AppendUint32(b, crc.Sum(b[at:]))
}

func parseSegmentHead(b []byte) (h segmentHead, err error) {
	if len(b) != segHeader || string(b[:4]) != segMagic {
		return h, damaged("not a segment")
	}
	if b[4] != version {
		return h, damaged("version %d, this program knows %d", b[4], version)
	}
	n := le.Uint64(b[8:])
	if crc.Sum(b[:segHeader-4]) != le.Uint32(b[segHeader-4:]) || b[5] > byte(main) || n >= 1<<32 {
		return h, damaged("the header of a segment")
	}
	return segmentHead{queue: queue(b[5]), number: uint32(n), owner: [16]byte(b[ownerOffset:])}, nil
}

// record is the header of one.
type record struct {
	key pageKey
	n   int    // bytes of content, 1 to PageSize
	sum uint32 // of the content
}

func (r record) append(b []byte) []byte {
	at := len(b)
	b = append(b, recMagic...)
	b = r.key.Fragment.Append(b)
	b = le.AppendUint32(b, r.key.Sum)
	b = le.AppendUint32(b, r.key.page)
	b = le.AppendUint32(b, uint32(r.n))
	b = le.AppendUint32(b, r.sum)
	b = append(b, 0, 0)
	return le.AppendUint32(b, crc.Sum(b[at:]))
}

func parseRecord(b []byte) (r record, err error) {
	if len(b) != recHeader || string(b[:4]) != recMagic || crc.Sum(b[:recHeader-4]) != le.Uint32(b[recHeader-4:]) {
		return r, damaged("the header of a record")
	}
	if r.key.Fragment, err = objstore.ParseFragmentKey(b[4:26]); err != nil {
		return r, damaged("%v", err)
	}
	n := le.Uint32(b[34:])
	r.key.Sum, r.key.page, r.n, r.sum = le.Uint32(b[26:]), le.Uint32(b[30:]), int(n), le.Uint32(b[38:])
	if n < 1 || n > PageSize || r.key.page >= maxPages {
		return r, damaged("page %d of %d bytes", r.key.page, n)
	}
	return r, nil
}

// trailer is the end of a segment that is complete.
type trailer struct {
	count uint32
	at    int64 // of the directory
}

func (t trailer) append(b []byte) []byte {
	at := len(b)
	b = append(b, endMagic...)
	b = le.AppendUint32(b, t.count)
	b = le.AppendUint64(b, uint64(t.at))
	b = append(b, 0, 0, 0, 0)
	return le.AppendUint32(b, crc.Sum(b[at:]))
}

// parseTrailer reads the trailer of a segment of size bytes.
func parseTrailer(b []byte, size int64) (t trailer, err error) {
	if len(b) != trailerLen || string(b[:4]) != endMagic || crc.Sum(b[:trailerLen-4]) != le.Uint32(b[trailerLen-4:]) {
		return t, damaged("no trailer")
	}
	t.count = le.Uint32(b[4:])
	at := le.Uint64(b[8:])
	if t.count > maxRecords || at < segHeader || at > maxSegment || int64(at)+int64(t.count)*recHeader+trailerLen != size {
		return t, damaged("a trailer of %d records at %d in %d bytes", t.count, at, size)
	}
	t.at = int64(at)
	return t, nil
}

// readSegment calls fn with the records of a segment of size bytes and the offsets at which they begin, and returns the head
// and where the records end. Damage of the head is an error; what comes behind damage of the rest is left out.
func readSegment(f io.ReaderAt, size int64, fn func(r record, at int64)) (h segmentHead, end int64, err error) {
	if size > maxSegment+maxRecords*recHeader+trailerLen {
		return h, 0, damaged("a segment of %d bytes", size)
	}
	var head [segHeader]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return h, 0, errors.Join(damaged("a segment without a header"), err)
	}
	if h, err = parseSegmentHead(head[:]); err != nil {
		return h, 0, err
	}
	if dir, limit := directory(f, size); dir != nil {
		end := int64(segHeader)
		for ; len(dir) > 0; dir = dir[recHeader:] {
			r, err := parseRecord(dir[:recHeader])
			if err != nil || end+recHeader+int64(r.n) > limit {
				break
			}
			fn(r, end)
			end += recHeader + int64(r.n)
		}
		return h, end, nil
	}
	end = segHeader
	for {
		var b [recHeader]byte
		if _, err := f.ReadAt(b[:], end); err != nil {
			return h, end, nil
		}
		r, err := parseRecord(b[:])
		if err != nil || end+recHeader+int64(r.n) > size {
			return h, end, nil
		}
		fn(r, end)
		end += recHeader + int64(r.n)
	}
}

// directory returns the directory of a segment and where it begins, or nil when it has none.
func directory(f io.ReaderAt, size int64) ([]byte, int64) {
	if size < segHeader+trailerLen {
		return nil, 0
	}
	var b [trailerLen]byte
	if _, err := f.ReadAt(b[:], size-trailerLen); err != nil {
		return nil, 0
	}
	t, err := parseTrailer(b[:], size)
	if err != nil {
		return nil, 0
	}
	dir := make([]byte, t.count*recHeader) // as many bytes as the file has there
	if _, err := f.ReadAt(dir, t.at); err != nil {
		return nil, 0
	}
	return dir, t.at
}
