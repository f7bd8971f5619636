package raftlog

import (
	"encoding/binary"
	"hash/crc32"
)

type kind uint8

const (
	kindEntry kind = 1 + iota
	kindTruncate
	kindReset
	kindSeal
	kindMark
	kindClosed
)

const (
	segmentMagic   = "gabionlg"
	segmentVersion = 1
	blockSize      = 4096
	recordHeader   = 48
	flagLast       = 1

	// maxPayload bounds a record. It is far above what a log entry can have.
	maxPayload = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is a decoded record header.
type record struct {
	kind       kind
	typ        uint8
	last       bool
	length     uint32 // of the payload
	extensions uint32
	index      uint64
	term       uint64
	time       int64
	batch      uint64
}

// size is how much of the file the record takes.
func (r *record) size() int64 { return align(recordHeader + int64(r.length)) }

func align(n int64) int64 { return (n + 7) &^ 7 }

// put lays out the header. The checksum is added by finish.
func (r *record) put(b []byte) {
	binary.LittleEndian.PutUint32(b[4:], r.length)
	b[8], b[9] = byte(r.kind), r.typ
	var flags uint16
	if r.last {
		flags = flagLast
	}
	binary.LittleEndian.PutUint16(b[10:], flags)
	binary.LittleEndian.PutUint32(b[12:], r.extensions)
	binary.LittleEndian.PutUint64(b[16:], r.index)
	binary.LittleEndian.PutUint64(b[24:], r.term)
	binary.LittleEndian.PutUint64(b[32:], uint64(r.time))
	binary.LittleEndian.PutUint64(b[40:], r.batch)
}

// sum is the checksum of a record at offset: of its header and the parts of its payload.
func sum(epoch uint64, offset int64, header []byte, payload ...[]byte) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[0:], epoch)
	binary.LittleEndian.PutUint64(b[8:], uint64(offset))
	c := crc32.Update(0, castagnoli, b[:])
	c = crc32.Update(c, castagnoli, header[4:recordHeader])
	for _, p := range payload {
		c = crc32.Update(c, castagnoli, p)
	}
	return c
}

// parse decodes and verifies the record at the beginning of b, which is at offset in a segment of the
// given epoch. ok is false when there is no valid record.
func parse(b []byte, epoch uint64, offset int64) (r record, payload []byte, ok bool) {
	if len(b) < recordHeader {
		return r, nil, false
	}
	r = record{
		length:     binary.LittleEndian.Uint32(b[4:]),
		kind:       kind(b[8]),
		typ:        b[9],
		last:       binary.LittleEndian.Uint16(b[10:])&flagLast != 0,
		extensions: binary.LittleEndian.Uint32(b[12:]),
		index:      binary.LittleEndian.Uint64(b[16:]),
		term:       binary.LittleEndian.Uint64(b[24:]),
		time:       int64(binary.LittleEndian.Uint64(b[32:])),
		batch:      binary.LittleEndian.Uint64(b[40:]),
	}
	if r.kind < kindEntry || r.kind > kindClosed || r.length > maxPayload || r.extensions > r.length ||
		int64(r.length) > int64(len(b))-recordHeader {
		return r, nil, false
	}
	payload = b[recordHeader : recordHeader+int(r.length)]
	return r, payload, binary.LittleEndian.Uint32(b) == sum(epoch, offset, b, payload)
}
