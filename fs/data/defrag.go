package data

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

const (
	// frayedPieces is how many pieces a block may have before it is merged in the background.
	frayedPieces = 16
	// defragIdle is how long a block is left alone after its last change. Random writes to a file thus
	// cost what they write, and its blocks are merged once.
	defragIdle = 5 * time.Second
	// defragMost bounds the blocks that wait; others are merged when they are written to again.
	defragMost = 64 << 10
)

// frayedBlock is a block whose extent has many pieces.
type frayedBlock struct {
	ino   fs.Ino
	block uint32
}

// defragmenter merges blocks of many pieces into one blob each.
type defragmenter struct {
	s *Store

	mu     sync.Mutex
	blocks map[frayedBlock]time.Time // of the last change
}

func newDefragmenter(s *Store) *defragmenter {
	return &defragmenter{s: s, blocks: make(map[frayedBlock]time.Time)}
}

func (d *defragmenter) add(blocks []frayedBlock) {
	if len(blocks) == 0 {
		return
	}
	now := d.s.clock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range blocks {
		if len(d.blocks) < defragMost {
			d.blocks[b] = now
		}
	}
}

// due takes a block that has been left alone for long enough.
func (d *defragmenter) due() (frayedBlock, bool) {
	now := d.s.clock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for b, at := range d.blocks {
		if now.Sub(at) >= defragIdle {
			delete(d.blocks, b)
			return b, true
		}
	}
	return frayedBlock{}, false
}

func (d *defragmenter) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for b, ok := d.due(); ok && ctx.Err() == nil; b, ok = d.due() {
			if err := d.s.mergeBlock(ctx, b); err != nil && ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist) {
				d.s.log.Warn("a block stays in pieces", "ino", b.ino, "block", b.block, "err", err)
			}
		}
	}
}

// mergeBlock reads a block and writes it again as a generation, below what is dirty, and waits until
// that is committed. It does nothing when the block is being changed.
func (s *Store) mergeBlock(ctx context.Context, b frayedBlock) error {
	f, err := s.acquire(ctx, b.ino)
	if err != nil {
		return err
	}
	defer s.release(f)
	g, err := s.unfray(ctx, f, b.block)
	if g == nil || err != nil {
		return err
	}
	return g.wait(ctx)
}

func (s *Store) unfray(ctx context.Context, f *file, block uint32) (*generation, error) {
	f.op.RLock() // as for fold
	defer f.op.RUnlock()
	f.mu.RLock()
	clean, commits, content := f.clean() && !f.gone, f.commits, f.content
	size := min(f.size-int64(block)*BlockSize, BlockSize)
	f.mu.RUnlock()
	if !clean || size <= 0 {
		return nil, nil
	}
	var e extent
	err := s.kv.View(ctx, kv.Pending, func(r kv.Reader) (err error) {
		e, err = getExtent(r, content, block)
		return err
	})
	if err != nil || len(e.pieces) <= frayedPieces {
		return nil, err
	}
	buf := s.pool.get()
	defer s.pool.put(buf)
	p := buf[:min(size, int64(e.end()))]
	if _, err := f.read(ctx, int64(block)*BlockSize, p, nil); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone || f.commits != commits || len(f.queue) > 0 {
		return nil, nil // what was read may be old; the change counted the block again
	}
	f.inject(block, 0, p)
	return f.freeze(false), nil
}
