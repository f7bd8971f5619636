package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	// soloBlob is the size from which a blob is an object of its own.
	soloBlob = 2 << 20
	// maxPack bounds the object of any pack, index and all, so that it fits a block's buffer.
	maxPack = BlockSize

	packEntry = 32 + 4 + 4
	packTail  = 4 + 4 + 4
)

var packMagic = [4]byte{'G', 'B', 'P', 'K'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// packIndexEntry is one line of a shared pack's index.
type packIndexEntry struct {
	hash   Hash
	off, n uint32
}

// packBuilder gathers small blobs into the object of one shared pack, in a buffer of maxPack bytes.
type packBuilder struct {
	pool  *bufPool
	buf   []byte
	index []packIndexEntry
}

// add appends a blob, for which there must be room.
func (p *packBuilder) add(h Hash, content []byte) {
	if p.buf == nil {
		p.buf = p.pool.get()[:0]
	}
	p.index = append(p.index, packIndexEntry{h, uint32(len(p.buf)), uint32(len(content))})
	p.buf = append(p.buf, content...)
}

// room reports whether a blob of n bytes, which is less than soloBlob, still fits.
func (p *packBuilder) room(n int) bool {
	return len(p.buf)+n+(len(p.index)+1)*packEntry+packTail <= maxPack
}

// release gives the buffer back.
func (p *packBuilder) release() {
	if p.buf != nil {
		p.pool.put(p.buf)
	}
	p.buf, p.index = nil, nil
}

// content returns how many bytes of blobs are in the pack.
func (p *packBuilder) content() int { return len(p.buf) }

// seal appends the index and returns the object.
func (p *packBuilder) seal() []byte {
	b, start := p.buf, len(p.buf)
	for _, e := range p.index {
		b = append(b, e.hash[:]...)
		b = binary.BigEndian.AppendUint32(b, e.off)
		b = binary.BigEndian.AppendUint32(b, e.n)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.index)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	return append(b, packMagic[:]...)
}

// packIndexSize reads the tail of a pack, its last packTail bytes, and returns the size of the index
// in front of it. size is that of the whole object.
func packIndexSize(tail []byte, size int64) (int64, error) {
	if len(tail) != packTail || [4]byte(tail[8:]) != packMagic {
		return 0, errors.New("pack does not end in its magic")
	}
	n := int64(binary.BigEndian.Uint32(tail)) * packEntry
	if n > size-packTail {
		return 0, fmt.Errorf("index of %d bytes in a pack of %d", n, size)
	}
	return n, nil
}

// decodePackIndex decodes index and tail, size being that of the whole object.
func decodePackIndex(b []byte, size int64) ([]packIndexEntry, error) {
	if len(b) < packTail {
		return nil, errShort
	}
	tail := b[len(b)-packTail:]
	n, err := packIndexSize(tail, size)
	if err != nil {
		return nil, err
	}
	if n != int64(len(b)-packTail) {
		return nil, fmt.Errorf("index of %d bytes, want %d", len(b)-packTail, n)
	}
	if got, want := crc32.Checksum(b[:n+4], castagnoli), binary.BigEndian.Uint32(tail[4:]); got != want {
		return nil, fmt.Errorf("index checksum %08x, want %08x", got, want)
	}
	content := size - int64(len(b))
	out := make([]packIndexEntry, 0, n/packEntry)
	for i := int64(0); i < n; i += packEntry {
		var e packIndexEntry
		copy(e.hash[:], b[i:])
		e.off = binary.BigEndian.Uint32(b[i+32:])
		e.n = binary.BigEndian.Uint32(b[i+36:])
		if int64(e.off)+int64(e.n) > content {
			return nil, fmt.Errorf("blob at %d+%d in a pack of %d bytes", e.off, e.n, content)
		}
		out = append(out, e)
	}
	return out, nil
}
