package data

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

const (
	// copyBytes is the size below which a copy moves bytes: a reference to a part of a blob keeps all
	// of the blob alive.
	copyBytes = 64 << 10
	// copyBlocks bounds the blocks of one transaction of a copy.
	copyBlocks = 256
)

// CopyRange copies up to n bytes by reference, and returns how many: fewer than n only at the end of src.
func (s *Store) CopyRange(ctx context.Context, src fs.Ino, srcOff int64, dst fs.Ino, dstOff, n int64) (int64, error) {
	if srcOff < 0 || dstOff < 0 || n < 0 {
		return 0, fs.ErrInvalid
	}
	from, err := s.acquire(ctx, src)
	if err != nil {
		return 0, err
	}
	defer s.release(from)
	to, err := s.acquire(ctx, dst)
	if err != nil {
		return 0, err
	}
	defer s.release(to)
	unlock := lockOps(from, to)
	defer unlock()

	from.mu.RLock()
	n = max(0, min(n, from.size-srcOff))
	from.mu.RUnlock()
	if dstOff > fs.MaxFile-n {
		return 0, fs.ErrFileTooBig
	}
	if src == dst && n > 0 && srcOff < dstOff+n && dstOff < srcOff+n {
		return 0, fs.ErrInvalid
	}
	var done int64
	for done < n {
		step := min(n-done, copyBlocks*BlockSize)
		if step < copyBytes {
			err = s.copyData(ctx, from, srcOff+done, to, dstOff+done, step)
		} else if err = s.copyRefs(ctx, from, srcOff+done, to, dstOff+done, step); errors.Is(err, errFragmented) {
			err = s.copyData(ctx, from, srcOff+done, to, dstOff+done, step)
		}
		if err != nil {
			return done, s.fsError(err)
		}
		done += step
	}
	return n, nil
}

// lockOps locks the op locks of two files, which may be one, in the order of their numbers.
func lockOps(a, b *file) (unlock func()) {
	if a == b {
		a.op.Lock()
		return a.op.Unlock
	}
	if a.ino > b.ino {
		a, b = b, a
	}
	a.op.Lock()
	b.op.Lock()
	return func() {
		b.op.Unlock()
		a.op.Unlock()
	}
}

// copyData copies bytes through memory.
func (s *Store) copyData(ctx context.Context, from *file, srcOff int64, to *file, dstOff, n int64) error {
	buf := make([]byte, min(n, 1<<20))
	for n > 0 {
		p := buf[:min(n, int64(len(buf)))]
		if err := s.budget.wait(ctx); err != nil {
			return err
		}
		if _, err := from.read(ctx, srcOff, p, nil); err != nil {
			return err
		}
		if err := to.write(dstOff, p); err != nil {
			return err
		}
		srcOff, dstOff, n = srcOff+int64(len(p)), dstOff+int64(len(p)), n-int64(len(p))
	}
	return nil
}

// copyRefs lays the pieces of a range of one file over a range of the other, in one transaction.
func (s *Store) copyRefs(ctx context.Context, from *file, srcOff int64, to *file, dstOff, n int64) error {
	for _, f := range []*file{from, to} {
		if err := f.drain(ctx); err != nil {
			return err
		}
	}
	// Inline rows have no blob to refer to.
	if g, err := s.foldLocked(ctx, from); err != nil {
		return err
	} else if g != nil {
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	from.mu.RLock()
	content := from.content
	from.mu.RUnlock()
	return s.change(ctx, to, func(c *change) error {
		pieces, err := filePieces(c.t, content, srcOff, srcOff+n)
		if err != nil {
			return err
		}
		if dstOff < c.n.Size {
			if err := c.cutFile(dstOff, min(dstOff+n, c.n.Size)); err != nil {
				return err
			}
		}
		for _, p := range pieces {
			if err := c.layAt(dstOff+p.at-srcOff, p.piece); err != nil {
				return err
			}
		}
		c.n.Size = max(c.n.Size, dstOff+n)
		return nil
	})
}

// filePiece is a piece at an offset of a file; its off means nothing.
type filePiece struct {
	at int64
	piece
}

// filePieces returns the pieces of [from, to) of a content.
func filePieces(r kv.Reader, content uint64, from, to int64) (out []filePiece, err error) {
	rng := kv.Range{From: extentKey(content, uint32(from/BlockSize)), To: extentKey(content, uint32((to-1)/BlockSize)+1)}
	rerr := r.Range(ksExtent, rng, func(k, v []byte) bool {
		var e extent
		if e, err = decodeExtent(v); err != nil {
			err = &DamageError{"an extent", err}
			return false
		}
		base := int64(blockOf(k)) * BlockSize
		for _, p := range e.pieces {
			lo, hi := max(from, base+int64(p.off)), min(to, base+int64(p.end()))
			if lo < hi {
				p.boff += uint32(lo - base - int64(p.off))
				p.n = uint32(hi - lo)
				out = append(out, filePiece{lo, p})
			}
		}
		return true
	})
	return out, errors.Join(err, rerr)
}

// layAt lays a piece at an offset of the file, cut at the end of the block.
func (c *change) layAt(at int64, p piece) error {
	for p.n > 0 {
		q := p
		q.off = uint32(at % BlockSize)
		q.n = min(p.n, BlockSize-q.off)
		if err := c.lay(uint32(at/BlockSize), q); err != nil {
			return err
		}
		at += int64(q.n)
		p.boff += q.n
		p.n -= q.n
	}
	return nil
}

// ReplaceContent gives dst the content of src in one transaction, and leaves src empty.
func (s *Store) ReplaceContent(ctx context.Context, dst, src fs.Ino) error {
	if dst == src {
		return fs.ErrInvalid
	}
	from, err := s.acquire(ctx, src)
	if err != nil {
		return err
	}
	defer s.release(from)
	to, err := s.acquire(ctx, dst)
	if err != nil {
		return err
	}
	defer s.release(to)
	unlock := lockOps(from, to)
	defer unlock()
	if err := from.drain(ctx); err != nil {
		return s.fsError(err)
	}
	fresh, err := s.ids.take(ctx, false)
	if err != nil {
		return s.fsError(err)
	}
	to.mu.Lock()
	writes := to.drop()
	to.mu.Unlock()
	var empty *change
	err = s.change(ctx, to, func(c *change) (err error) {
		if empty, err = s.open(c.t, c.l, src); err != nil {
			return err
		}
		c.n.Version += writes
		c.t.Put(ksDoomed, u64key(c.n.Content), nil)
		c.t.Put(ksFold, u64key(uint64(dst)), nil)
		c.n.Content, c.n.Size, c.n.Blocks = empty.n.Content, empty.n.Size, empty.n.Blocks
		empty.n.Content, empty.n.Size, empty.n.Blocks = freshContent|fresh, 0, 0
		empty.n.Modified(s.clock().UnixNano())
		return empty.end()
	})
	if err != nil {
		return s.fsError(err)
	}
	from.adopt(empty)
	s.folder.forget(src)
	s.folder.add(dst, 0) // it may have inline rows now
	return nil
}
