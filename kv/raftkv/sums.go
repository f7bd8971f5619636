package raftkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// sums holds the checksums of the pages of one generation of the state file. After each flush it is
// written to a file of its own:
//
//	0   magic "gabionsm"
//	8   version u32
//	12  page size u32
//	16  transaction of the state file u64
//	24  number of pages u64
//	32  CRC-32C per page u32; 0 for one that is free or follows another one
//	..  CRC-32C of all before u32
//
// It is written after the state file. A crash in between leaves it one transaction behind; then the
// pages that this transaction wrote are taken as they are found. When it is damaged or missing, it is
// made again from a state file whose values all match their own checksums.
type sums struct {
	tx    uint64
	table []uint32 // by page, 0: none
	// seen has a bit per page that was compared in this process.
	seen []atomic.Uint32
}

const (
	sumsFile    = "state.sum"
	sumsMagic   = "gabionsm"
	sumsVersion = 1
)

// pageSum is the checksum of a page; never 0.
func pageSum(p page) uint32 {
	if c := crc(p); c != 0 {
		return c
	}
	return 1
}

func newSums(table []uint32, tx uint64) *sums {
	return &sums{tx: tx, table: table, seen: make([]atomic.Uint32, (len(table)+31)/32)}
}

func (s *sums) get(id pageID) (uint32, bool) {
	if id >= pageID(len(s.table)) {
		return 0, false
	}
	return s.table[id], s.table[id] != 0
}

func (s *sums) verified(id pageID) bool {
	n := id / 32
	return n < pageID(len(s.seen)) && s.seen[n].Load()&(1<<(id%32)) != 0
}

func (s *sums) markVerified(id pageID) {
	if n := id / 32; n < pageID(len(s.seen)) {
		s.seen[n].Or(1 << (id % 32))
	}
}

// next returns the checksums for the generation t, which the transaction after s wrote. bbolt never
// overwrites a page that is in use, so a page that has a checksum and was not freed is unchanged, and so
// is everything below it. An s without a table computes all of them.
func (s *sums) next(t *tree) error {
	n := newSums(make([]uint32, t.meta.pages), t.meta.tx)
	copy(n.table, s.table)
	for i := range min(len(s.seen), len(n.seen)) {
		n.seen[i].Store(s.seen[i].Load())
	}
	t.sums = n
	free, err := t.raw(t.meta.free)
	if err != nil {
		return err
	}
	ids, err := t.freeIDs(free)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id < t.meta.pages {
			n.table[id] = 0
			n.seen[id/32].And(^uint32(1 << (id % 32)))
		}
	}
	n.add(free)
	return n.walk(t, t.meta.root, 0)
}

func (s *sums) add(p page) {
	s.table[p.id()] = pageSum(p)
	s.markVerified(p.id())
}

// maxDepth is far more than a tree of this format can have.
const maxDepth = 64

func (s *sums) walk(t *tree, id pageID, depth int) error {
	if _, known := s.get(id); known {
		return nil
	}
	p, err := t.raw(id)
	if err != nil {
		return err
	}
	if depth > maxDepth || !p.isBranch() && !p.isLeaf() {
		return t.corrupt("page %d is no part of a tree", id)
	}
	s.add(p)
	for i := range p.count() {
		if p.isBranch() {
			err = s.walk(t, p.child(i), depth+1)
		} else if _, value, isBucket := p.leaf(i); isBucket && len(value) >= 16 {
			if root := pageID(binary.LittleEndian.Uint64(value)); root != 0 {
				err = s.walk(t, root, depth+1)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// freeIDs returns the free pages.
func (t *tree) freeIDs(p page) ([]pageID, error) {
	b, n := p[pageHeader:], uint64(p.count())
	if n == 0xffff {
		n, b = binary.LittleEndian.Uint64(b), b[8:]
	}
	if p.flags()&flagFree == 0 || n > uint64(len(b))/8 {
		return nil, t.corrupt("page %d is no list of %d free pages", p.id(), n)
	}
	ids := make([]pageID, n)
	for i := range ids {
		ids[i] = pageID(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return ids, nil
}

func (s *sums) marshal(pageSize int) []byte {
	b := make([]byte, 0, 36+4*len(s.table))
	b = append(b, sumsMagic...)
	b = binary.LittleEndian.AppendUint32(b, sumsVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(pageSize))
	b = binary.LittleEndian.AppendUint64(b, s.tx)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s.table)))
	for _, c := range s.table {
		b = binary.LittleEndian.AppendUint32(b, c)
	}
	return binary.LittleEndian.AppendUint32(b, crc(b))
}

func parseSums(b []byte, pageSize int) (*sums, error) {
	if len(b) < 36 || string(b[:8]) != sumsMagic {
		return nil, errors.New("it does not begin like a list of checksums")
	}
	body, want := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc(body) != want {
		return nil, errors.New("it does not match its own checksum")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != sumsVersion {
		return nil, fmt.Errorf("it has version %d, known is %d", v, sumsVersion)
	}
	if n := binary.LittleEndian.Uint32(b[12:]); int(n) != pageSize {
		return nil, fmt.Errorf("it is about pages of %d bytes", n)
	}
	n := binary.LittleEndian.Uint64(b[24:])
	if n != uint64(len(body)-32)/4 || len(body)%4 != 0 {
		return nil, errors.New("it has the wrong length")
	}
	table := make([]uint32, n)
	for i := range table {
		table[i] = binary.LittleEndian.Uint32(b[32+4*i:])
	}
	return newSums(table, binary.LittleEndian.Uint64(b[16:])), nil
}

// loadSums reads the file; nil without an error means that there is none to be had.
func loadSums(path string, pageSize int) (*sums, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseSums(b, pageSize)
}
