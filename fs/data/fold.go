package data

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

const (
	// foldFile is how many inline bytes a file gathers before they are brought into packs.
	foldFile = 1 << 20
	// foldAll is the same for the volume: what the key-value store carries for us stays bounded.
	foldAll = 32 << 20
	// foldIdle is how long a file is left alone after its last small synced write.
	foldIdle = 5 * time.Second
)

// foldMax bounds the memory that rows take while they are brought into packs.
const foldMax = 4 << 20

// folder brings inline rows into packs: files that have gathered many, or none for a while.
type folder struct {
	s    *Store
	wake chan struct{}

	mu    sync.Mutex
	files map[fs.Ino]*inlineFile
	total int64 // bytes in rows, also of files that are being folded
}

type inlineFile struct {
	bytes int64 // since it was folded last, or was tried to be
	stuck int64 // that could not be folded
	last  time.Time
}

func newFolder(s *Store) *folder {
	return &folder{s: s, wake: make(chan struct{}, 1), files: make(map[fs.Ino]*inlineFile)}
}

// add records that n bytes of ino were committed inline.
func (d *folder) add(ino fs.Ino, n int64) {
	d.mu.Lock()
	x := d.file(ino)
	x.bytes += n
	d.total += n
	much := x.bytes >= foldFile || d.total >= foldAll
	d.mu.Unlock()
	if much {
		poke(d.wake)
	}
}

// file returns what is known of a file, which has just changed. Called with mu.
func (d *folder) file(ino fs.Ino) *inlineFile {
	x := d.files[ino]
	if x == nil {
		x = new(inlineFile)
		d.files[ino] = x
	}
	x.last = d.s.clock()
	return x
}

// forget drops ino: it has no inline rows any more.
func (d *folder) forget(ino fs.Ino) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if x := d.files[ino]; x != nil {
		d.total -= x.bytes + x.stuck
		delete(d.files, ino)
	}
}

// crowded reports whether the key-value store carries so much for us that no more may be added.
func (d *folder) crowded() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total >= 2*foldAll
}

// folding is a file to fold and how many inline bytes it is known to have.
type folding struct {
	ino   fs.Ino
	bytes int64
}

// due returns the files to fold now, and forgets them: what is written meanwhile counts anew.
func (d *folder) due() (out []folding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.s.clock()
	all := d.total >= foldAll
	for ino, x := range d.files {
		if all || x.bytes >= foldFile || now.Sub(x.last) >= foldIdle {
			out = append(out, folding{ino, x.bytes + x.stuck})
			delete(d.files, ino)
		}
	}
	return out
}

// done records how the folding of a file went.
func (d *folder) done(x folding, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.file(x.ino).stuck += x.bytes
		return
	}
	d.total -= x.bytes
}

func (d *folder) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for failed := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
			if failed {
				continue // until the next tick: an attempt may cost as much as a success
			}
		case <-tick.C:
		}
		failed = false
		for _, x := range d.due() {
			err := d.s.fold(ctx, x.ino)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // its rows go with it
			}
			if err != nil && ctx.Err() == nil {
				failed = true
				d.s.log.Error("inline data stays in the key-value store for now", "ino", x.ino, "err", err)
			}
			d.done(x, err)
		}
	}
}

// fold brings the inline rows of a file into packs. What the file contains stays the same at every moment, so
// nobody needs to be kept away: rows that have changed until their blobs are durable stay as they are.
func (s *Store) fold(ctx context.Context, ino fs.Ino) error {
	for {
		rows, err := s.inlineRuns(ctx, ino)
		switch {
		case err != nil:
			return err
		case len(rows.runs) == 0:
			return nil
		case rows.frayed:
			return s.foldMerged(ctx, ino)
		}
		moved, err := s.foldRuns(ctx, ino, rows)
		if errors.Is(err, objstore.ErrFull) && s.makeRoom(ctx) {
			moved, err = s.foldRuns(ctx, ino, rows)
		}
		if err != nil || !moved || !rows.more {
			return err
		}
	}
}

// inlineRun is a range of a block that inline rows cover without a gap.
type inlineRun struct {
	block, off uint32
	b          []byte
}

func (r *inlineRun) end() uint32 { return r.off + uint32(len(r.b)) }

// inlineRows are rows of one content as they were at one moment.
type inlineRows struct {
	content uint64
	runs    []inlineRun
	more    bool // there are more than foldMax bytes
	frayed  bool // a block would be left in many pieces: it is to be merged with what is below its rows
}

// inlineRuns reads the inline rows of a file.
func (s *Store) inlineRuns(ctx context.Context, ino fs.Ino) (rows inlineRows, err error) {
	err = s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		n, err := meta.GetInode(r, ino)
		if err != nil {
			return err
		}
		rows = inlineRows{content: n.Content}
		size := 0
		err = r.Range(ksInline, kv.Prefix(u64key(n.Content)), func(k, v []byte) bool {
			_, block, off, ok := splitInlineKey(k)
			if !ok {
				return true
			}
			if rows.more = size >= foldMax; rows.more {
				return false
			}
			size += len(v)
			if n := len(rows.runs); n > 0 && rows.runs[n-1].block == block && rows.runs[n-1].end() == off {
				rows.runs[n-1].b = append(rows.runs[n-1].b, v...)
			} else {
				rows.runs = append(rows.runs, inlineRun{block, off, slices.Clone(v)})
			}
			return true
		})
		if err != nil {
			return err
		}
		for i, j := 0, 0; i < len(rows.runs); i = j {
			for j = i; j < len(rows.runs) && rows.runs[j].block == rows.runs[i].block; j++ {
			}
			e, err := getExtent(r, n.Content, rows.runs[i].block)
			if err != nil {
				return err
			}
			rows.frayed = rows.frayed || len(e.pieces)+j-i > mergePieces
		}
		return nil
	})
	return rows, err
}

// foldRuns puts the runs and lays them where the rows are still what they were. It reports whether any was.
func (s *Store) foldRuns(ctx context.Context, ino fs.Ino, rows inlineRows) (moved bool, err error) {
	up := s.newUpload()
	defer up.unpin(context.WithoutCancel(ctx))
	for _, r := range rows.runs {
		if err := up.blob(ctx, nil, r.block, r.off, r.b, false); err != nil {
			return false, err
		}
	}
	if err := up.putPack(ctx, up.builder); err != nil {
		return false, err
	}
	for {
		var l *ledger
		err := s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
			moved, l = false, s.ledger(t)
			c, err := s.open(t, l, ino)
			if err != nil || c.n.Content != rows.content {
				return err
			}
			c.placed = up.placed
			for i, r := range rows.runs {
				same, err := r.unchanged(t, rows.content)
				if err != nil {
					return err
				}
				for _, x := range same {
					moved = true
					p := piece{off: x.from, n: x.to - x.from, boff: x.from - r.off, hash: up.pieces[nil][i].piece.hash}
					if err := c.lay(r.block, p); err != nil {
						return err
					}
				}
			}
			if err := c.unfold(); err != nil {
				return err
			}
			if err := c.end(); err != nil {
				return err
			}
			l.finish()
			return nil
		})
		var gone *goneError
		if errors.As(err, &gone) {
			if err = up.again(ctx, gone.hash); err == nil {
				continue
			}
		}
		if err == nil {
			l.settle()
		}
		return moved, err
	}
}

// unchanged returns the ranges of the block whose rows still have the bytes of r.
func (r *inlineRun) unchanged(t kv.Reader, content uint64) (same []run, err error) {
	err = rangeInline(t, content, r.block, r.off, r.end(), func(off uint32, v []byte) error {
		from, to := max(off, r.off), min(off+uint32(len(v)), r.end())
		if !bytes.Equal(v[from-off:to-off], r.b[from-r.off:to-r.off]) {
			return nil
		}
		if n := len(same); n > 0 && same[n-1].to == from {
			same[n-1].to = to
		} else {
			same = append(same, run{from: from, to: to})
		}
		return nil
	})
	return same, err
}

// foldMerged is fold by way of a generation, which merges a block of many pieces into one blob.
func (s *Store) foldMerged(ctx context.Context, ino fs.Ino) error {
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return err
	}
	defer s.release(f)
	f.op.RLock()
	g, err := s.foldLocked(ctx, f)
	f.op.RUnlock()
	if g == nil || err != nil {
		return err
	}
	return g.next(ctx)
}

// foldLocked makes the inline rows of f part of a frozen generation, which it returns; nil when there are
// none. When that generation commits, the rows are in packs. The caller holds f.op: who cuts the rows
// away has drained the file before, and must not find them laid again afterwards.
func (s *Store) foldLocked(ctx context.Context, f *file) (*generation, error) {
	for {
		f.mu.Lock()
		g := f.last()
		if g == nil {
			break
		}
		f.mu.Unlock()
		// A generation that is frozen but not committed holds newer bytes than the rows.
		if err := g.wait(ctx); err != nil {
			return nil, err
		}
	}
	defer f.mu.Unlock()
	if f.gone {
		return nil, nil
	}
	// The view is taken under f.mu, so that no generation can be frozen between it and the injection.
	found := false
	err := s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		return r.Range(ksInline, kv.Prefix(u64key(f.content)), func(k, v []byte) bool {
			_, block, off, ok := splitInlineKey(k)
			if ok {
				found = true
				f.inject(block, off, v)
			}
			return true
		})
	})
	if err != nil || !found {
		return nil, err
	}
	return f.freeze(false), nil
}

// inject adds bytes that are committed already to the current generation, below what is dirty.
func (f *file) inject(block, off uint32, v []byte) {
	g := f.current()
	g.fold = true
	b := g.block(block)
	var holes []gap
	b.fill(off, append([]byte(nil), v...), func(from, to int) { holes = append(holes, gap{from, to}) })
	for _, h := range holes {
		grown := b.write(off+uint32(h.from), v[h.from:h.to], &f.s.pool)
		g.held += grown
		f.s.budget.add(grown)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
