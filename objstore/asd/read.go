package asd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"sort"

	"golang.org/x/sys/unix"
)

// Head describes a record.
type Head struct {
	Key     []byte
	Version uint64
	Size    int64  // of the payload in bytes
	Info    []byte // recovery information; only where it was asked for
}

// Section is a part of a payload: len(Buf) bytes from offset Off on.
type Section struct {
	Off int64
	Buf []byte
}

// Read is one request of a MultiGet, and its answer.
type Read struct {
	Key []byte
	// Dst is used for the payload when its capacity is enough; otherwise memory is allocated. It
	// becomes the payload.
	Dst []byte
	Err error
}

// Get returns the payload of key, verified. It is read to dst when the capacity of dst is enough, otherwise to
// new memory. Errors: ErrNotFound, *CorruptError, ErrClosed, or what the disk answered.
func (a *ASD) Get(ctx context.Context, key, dst []byte) ([]byte, error) {
	op, err := a.enter(ctx, &a.counters.read)
	if err != nil {
		return nil, err
	}
	defer op.end()
	e, s, err := a.acquire(ctx, key)
	if err != nil {
		return nil, err
	}
	defer s.release()
	if cap(dst) < e.size {
		dst = make([]byte, e.size)
	}
	dst = dst[:e.size]
	return dst, a.readSection(s, key, e, 0, dst)
}

// PartialGet reads sections of a payload. Every 64 KiB block that a section touches is read whole and verified.
// A section that is not within the payload is ErrInvalid. Other errors as Get. When it fails, the content of the
// buffers is undefined.
func (a *ASD) PartialGet(ctx context.Context, key []byte, sections []Section) error {
	op, err := a.enter(ctx, &a.counters.read)
	if err != nil {
		return err
	}
	defer op.end()
	e, s, err := a.acquire(ctx, key)
	if err != nil {
		return err
	}
	defer s.release()
	for _, sec := range sections {
		if sec.Off < 0 || sec.Off > int64(e.size) || int64(len(sec.Buf)) > int64(e.size)-sec.Off {
			return fmt.Errorf("asd %s: get %q: %d bytes at %d of %d: %w", a.dir, key, len(sec.Buf), sec.Off, e.size, ErrInvalid)
		}
		if err := a.readSection(s, key, e, int(sec.Off), sec.Buf); err != nil {
			return err
		}
	}
	return nil
}

// MultiGet answers many Gets, in the order in which the records lie on disk. Each one has its own error;
// the one returned is that of the context, or ErrClosed.
func (a *ASD) MultiGet(ctx context.Context, reads []Read) error {
	type found struct {
		r *Read
		e *entry
		s *segment
	}
	for len(reads) > 0 {
		n := min(len(reads), 256)
		var list []found
		for i := range reads[:n] {
			r := &reads[i]
			e, s, err := a.acquire(ctx, r.Key)
			if r.Err = err; err == nil {
				list = append(list, found{r, e, s})
			}
		}
		slices.SortFunc(list, func(x, y found) int {
			return cmp.Or(cmp.Compare(x.e.segment, y.e.segment), cmp.Compare(x.e.payloadOffset(), y.e.payloadOffset()))
		})
		for _, f := range list {
			if cap(f.r.Dst) < f.e.size {
				f.r.Dst = make([]byte, f.e.size)
			}
			f.r.Dst = f.r.Dst[:f.e.size]
			op, err := a.enter(ctx, &a.counters.read)
			if f.r.Err = err; err == nil {
				f.r.Err = a.readSection(f.s, f.r.Key, f.e, 0, f.r.Dst)
				op.end()
			}
			f.s.release()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		reads = reads[n:]
	}
	if a.closed.Load() {
		return fmt.Errorf("asd %s: %w", a.dir, ErrClosed)
	}
	return nil
}

// Exists reports for each key whether there is a record.
func (a *ASD) Exists(ctx context.Context, keys ...[]byte) ([]bool, error) {
	out := make([]bool, len(keys))
	for i, key := range keys {
		if err := a.readable(ctx); err != nil {
			return nil, err
		}
		e, err := a.lookup(key)
		if err != nil {
			return nil, err
		}
		out[i] = e != nil
	}
	return out, nil
}

// Head describes the record of key, with its recovery information. Errors as Get.
func (a *ASD) Head(ctx context.Context, key []byte) (Head, error) {
	e, s, err := a.acquire(ctx, key)
	if err != nil {
		return Head{}, err
	}
	defer s.release()
	info, err := a.readInfo(s, key, e)
	return Head{Key: bytes.Clone(key), Version: e.seq, Size: int64(e.size), Info: info}, err
}

// RangeOptions bound a Range.
type RangeOptions struct {
	Limit int  // largest number of records returned; 0 means 1000
	Info  bool // return the recovery information too, which costs a read of the segment for each record
}

// Range returns the records with from <= key < to in ascending order of keys, and whether there are
// more in the range. A nil from begins at the first key, a nil to ends after the last. A record whose recovery
// information is damaged is returned without it, and errors.As finds a *CorruptError in err, which joins one for
// each; any other error comes without records.
func (a *ASD) Range(ctx context.Context, from, to []byte, o RangeOptions) (list []Head, more bool, err error) {
	if err := a.readable(ctx); err != nil {
		return nil, false, err
	}
	if o.Limit <= 0 {
		o.Limit = 1000
	}
	found, err := a.entries(from, to, func(list []found) bool { return len(list) <= o.Limit })
	if err != nil {
		return nil, false, err
	}
	if more = len(found) > o.Limit; more {
		found = found[:o.Limit]
	}
	for _, f := range found {
		list = append(list, Head{Key: f.key, Version: f.e.seq, Size: int64(f.e.size)})
	}
	if o.Info {
		err = a.addInfo(ctx, &list)
	}
	return list, more, err
}

// found is a record of a range.
type found struct {
	key []byte
	e   *entry
}

// entries returns the records with from <= key < to in ascending order of keys, for as long as more says so of
// what there is.
func (a *ASD) entries(from, to []byte, more func([]found) bool) (list []found, err error) {
	if to != nil && bytes.Compare(from, to) >= 0 {
		return nil, nil
	}
	pending := a.pendingRange(from, to)
	saved := pending
	next := func() {
		p := pending[0]
		pending = pending[1:]
		if p.cur != nil {
			list = append(list, found{[]byte(p.key), p.cur})
		}
	}
	// What is pending now may reach the index before the scan does; its op says the same then.
	err = a.withIndex(func(x *index) error {
		list, pending = list[:0], saved
		return x.scan(from, to, func(key []byte, e *entry) (bool, error) {
			for len(pending) > 0 && pending[0].key < string(key) {
				next()
			}
			if len(pending) > 0 && pending[0].key == string(key) {
				next()
			} else {
				list = append(list, found{bytes.Clone(key), e})
			}
			return more(list), nil
		})
	})
	if err != nil {
		return nil, err
	}
	for len(pending) > 0 && more(list) {
		next()
	}
	return list, nil
}

// pendingRange returns the pending ops of a range in order of keys.
func (a *ASD) pendingRange(from, to []byte) []*pendingOp {
	a.table.RLock()
	defer a.table.RUnlock()
	var out []*pendingOp
	for k, p := range a.table.pending {
		if k >= string(from) && (to == nil || k < string(to)) {
			out = append(out, p)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].key < out[j].key })
	return out
}

func (a *ASD) addInfo(ctx context.Context, list *[]Head) error {
	var damage []error
	kept := (*list)[:0]
	for _, h := range *list {
		full, err := a.Head(ctx, h.Key)
		var ce *CorruptError
		switch {
		case errors.Is(err, ErrNotFound):
			continue // deleted meanwhile
		case errors.As(err, &ce):
			damage = append(damage, err)
		case err != nil:
			*list = nil
			return err
		default:
			h = full
		}
		kept = append(kept, h)
	}
	*list = kept
	return errors.Join(damage...)
}

func (a *ASD) readable(ctx context.Context) error {
	if a.closed.Load() {
		return fmt.Errorf("asd %s: %w", a.dir, ErrClosed)
	}
	return ctx.Err()
}

// acquire finds a record and holds its segment until release.
func (a *ASD) acquire(ctx context.Context, key []byte) (*entry, *segment, error) {
	if err := a.readable(ctx); err != nil {
		return nil, nil, err
	}
	if err := checkKey(key); err != nil {
		return nil, nil, fmt.Errorf("asd %s: get: %w", a.dir, err)
	}
	var last location
	for tries := 0; ; tries++ {
		e, err := a.lookup(key)
		if err != nil {
			return nil, nil, err
		}
		if e == nil {
			return nil, nil, fmt.Errorf("asd %s: get %q: %w", a.dir, key, ErrNotFound)
		}
		a.table.RLock()
		s := a.table.segments[e.segment]
		if s != nil && !s.dying {
			s.refs.Add(1)
			a.table.RUnlock()
			return e, s, nil
		}
		a.table.RUnlock()
		if a.closed.Load() {
			return nil, nil, fmt.Errorf("asd %s: %w", a.dir, ErrClosed)
		}
		// Compaction moved the record, and the index said where to before the segment began to die.
		if tries > 0 && e.location == last {
			return nil, nil, corrupt(key, e, e.payloadOffset(), -1, "the index names a segment that does not exist")
		}
		last = e.location
	}
}

func corrupt(key []byte, e *entry, off int64, block int, detail string) error {
	return &CorruptError{Key: bytes.Clone(key), Segment: e.segment, Offset: off, Block: block, Detail: detail}
}

// readSection reads len(buf) bytes of the payload at off and verifies the blocks that they touch.
func (a *ASD) readSection(s *segment, key []byte, e *entry, off int, buf []byte) error {
	if len(buf) == 0 {
		return nil
	}
	first, span, free := a.blocksOf(e, off, buf)
	defer free()
	at := e.payloadOffset() + int64(first)*BlockSize
	err := readBuffered(s, span, at)
	bad := -1
	if err == nil {
		if bad = badSpan(span, e.crcs[4*first:]); bad < 0 {
			a.counters.readDone(len(buf))
			return nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return corrupt(key, e, at, first, "the segment file is missing")
	}
	if err != nil && !isEOF(err) {
		a.counters.readErrors.Add(1)
		return fmt.Errorf("asd %s: get %q: %w", a.dir, key, err)
	}
	return a.rereadSection(s, key, e, first, span, at, bad)
}

// blocksOf returns the memory into which the blocks that a section touches are read, whole: buf, with
// scratch before and after it, which free gives back. first is the number of the first block. buf is not empty
// and lies within the payload.
func (a *ASD) blocksOf(e *entry, off int, buf []byte) (first int, span [][]byte, free func()) {
	first, last := off/BlockSize, (off+len(buf)-1)/BlockSize
	from, to := first*BlockSize, min((last+1)*BlockSize, e.size)
	pre, post := off-from, to-off-len(buf)
	if pre+post == 0 {
		return first, [][]byte{buf}, func() {}
	}
	scratch := a.buffers.Get(pre + post)
	span = make([][]byte, 0, 3)
	if pre > 0 {
		span = append(span, scratch.Bytes()[:pre:pre])
	}
	span = append(span, buf)
	if post > 0 {
		span = append(span, scratch.Bytes()[pre:])
	}
	return first, span, scratch.Free
}

// rereadSection asks the disk itself when what the page cache gave fails its checksums.
func (a *ASD) rereadSection(s *segment, key []byte, e *entry, first int, span [][]byte, at int64, badAt int) error {
	err := a.readDirect(s, span, at)
	block := max(badAt, 0)
	if err == nil {
		if block = badSpan(span, e.crcs[4*first:]); block < 0 {
			a.log.Error("the page cache had damaged content; the disk is right", "segment", s.id, "offset", at)
			if f, err := s.reader(); err == nil {
				unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			}
			return nil
		}
	}
	if err != nil && !isEOF(err) {
		a.counters.readErrors.Add(1)
		return fmt.Errorf("asd %s: get %q: %w", a.dir, key, err)
	}
	a.counters.corrupt.Add(1)
	detail := "fails its checksum"
	if err != nil {
		detail = "lies past the end of the segment file"
	}
	return corrupt(key, e, at+int64(block)*BlockSize, first+block, detail)
}

// badSpan returns the number of the first block in the concatenated slices that fails its checksum, or -1.
func badSpan(span [][]byte, crcs []byte) int {
	var crc uint32
	n, block := 0, 0
	for _, p := range span {
		for len(p) > 0 {
			m := min(len(p), BlockSize-n)
			crc = crc32.Update(crc, castagnoli, p[:m])
			p = p[m:]
			if n += m; n == BlockSize {
				if crc != le.Uint32(crcs[4*block:]) {
					return block
				}
				crc, n = 0, 0
				block++
			}
		}
	}
	if n > 0 && crc != le.Uint32(crcs[4*block:]) {
		return block
	}
	return -1
}

// readBuffered fills the slices from the segment, through the page cache.
func readBuffered(s *segment, span [][]byte, off int64) error {
	f, err := s.reader()
	if err != nil {
		return err
	}
	return readAll(f, span, off)
}

func readAll(f *os.File, span [][]byte, off int64) error {
	if len(span) == 1 {
		_, err := f.ReadAt(span[0], off)
		return err
	}
	iov := slices.Clone(span)
	for len(iov) > 0 {
		n, err := unix.Preadv(int(f.Fd()), iov, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errUnexpectedEOF
		}
		off += int64(n)
		for len(iov) > 0 && n >= len(iov[0]) {
			n -= len(iov[0])
			iov = iov[1:]
		}
		if n > 0 {
			iov[0] = iov[0][n:]
		}
	}
	return nil
}

// readDirect fills the slices from the disk, past the page cache.
func (a *ASD) readDirect(s *segment, span [][]byte, off int64) error {
	f, err := s.directReader()
	if err != nil {
		return err
	}
	n := 0
	for _, p := range span {
		n += len(p)
	}
	start := off &^ (pageSize - 1)
	b := a.buffers.Get(int(pageCeil(off + int64(n) - start)))
	defer b.Free()
	m, err := f.ReadAt(b.Bytes(), start)
	if err != nil && !isEOF(err) {
		return err
	}
	if int64(m) < off-start+int64(n) {
		return errUnexpectedEOF
	}
	from := b.Bytes()[off-start:]
	for _, p := range span {
		from = from[copy(p, from):]
	}
	return nil
}
