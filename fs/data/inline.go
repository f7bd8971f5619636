package data

import (
	"context"

	"github.com/gabionfs/gabion/kv"
)

const (
	// maxInlineRow bounds one inline row; readers look that far back for rows that reach into a range.
	maxInlineRow = 64 << 10
	// maxInlineWrite and maxInlineRuns bound what one fsync may put inline. More goes to packs.
	maxInlineWrite = 64 << 10
	maxInlineRuns  = 16
)

// rangeInline calls fn for the inline rows of a block that reach into [from, to).
func rangeInline(r kv.Reader, content uint64, block, from, to uint32, fn func(off uint32, v []byte) error) error {
	start := from - min(from, maxInlineRow)
	var err error
	rerr := r.Range(ksInline, kv.Range{From: inlineKey(content, block, start), To: inlineKey(content, block, to)},
		func(k, v []byte) bool {
			_, _, off, ok := splitInlineKey(k)
			if !ok || len(v) == 0 || len(v) > maxInlineRow || int(off)+len(v) > BlockSize {
				err = &DamageError{"an inline row", errShort}
				return false
			}
			if off+uint32(len(v)) > from {
				err = fn(off, v)
			}
			return err == nil
		})
	if err != nil {
		return err
	}
	return rerr
}

// cutInline removes [from, to) of a block from its inline rows and returns how many bytes those lost.
func cutInline(t kv.Txn, content uint64, block, from, to uint32) (lost int64, err error) {
	type row struct {
		off uint32
		v   []byte
	}
	var rows []row // a transaction may not be written to while it is read
	err = rangeInline(t, content, block, from, to, func(off uint32, v []byte) error {
		rows = append(rows, row{off, v})
		return nil
	})
	for _, r := range rows {
		end := r.off + uint32(len(r.v))
		lo, hi := max(r.off, from), min(end, to)
		lost += int64(hi - lo)
		t.Delete(ksInline, inlineKey(content, block, r.off))
		if r.off < from {
			t.Put(ksInline, inlineKey(content, block, r.off), append([]byte(nil), r.v[:from-r.off]...))
		}
		if end > to {
			t.Put(ksInline, inlineKey(content, block, to), append([]byte(nil), r.v[to-r.off:]...))
		}
	}
	return lost, err
}

// inlineBytes counts the inline bytes of a block.
func inlineBytes(r kv.Reader, content uint64, block uint32) (n int64, err error) {
	err = rangeInline(r, content, block, 0, BlockSize, func(_ uint32, v []byte) error {
		n += int64(len(v))
		return nil
	})
	return n, err
}

// inlineEnd returns where the last inline row of a block ends.
func (s *Store) inlineEnd(ctx context.Context, content uint64, block uint32) (end uint32, err error) {
	err = s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		return rangeInline(r, content, block, 0, BlockSize, func(off uint32, v []byte) error {
			end = max(end, off+uint32(len(v)))
			return nil
		})
	})
	return end, err
}

// fitsInline reports whether the current generation of f is small enough to be committed inline, and
// nothing is underway that it would have to wait for. Called with f.mu.
func (s *Store) fitsInline(f *file) bool {
	if f.cur == nil || f.cur.fold || len(f.queue) > 0 || s.folder.crowded() {
		return false
	}
	bytes, runs := f.cur.dirty(maxInlineRuns)
	return bytes <= maxInlineWrite && runs <= maxInlineRuns
}

// commitInline commits g, which fits inline and is the only frozen generation of its file, with its
// bytes as rows beside the extents: content and metadata share one sync of the log.
func (s *Store) commitInline(ctx context.Context, g *generation, c kv.Commit) error {
	var added int64
	var l *ledger
	var ch *change
	err := s.kv.Update(ctx, c, func(t kv.Txn) (err error) {
		added, l = 0, s.ledger(t)
		if ch, err = s.begin(t, l, g); err != nil || ch == nil {
			return err
		}
		for i, b := range g.blocks {
			for _, sp := range b.spans {
				if err := ch.putInline(i, sp); err != nil {
					return err
				}
				added += int64(len(sp.b))
			}
		}
		if err := ch.end(); err != nil {
			return err
		}
		l.finish()
		return nil
	})
	if err != nil {
		// The outcome may be unknown. Committing the same bytes again is harmless, so the flusher does.
		s.flusher.enqueueFirst(g)
		return err
	}
	l.settle()
	s.folder.add(g.f.ino, added)
	g.f.committed(g, ch)
	return nil
}
