package raftkv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/gabionfs/gabion/kv"
)

// bbolt writes the state file and this package reads it: bbolt has no checksums on its pages, and a
// damaged page would make a key disappear without a word. So every page is read through page, which
// compares it with a checksum that was taken when it was written (sums.go). The format of the pages is
// bbolt's version 2, little endian:
//
//	page:    id u64, flags u16, count u16, overflow u32 (pages that follow and belong to it), then
//	branch:  count elements: pos u32, length of the key u32, id of the child u64
//	leaf:    count elements: flags u32 (1: a bucket), pos u32, length of the key u32, of the value u32
//	         pos counts from the beginning of the element to its key; the value follows the key
//	bucket:  a leaf value: id of its root page u64, sequence u64; root 0: its only page follows
//	free:    count ids u64 of free pages; count 0xffff: the true count is the first u64
//	meta:    pages 0 and 1: magic u32, version u32, page size u32, flags u32, root bucket (2 u64), id of
//	         the free page u64, number of pages u64, transaction u64, FNV-1a of the fields before u64

const (
	pageHeader   = 16
	elementSize  = 16
	flagBranch   = 1
	flagLeaf     = 2
	flagFree     = 16
	metaSize     = 64
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	leafIsBucket = 1
)

type pageID uint64

// page is a page with its overflow, or the only page of a small bucket, which stands in its parent.
type page []byte

func (p page) id() pageID       { return pageID(binary.LittleEndian.Uint64(p)) }
func (p page) flags() uint16    { return binary.LittleEndian.Uint16(p[8:]) }
func (p page) count() int       { return int(binary.LittleEndian.Uint16(p[10:])) }
func (p page) overflow() uint32 { return binary.LittleEndian.Uint32(p[12:]) }
func (p page) isBranch() bool   { return p.flags()&flagBranch != 0 }
func (p page) isLeaf() bool     { return p.flags()&flagLeaf != 0 }

func (p page) element(i int) []byte { return p[pageHeader+i*elementSize:] }

// key returns the key of element i.
func (p page) key(i int) []byte {
	e := p.element(i)
	if p.isBranch() {
		pos, n := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
		return e[pos : pos+n : pos+n]
	}
	pos, n := binary.LittleEndian.Uint32(e[4:]), binary.LittleEndian.Uint32(e[8:])
	return e[pos : pos+n : pos+n]
}

// child returns the page below element i of a branch.
func (p page) child(i int) pageID { return pageID(binary.LittleEndian.Uint64(p.element(i)[8:])) }

// leaf returns element i of a leaf.
func (p page) leaf(i int) (key, value []byte, bucket bool) {
	e := p.element(i)
	flags, pos := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
	kn, vn := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
	mid, end := pos+kn, pos+kn+vn
	return e[pos:mid:mid], e[mid:end:end], flags&leafIsBucket != 0
}

// search returns the first element whose key is not less than key, and whether it is key.
func (p page) search(key []byte) (i int, found bool) {
	lo, hi := 0, p.count()
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		switch c := bytes.Compare(p.key(mid), key); {
		case c < 0:
			lo = mid + 1
		case c == 0:
			return mid, true
		default:
			hi = mid
		}
	}
	return lo, false
}

// toward returns the element of a branch below which key is, if it is anywhere.
func (p page) toward(key []byte) int {
	i, found := p.search(key)
	if !found && i > 0 {
		i--
	}
	return i
}

// meta is one of the two roots of the file.
type meta struct {
	root, free, pages pageID
	tx                uint64
}

func parseMeta(b []byte, pageSize int) (m meta, err error) {
	b = b[pageHeader : pageHeader+metaSize]
	h := fnv.New64a()
	_, _ = h.Write(b[:56])
	switch {
	case binary.LittleEndian.Uint32(b) != boltMagic, binary.LittleEndian.Uint32(b[4:]) != boltVersion:
		return m, errors.New("not a meta page")
	case binary.LittleEndian.Uint64(b[56:]) != h.Sum64():
		return m, errors.New("a meta page that does not match its checksum")
	case int(binary.LittleEndian.Uint32(b[8:])) != pageSize:
		return m, errors.New("a meta page of another page size")
	}
	return meta{
		root:  pageID(binary.LittleEndian.Uint64(b[16:])),
		free:  pageID(binary.LittleEndian.Uint64(b[32:])),
		pages: pageID(binary.LittleEndian.Uint64(b[40:])),
		tx:    binary.LittleEndian.Uint64(b[48:]),
	}, nil
}

// tree is one generation of the file: the pages that are reachable from one meta page.
type tree struct {
	path    string
	data    []byte // the mapped file
	size    int    // of a page
	meta    meta
	sums    *sums
	buckets map[string]bucket
}

// bucket is a keyspace: its root page, or its only page.
type bucket struct {
	root   pageID
	inline page
}

func (t *tree) corrupt(format string, args ...any) error {
	return &kv.CorruptError{What: t.path, Err: fmt.Errorf(format, args...)}
}

// raw returns a page without comparing its checksum.
func (t *tree) raw(id pageID) (page, error) {
	if id < 2 || id >= t.meta.pages {
		return nil, t.corrupt("page %d is not within the %d pages of the file", id, t.meta.pages)
	}
	at := int(id) * t.size
	p := page(t.data[at : at+t.size])
	end := uint64(id) + 1 + uint64(p.overflow())
	if p.id() != id || end > uint64(t.meta.pages) {
		return nil, t.corrupt("page %d has a header of page %d with %d more", id, p.id(), p.overflow())
	}
	p = page(t.data[at : int(end)*t.size : int(end)*t.size])
	if p.flags()&(flagBranch|flagLeaf) != 0 && (pageHeader+p.count()*elementSize > len(p) || p.isBranch() && p.count() == 0) {
		return nil, t.corrupt("page %d has %d elements", id, p.count())
	}
	return p, nil
}

// page returns a page that matches its checksum. It is compared once in the life of the process.
func (t *tree) page(id pageID) (page, error) {
	p, err := t.raw(id)
	if err != nil || t.sums.verified(id) {
		return p, err
	}
	want, ok := t.sums.get(id)
	if !ok {
		return nil, t.corrupt("page %d is in use and has no checksum", id)
	}
	if pageSum(p) != want {
		return nil, t.corrupt("page %d does not match its checksum", id)
	}
	t.sums.markVerified(id)
	return p, nil
}

// openBuckets reads the list of keyspaces.
func (t *tree) openBuckets() error {
	t.buckets = map[string]bucket{}
	return t.eachLeaf(t.meta.root, func(p page) error {
		for i := range p.count() {
			name, value, isBucket := p.leaf(i)
			if !isBucket {
				return t.corrupt("%q at the root is no bucket", name)
			}
			b, err := t.bucket(name, value)
			if err != nil {
				return err
			}
			t.buckets[string(name)] = b
		}
		return nil
	})
}

// bucket decodes the value that stands for a bucket.
func (t *tree) bucket(name, value []byte) (b bucket, err error) {
	if len(value) < 16 {
		return b, t.corrupt("%.32q is no bucket", name)
	}
	if b.root = pageID(binary.LittleEndian.Uint64(value)); b.root != 0 {
		return b, nil
	}
	if b.inline = page(value[16:]); len(b.inline) < pageHeader || !b.inline.isLeaf() {
		return b, t.corrupt("bucket %.32q has no page", name)
	}
	return b, nil
}

// eachLeaf calls fn with the leaves below a page, in order.
func (t *tree) eachLeaf(id pageID, fn func(page) error) error {
	p, err := t.page(id)
	if err != nil {
		return err
	}
	if p.isLeaf() {
		return fn(p)
	}
	for i := range p.count() {
		if err := t.eachLeaf(p.child(i), fn); err != nil {
			return err
		}
	}
	return nil
}

// top returns the first page of a bucket.
func (t *tree) top(b bucket) (page, error) {
	if b.root == 0 {
		return b.inline, nil
	}
	return t.page(b.root)
}

// get returns the value of key in a bucket, or nil.
func (t *tree) get(b bucket, key []byte) ([]byte, error) {
	p, err := t.top(b)
	if err != nil {
		return nil, err
	}
	for p.isBranch() {
		if p, err = t.page(p.child(p.toward(key))); err != nil {
			return nil, err
		}
	}
	i, found := p.search(key)
	if !found {
		return nil, nil
	}
	_, value, _ := p.leaf(i)
	return value, nil
}

// touch verifies the pages that bbolt reads when it changes key: the path to it, and the neighbours on
// the path that it may merge them with. Otherwise it would copy damage into pages with new checksums.
// It returns the last key of the leaf, up to which the same pages are read.
func (t *tree) touch(b bucket, key []byte) (until []byte, err error) {
	p, err := t.top(b)
	if err != nil {
		return nil, err
	}
	for p.isBranch() {
		i := p.toward(key)
		for _, n := range []int{i - 1, i + 1} {
			if n >= 0 && n < p.count() {
				if _, err := t.page(p.child(n)); err != nil {
					return nil, err
				}
			}
		}
		if p, err = t.page(p.child(i)); err != nil {
			return nil, err
		}
	}
	if n := p.count(); n > 0 {
		until = p.key(n - 1)
	}
	return until, nil
}

// walker is a position in a bucket.
type walker struct {
	tree  *tree
	stack []step // from the top page to the leaf
	fixed [6]step
}

type step struct {
	page page
	at   int
}

// down follows the tree from a page to a leaf; pick chooses the element on each level.
func (w *walker) down(p page, pick func(page) int) error {
	for {
		at := pick(p)
		w.stack = append(w.stack, step{p, at})
		if !p.isBranch() {
			return nil
		}
		var err error
		if p, err = w.tree.page(p.child(at)); err != nil {
			return err
		}
	}
}

func (w *walker) start(t *tree, b bucket, pick func(page) int) error {
	w.tree = t
	w.stack = w.fixed[:0]
	p, err := t.top(b)
	if err != nil {
		return err
	}
	return w.down(p, pick)
}

func pickFirst(page) int  { return 0 }
func pickLast(p page) int { return p.count() - 1 }

// seek moves to the first key that is not less than key.
func (w *walker) seek(t *tree, b bucket, key []byte) error {
	err := w.start(t, b, func(p page) int {
		if p.isBranch() {
			return p.toward(key)
		}
		i, _ := p.search(key)
		return i
	})
	if err != nil {
		return err
	}
	if leaf := w.leaf(); leaf.at >= leaf.page.count() {
		leaf.at--
		return w.move(+1)
	}
	return nil
}

// first and last move to the ends of the bucket.
func (w *walker) first(t *tree, b bucket) error {
	if err := w.start(t, b, pickFirst); err != nil || w.valid() {
		return err
	}
	return w.move(+1) // past an empty leaf
}

func (w *walker) last(t *tree, b bucket) error {
	if err := w.start(t, b, pickLast); err != nil || w.valid() {
		return err
	}
	return w.move(-1)
}

func (w *walker) leaf() *step { return &w.stack[len(w.stack)-1] }

// valid says whether the walker is at a key.
func (w *walker) valid() bool {
	if len(w.stack) == 0 {
		return false
	}
	leaf := w.leaf()
	return !leaf.page.isBranch() && leaf.at >= 0 && leaf.at < leaf.page.count()
}

func (w *walker) current() (key, value []byte) {
	leaf := w.leaf()
	key, value, _ = leaf.page.leaf(leaf.at)
	return key, value
}

// move goes one key forward or back; past either end the walker is not valid any more.
func (w *walker) move(by int) error {
	pick := pickFirst
	if by < 0 {
		pick = pickLast
	}
	w.leaf().at += by
	for !w.valid() {
		w.stack = w.stack[:len(w.stack)-1]
		if len(w.stack) == 0 {
			return nil
		}
		up := w.leaf()
		if up.at += by; up.at < 0 || up.at >= up.page.count() {
			continue
		}
		p, err := w.tree.page(up.page.child(up.at))
		if err != nil {
			return err
		}
		if err := w.down(p, pick); err != nil {
			return err
		}
	}
	return nil
}
