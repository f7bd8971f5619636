package data

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// SetSize truncates or extends the file.
func (s *Store) SetSize(ctx context.Context, ino fs.Ino, size int64) error {
	if size < 0 {
		return fs.ErrInvalid
	}
	if size > fs.MaxFile {
		return fs.ErrFileTooBig
	}
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return err
	}
	defer s.release(f)
	f.op.Lock()
	defer f.op.Unlock()
	if size == 0 {
		return s.fsError(s.empty(ctx, f))
	}
	if f.extendDirty(size) {
		return nil
	}
	if err := f.drain(ctx); err != nil {
		return s.fsError(err)
	}
	return s.fsError(s.change(ctx, f, func(c *change) error {
		if size < c.n.Size {
			if err := c.cutFile(size, c.n.Size); err != nil {
				return err
			}
		}
		c.n.Size = size
		return nil
	}))
}

// extendDirty makes a file that is dirty anyway longer, as part of its current generation.
func (f *file) extendDirty(size int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cur == nil || size < f.size {
		return false
	}
	now := f.s.clock().UnixNano()
	f.size, f.cur.size = size, size
	f.cur.writes++
	f.cur.mtime.Store(now)
	f.cur.ctime, f.mtime, f.ctime = now, now, now
	return true
}

// empty truncates f to zero: it gets a fresh content, and the old one is freed in the background.
func (s *Store) empty(ctx context.Context, f *file) error {
	fresh, err := s.ids.take(ctx, false)
	if err != nil {
		return err
	}
	f.mu.Lock()
	writes := f.drop()
	f.mu.Unlock()
	return s.change(ctx, f, func(c *change) error {
		c.n.Version += writes
		if c.n.Size > 0 || c.n.Blocks > 0 { // else no extent was ever written
			c.t.Put(ksDoomed, u64key(c.n.Content), nil)
			c.t.Delete(ksFold, u64key(uint64(c.n.Ino)))
			c.n.Content = freshContent | fresh
		}
		c.n.Size, c.n.Blocks = 0, 0
		return nil
	})
}

// change runs fn as a transaction on the content of f, whose f.op the caller holds exclusively and
// which is drained or dropped, and brings f's state up to date. Times change as by a write.
func (s *Store) change(ctx context.Context, f *file, fn func(*change) error) error {
	var c *change
	err := s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) (err error) {
		l := s.ledger(t)
		if c, err = s.open(t, l, f.ino); err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
		c.n.Modified(s.clock().UnixNano())
		if err := c.end(); err != nil {
			return err
		}
		l.finish()
		return nil
	})
	if err != nil {
		return err
	}
	c.l.settle()
	f.adopt(c)
	s.reaper.kick()
	return nil
}

// adopt takes over what a committed change made of the file.
func (f *file) adopt(c *change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size, f.content, f.row = c.n.Size, c.n.Content, c.n.Attr
	f.commits++
}

// cutFile makes [from, to) of the file a hole. Whole blocks go row by row: what is dear is their number,
// not their size.
func (c *change) cutFile(from, to int64) error {
	first, last := uint32(from/BlockSize), uint32((to-1)/BlockSize)
	var blocks []uint32 // that have anything
	err := c.t.Range(ksExtent, kv.Range{From: extentKey(c.n.Content, first), To: extentKey(c.n.Content, last+1)},
		func(k, _ []byte) bool {
			blocks = append(blocks, blockOf(k))
			return true
		})
	if err != nil {
		return err
	}
	for _, b := range blocks {
		lo, hi := uint32(0), uint32(BlockSize)
		if b == first {
			lo = uint32(from % BlockSize)
		}
		if b == last {
			hi = uint32((to-1)%BlockSize) + 1
		}
		if err := c.cut(b, lo, hi); err != nil {
			return err
		}
	}
	return nil
}

// Allocate is fallocate(2). Space cannot be set aside in a store of blobs; allocation extends the file
// after a check that the disks could hold it.
func (s *Store) Allocate(ctx context.Context, ino fs.Ino, m fs.AllocMode, off, length int64) error {
	if off < 0 || length <= 0 {
		return fs.ErrInvalid
	}
	if off > fs.MaxFile-length {
		return fs.ErrFileTooBig
	}
	cut := false
	switch m {
	case 0, fs.AllocKeepSize:
		if !s.space.fits(length) && !(s.makeRoom(ctx) && s.space.fits(length)) {
			return fs.ErrNoSpace
		}
	case fs.AllocPunchHole | fs.AllocKeepSize, fs.AllocZeroRange, fs.AllocZeroRange | fs.AllocKeepSize:
		cut = true
	default:
		return fs.ErrNotSupported
	}
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return err
	}
	defer s.release(f)
	f.op.Lock()
	defer f.op.Unlock()
	if err := f.drain(ctx); err != nil {
		return s.fsError(err)
	}
	end := off + length
	err = s.change(ctx, f, func(c *change) error {
		if cut && off < c.n.Size {
			if err := c.cutFile(off, min(end, c.n.Size)); err != nil {
				return err
			}
		}
		if m&fs.AllocKeepSize == 0 {
			c.n.Size = max(c.n.Size, end)
		}
		return nil
	})
	if errors.Is(err, errFragmented) {
		err = s.writeZeroes(f, off, end)
	}
	return s.fsError(err)
}

// writeZeroes does with bytes what a hole in a block of too many pieces cannot do: the block is merged
// when it is flushed.
func (s *Store) writeZeroes(f *file, off, end int64) error {
	f.mu.RLock()
	end = min(end, f.size)
	f.mu.RUnlock()
	zero := make([]byte, 64<<10)
	for off < end {
		n := min(int64(len(zero)), end-off)
		if err := f.write(off, zero[:n]); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// Seek is lseek(2) with SEEK_DATA or SEEK_HOLE.
func (s *Store) Seek(ctx context.Context, ino fs.Ino, off int64, whence int) (int64, error) {
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return 0, err
	}
	defer s.release(f)
	f.op.Lock()
	defer f.op.Unlock()
	if err := f.drain(ctx); err != nil {
		return 0, s.fsError(err)
	}
	f.mu.RLock()
	size, content := f.size, f.content
	f.mu.RUnlock()
	if off < 0 || off >= size {
		return 0, fs.ErrNoData
	}
	var pos int64
	err = s.kv.View(ctx, kv.Pending, func(r kv.Reader) (err error) {
		pos, err = seek(r, content, size, off, whence)
		return err
	})
	return pos, s.fsError(err)
}

// seek walks the extents from off on. What lies between data is a hole.
func seek(r kv.Reader, content uint64, size, off int64, whence int) (int64, error) {
	if whence != fs.SeekData && whence != fs.SeekHole {
		return 0, fs.ErrInvalid
	}
	pos := off // data was found without a gap from off to here
	found := int64(-1)
	var err error
	visit := func(from, to int64) bool { // data at [from, to)
		if to <= off {
			return true
		}
		if whence == fs.SeekData {
			found = max(from, off)
			return false
		}
		if from > pos {
			return false
		}
		pos = max(pos, to)
		return true
	}
	rerr := r.Range(ksExtent, kv.Range{From: extentKey(content, uint32(off/BlockSize)), To: u64key(content + 1)},
		func(k, v []byte) bool {
			var more bool
			more, err = visitData(r, content, blockOf(k), v, visit)
			return more && err == nil
		})
	switch err = errors.Join(err, rerr); {
	case err != nil:
		return 0, err
	case whence == fs.SeekHole:
		return min(pos, size), nil
	case found < 0 || found >= size:
		return 0, fs.ErrNoData
	}
	return found, nil
}

// visitData calls visit with the ranges of the file that a block has data in, in order.
func visitData(r kv.Reader, content uint64, block uint32, row []byte, visit func(from, to int64) bool) (bool, error) {
	e, err := decodeExtent(row)
	if err != nil {
		return false, &DamageError{"an extent", err}
	}
	base := int64(block) * BlockSize
	i := 0
	more := true
	pieces := func(before uint32) bool {
		for ; i < len(e.pieces) && e.pieces[i].off < before && more; i++ {
			more = visit(base+int64(e.pieces[i].off), base+int64(e.pieces[i].end()))
		}
		return more
	}
	if e.hasInline {
		err = rangeInline(r, content, block, 0, BlockSize, func(off uint32, v []byte) error {
			if pieces(off) {
				more = visit(base+int64(off), base+int64(off)+int64(len(v)))
			}
			return nil
		})
	}
	return pieces(BlockSize) && more, err
}
