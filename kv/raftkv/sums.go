package raftkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// sums holds the checksums of the pages of one generation of the state file. They are kept in a file of
// their own, which is written after the state file:
//
//	0   magic "gabionsm"
//	8   version u32
//	12  page size u32
//	16  transaction of the state file u64
//	24  number of pages u64
//	32  CRC-32C per page u32; of no meaning for one that is free or follows another one
//	..  CRC-32C of all before u32
//
// and then any number of records, one for each transaction after that:
//
//	0   transaction u64
//	8   number of pages of the file u64
//	16  number of pages that were written u32
//	20  for each: its id u64, its CRC-32C u32
//	..  CRC-32C of the record u32
//
// A crash may leave the file one transaction behind; then the pages that this transaction wrote are taken
// as they are found. When it is damaged or missing, it is made again from a state file whose values all
// match their own checksums.
//
// The generations of a file share the table: a transaction only writes pages that no generation uses.
type sums struct {
	tx    uint64
	table []uint32 // by page, 0: none
	// seen has a bit per page that was compared in this process.
	seen []atomic.Uint32
}

const (
	sumsFile    = "state.sum"
	sumsMagic   = "gabionsm"
	sumsVersion = 2

	sumsHead   = 32 // bytes before the table
	recordHead = 20
	recordItem = 12
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

// grown returns the checksums for a file with that many pages, which share the table with s as long as it
// has room.
func (s *sums) grown(pages int, tx uint64) *sums {
	n := &sums{tx: tx, table: s.table, seen: s.seen}
	if pages > cap(s.table) {
		n.table = make([]uint32, len(s.table), pages+pages/4)
		copy(n.table, s.table)
	}
	n.table = n.table[:max(pages, len(n.table))]
	if words := (cap(n.table) + 31) / 32; words > len(s.seen) {
		n.seen = make([]atomic.Uint32, words)
		for i := range s.seen {
			n.seen[i].Store(s.seen[i].Load())
		}
	}
	return n
}

// pageSet is a set of pages.
type pageSet []uint64

func (p pageSet) has(id pageID) bool { return id/64 < pageID(len(p)) && p[id/64]&(1<<(id%64)) != 0 }

func (p *pageSet) reset(pages pageID) {
	if n := int(pages/64 + 1); n > len(*p) {
		*p = make(pageSet, n+n/4)
		return
	}
	clear(*p)
}

func (p pageSet) add(id pageID) { p[id/64] |= 1 << (id % 64) }

// freePages returns the pages that are not in use in a generation: free, or freed and still seen by older
// ones.
func (t *tree) freePages(set *pageSet) error {
	p, err := t.page(t.meta.free)
	if err != nil {
		return err
	}
	set.reset(t.meta.pages)
	return t.eachFree(p, func(id pageID) {
		if id < t.meta.pages {
			set.add(id)
		}
	})
}

// next gives t the checksums of its generation, which the transaction after s wrote, and returns the pages
// that it wrote. free are the pages that were free in the generation of s: bbolt never overwrites a page
// that is in use, so a page that was in use then is unchanged, and so is everything below it.
func (s *sums) next(t *tree, free pageSet) ([]pageID, error) {
	w := sumWalker{tree: t, free: free, before: pageID(len(s.table))}
	t.sums = s.grown(int(t.meta.pages), t.meta.tx)
	list, err := t.raw(t.meta.free)
	if err != nil {
		return nil, err
	}
	if list.flags()&flagFree == 0 {
		return nil, t.corrupt("page %d is no list of free pages", t.meta.free)
	}
	w.add(list)
	return w.wrote, w.walk(t.meta.root, 0)
}

// sumWalker follows a tree to the pages that its transaction wrote.
type sumWalker struct {
	tree   *tree
	free   pageSet
	before pageID // number of pages that there were
	wrote  []pageID
}

func (w *sumWalker) add(p page) {
	id := p.id()
	w.tree.sums.table[id] = pageSum(p)
	w.tree.sums.markVerified(id)
	w.wrote = append(w.wrote, id)
}

// maxDepth is far more than a tree of this format can have.
const maxDepth = 64

func (w *sumWalker) walk(id pageID, depth int) error {
	if id < w.before && !w.free.has(id) {
		return nil
	}
	p, err := w.tree.raw(id)
	if err != nil {
		return err
	}
	if depth > maxDepth || !p.isBranch() && !p.isLeaf() {
		return w.tree.corrupt("page %d is no part of a tree", id)
	}
	w.add(p)
	for i := range p.count() {
		if p.isBranch() {
			err = w.walk(p.child(i), depth+1)
		} else if _, value, isBucket := p.leaf(i); isBucket && len(value) >= 16 {
			if root := pageID(binary.LittleEndian.Uint64(value)); root != 0 {
				err = w.walk(root, depth+1)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eachFree calls fn with each page on a list of free ones.
func (t *tree) eachFree(p page, fn func(pageID)) error {
	b, n := p[pageHeader:], uint64(p.count())
	if n == 0xffff {
		n, b = binary.LittleEndian.Uint64(b), b[8:]
	}
	if p.flags()&flagFree == 0 || n > uint64(len(b))/8 {
		return t.corrupt("page %d is no list of %d free pages", p.id(), n)
	}
	for i := range n {
		fn(pageID(binary.LittleEndian.Uint64(b[8*i:])))
	}
	return nil
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

// record is what the file gets for a transaction that wrote these pages.
func (s *sums) record(wrote []pageID) []byte {
	b := make([]byte, 0, recordHead+recordItem*len(wrote)+4)
	b = binary.LittleEndian.AppendUint64(b, s.tx)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s.table)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(wrote)))
	for _, id := range wrote {
		b = binary.LittleEndian.AppendUint64(b, uint64(id))
		b = binary.LittleEndian.AppendUint32(b, s.table[id])
	}
	return binary.LittleEndian.AppendUint32(b, crc(b))
}

// parseSums reads the file; the state file has at most maxPages pages. rest is what does not parse as a
// record any more: one that a crash has cut off, or damage.
func parseSums(b []byte, pageSize, maxPages int) (s *sums, rest []byte, err error) {
	if len(b) < sumsHead+4 || string(b[:8]) != sumsMagic {
		return nil, nil, errors.New("it does not begin like a list of checksums")
	}
	n := binary.LittleEndian.Uint64(b[24:])
	if n > uint64(len(b)-sumsHead-4)/4 {
		return nil, nil, errors.New("it has the wrong length")
	}
	end := sumsHead + 4*int(n)
	body, want := b[:end], binary.LittleEndian.Uint32(b[end:])
	if crc(body) != want {
		return nil, nil, errors.New("it does not match its own checksum")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v < 1 || v > sumsVersion {
		return nil, nil, fmt.Errorf("it has version %d, known is %d", v, sumsVersion)
	}
	if n := binary.LittleEndian.Uint32(b[12:]); int(n) != pageSize {
		return nil, nil, fmt.Errorf("it is about pages of %d bytes", n)
	}
	table := make([]uint32, n)
	for i := range table {
		table[i] = binary.LittleEndian.Uint32(b[sumsHead+4*i:])
	}
	s = newSums(table, binary.LittleEndian.Uint64(b[16:]))
	rest = b[end+4:]
	for len(rest) > 0 {
		n := s.applyRecord(rest, maxPages)
		if n == 0 {
			break
		}
		rest = rest[n:]
	}
	return s, rest, nil
}

// applyRecord makes s those of the next transaction and returns the length of its record; 0 when there is
// no whole one.
func (s *sums) applyRecord(b []byte, maxPages int) int {
	if len(b) < recordHead+4 {
		return 0
	}
	tx, pages, n := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint32(b[16:])
	if tx != s.tx+1 || pages < uint64(len(s.table)) || pages > uint64(max(maxPages, len(s.table))) || uint64(n) > uint64(len(b)-recordHead-4)/recordItem {
		return 0
	}
	end := recordHead + recordItem*int(n)
	if crc(b[:end]) != binary.LittleEndian.Uint32(b[end:]) {
		return 0
	}
	for at := recordHead; at < end; at += recordItem {
		if binary.LittleEndian.Uint64(b[at:]) >= pages {
			return 0
		}
	}
	*s = *s.grown(int(pages), tx)
	for at := recordHead; at < end; at += recordItem {
		s.table[binary.LittleEndian.Uint64(b[at:])] = binary.LittleEndian.Uint32(b[at+8:])
	}
	return end + 4
}

// loadSums reads the file. whole says that more records can be appended to it.
func loadSums(dir string, pageSize, maxPages int) (s *sums, whole bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return nil, false, err
	}
	s, rest, err := parseSums(b, pageSize, maxPages)
	return s, len(rest) == 0, err
}

// sumsLog is the file.
type sumsLog struct {
	dir  string
	file *os.File // open for appending, or nil
}

// replace writes the file anew.
func (l *sumsLog) replace(s *sums, pageSize int) error {
	l.close()
	if err := writeFileDurably(filepath.Join(l.dir, sumsFile), s.marshal(pageSize)); err != nil {
		return fmt.Errorf("raftkv: %w", err)
	}
	return nil
}

// append adds the record of one transaction.
func (l *sumsLog) append(s *sums, wrote []pageID) (err error) {
	if l.file == nil {
		if l.file, err = os.OpenFile(filepath.Join(l.dir, sumsFile), os.O_WRONLY|os.O_APPEND, 0); err != nil {
			l.file = nil
			return fmt.Errorf("raftkv: %w", err)
		}
	}
	if _, err = l.file.Write(s.record(wrote)); err == nil {
		err = unix.Fdatasync(int(l.file.Fd()))
	}
	if err != nil {
		return fmt.Errorf("raftkv: write %s: %w", l.file.Name(), err)
	}
	return nil
}

func (l *sumsLog) close() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}
