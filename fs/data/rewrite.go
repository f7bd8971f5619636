package data

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// rewriter moves what is alive in packs that are mostly garbage into new ones, once they have not lost any of it
// for a while: who removes a tree takes the rest of its packs in a moment.
type rewriter struct {
	s    *Store
	wake chan struct{}

	mu    sync.Mutex
	quiet time.Duration // rewriteQuiet
	packs map[uint64]sparsePack
}

// sparsePack says when a pack became sparse, and when it was last found to be; the zero value is long ago.
type sparsePack struct{ first, last time.Time }

const (
	// rewriteQuiet is how long a sparse pack must have lost nothing before it is rewritten.
	rewriteQuiet = 2 * time.Second
	// rewriteLatest is when it is rewritten although it loses more and more.
	rewriteLatest = time.Minute
)

func (p sparsePack) due(now time.Time, quiet time.Duration) bool {
	return now.Sub(p.last) >= quiet || now.Sub(p.first) >= rewriteLatest
}

func newRewriter(s *Store) *rewriter {
	return &rewriter{s: s, wake: make(chan struct{}, 1), quiet: rewriteQuiet, packs: make(map[uint64]sparsePack)}
}

// add records that a pack is sparse, and has just lost something.
func (x *rewriter) add(pack uint64) {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	p, ok := x.packs[pack]
	if !ok {
		p.first = now
	}
	p.last = now
	x.packs[pack] = p
}

// forget drops a pack that is gone.
func (x *rewriter) forget(pack uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.packs, pack)
}

// hurry has all sparse packs rewritten now: space is short.
func (x *rewriter) hurry() {
	x.mu.Lock()
	for id := range x.packs {
		x.packs[id] = sparsePack{}
	}
	x.mu.Unlock()
	poke(x.wake)
}

// rewriteBatch is how many sparse packs are gathered before any is rewritten, and how many are rewritten
// together; what is alive in that many, at less than half each, fills a few new ones.
const rewriteBatch = 8

// take returns the packs to rewrite now; none while there are few.
func (x *rewriter) take() (due []uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	for id, p := range x.packs {
		if p.due(now, x.quiet) {
			due = append(due, id)
		}
	}
	if len(due) < rewriteBatch {
		return nil
	}
	for _, id := range due {
		delete(x.packs, id)
	}
	return due
}

func (x *rewriter) run(ctx context.Context) {
	tick := time.NewTicker(rewriteQuiet / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.wake:
		case <-tick.C:
		}
		for batch := range slices.Chunk(x.take(), rewriteBatch) {
			if ctx.Err() != nil {
				return
			}
			if err := x.s.rewrite(ctx, batch); err != nil && ctx.Err() == nil {
				x.s.log.Warn("packs keep their garbage for now", "packs", len(batch), "err", err)
			}
		}
	}
}

// liveBlob is a blob that a pack still holds for somebody.
type liveBlob struct {
	hash   Hash
	pack   uint64
	off, n uint32
}

// rewrite moves the live blobs of packs to new packs. Whether they are alive is decided once more by
// the transaction that moves them.
func (s *Store) rewrite(ctx context.Context, packs []uint64) error {
	var live []liveBlob
	for _, id := range packs {
		if s.pins.pinned(id) {
			continue
		}
		l, err := s.liveBlobs(ctx, id)
		if err != nil {
			return err
		}
		live = append(live, l...)
	}
	for len(live) > 0 {
		n, size := 0, packTail
		for n < len(live) && size+int(live[n].n)+packEntry <= maxPack {
			size += int(live[n].n) + packEntry
			n++
		}
		if err := s.moveBlobs(ctx, live[:n]); err != nil {
			return err
		}
		live = live[n:]
	}
	return nil
}

// liveBlobs reads the index of a pack and returns the blobs whose rows point to it. A pack that is gone
// has none.
func (s *Store) liveBlobs(ctx context.Context, id uint64) ([]liveBlob, error) {
	index, err := s.packIndex(ctx, id)
	if errors.Is(err, objstore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var live []liveBlob
	err = s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		live = live[:0]
		for _, e := range index {
			row, err := getBlob(r, &e.hash)
			if errors.Is(err, kv.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if row.pack == id && row.off == uint64(e.off) {
				live = append(live, liveBlob{e.hash, id, e.off, e.n})
			}
		}
		return nil
	})
	return live, err
}

// packIndex reads the index of a shared pack.
func (s *Store) packIndex(ctx context.Context, id uint64) ([]packIndexEntry, error) {
	name := objectName(id)
	info, err := s.ns.Stat(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("index of pack %d: %w", id, err)
	}
	tail := make([]byte, packTail)
	if info.Size < packTail {
		return nil, &DamageError{"pack " + name, errShort}
	}
	if err := s.ns.ReadAt(ctx, name, info.Size-packTail, tail); err != nil {
		return nil, fmt.Errorf("index of pack %d: %w", id, err)
	}
	n, err := packIndexSize(tail, info.Size)
	if err != nil {
		return nil, &DamageError{"pack " + name, err}
	}
	b := make([]byte, n+packTail)
	if err := s.ns.ReadAt(ctx, name, info.Size-int64(len(b)), b); err != nil {
		return nil, fmt.Errorf("index of pack %d: %w", id, err)
	}
	index, err := decodePackIndex(b, info.Size)
	if err != nil {
		return nil, &DamageError{"pack " + name, err}
	}
	return index, nil
}

// moveBlobs puts blobs into one new pack and points their rows there.
func (s *Store) moveBlobs(ctx context.Context, live []liveBlob) error {
	u := s.newUpload()
	defer u.unpin(context.WithoutCancel(ctx))
	buf := s.pool.get()
	defer s.pool.put(buf)
	var parts []objstore.Slice
	at := 0
	for _, b := range live {
		parts = append(parts, objstore.Slice{Name: objectName(b.pack), Off: int64(b.off), P: buf[at : at+int(b.n)]})
		at += int(b.n)
	}
	if err := s.ns.ReadSlices(ctx, parts); err != nil {
		if errors.Is(err, objstore.ErrNotFound) {
			return nil // the last of a pack's blobs died meanwhile; the others are taken up at its next change
		}
		return err
	}
	for i, b := range live {
		u.builder.add(b.hash, parts[i].P)
	}
	if err := u.putPack(ctx, u.builder); err != nil {
		return err
	}
	var l *ledger
	err := s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
		l = s.ledger(t)
		for _, b := range live {
			if err := l.move(b, u.placed[b.hash]); err != nil {
				return err
			}
		}
		l.finish()
		return nil
	})
	if err == nil {
		l.settle()
	}
	return err
}

// move points the row of a blob to its new place, if it is still where it was.
func (l *ledger) move(b liveBlob, to place) error {
	row, err := l.blob(b.hash)
	if err != nil || row == nil || row.pack != b.pack || row.off != uint64(b.off) {
		return err
	}
	if err := l.count(row, -1); err != nil {
		return err
	}
	moved, err := l.place(b.hash, to)
	if err == nil {
		moved.refs = row.refs
	}
	return err
}
