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
	// packTarget is how much content a shared pack gathers, so that its fragments are long.
	packTarget = 4 << 20
	// maxPack bounds the content of any pack: the last blob may begin just below the target.
	maxPack = packTarget + soloBlob

	packEntry = 32 + 4 + 4
	packTail  = 4 + 4 + 4
)

var packMagic = [4]byte{'G', 'B', 'P', 'K'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// packEntryRow is one line of a shared pack's index.
type packIndexEntry struct {
	hash   Hash
	off, n uint32
}

// packBuilder gathers small blobs into the object of one shared pack.
type packBuilder struct {
	buf   []byte
	index []packIndexEntry
}

// add appends a blob and returns its offset.
func (p *packBuilder) add(h Hash, content []byte) uint32 {
	off := uint32(len(p.buf))
	p.buf = append(p.buf, content...)
	p.index = append(p.index, packIndexEntry{h, off, uint32(len(content))})
	return off
}

// full reports whether n more bytes should go to another pack.
func (p *packBuilder) full(n int) bool { return len(p.buf) > 0 && len(p.buf)+n > packTarget }

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
