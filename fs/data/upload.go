package data

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"golang.org/x/sync/errgroup"
)

// mergePieces is how many pieces a block may have before a write to it merges the block into one blob.
// Before that the defragmenter does, when the file is left alone.
const mergePieces = 320

// laidPiece is a piece for one block of a generation.
type laidPiece struct {
	block uint32
	piece piece
}

// upload puts the blobs of the generations of one flight.
type upload struct {
	s *Store

	mu      sync.Mutex
	placed  map[Hash]place              // what was put
	known   map[Hash][]byte             // what was there already: content, in case it is freed meanwhile
	pieces  map[*generation][]laidPiece // what the commit lays over the extents
	builder *packBuilder                // small blobs gathered so far
	waiting map[Hash]struct{}           // small blobs in builders that are not put yet
	packs   []uint64                    // pinned until the flight ends
}

func (s *Store) newUpload() *upload {
	return &upload{
		s: s, placed: make(map[Hash]place), known: make(map[Hash][]byte), waiting: make(map[Hash]struct{}),
		pieces: make(map[*generation][]laidPiece), builder: &packBuilder{pool: &s.pool},
	}
}

// put puts everything that the generations of a batch hold and the object layer has not.
func (u *upload) put(ctx context.Context, batch []*generation) error {
	tasks, tctx := errgroup.WithContext(ctx)
	tasks.SetLimit(cap(u.s.flusher.puts) + 1)
	for _, g := range batch {
		if g.dropped.Load() {
			continue
		}
		blocks := make([]uint32, 0, len(g.blocks))
		for i := range g.blocks {
			blocks = append(blocks, i)
		}
		slices.Sort(blocks)
		for _, i := range blocks {
			if g.held < bigGeneration { // in order, so that a pack has files in the order of the batch
				if err := u.block(tctx, g, i); err != nil {
					return errors.Join(err, tasks.Wait())
				}
				continue
			}
			tasks.Go(func() error { return u.block(tctx, g, i) })
		}
	}
	if err := tasks.Wait(); err != nil {
		return err
	}
	return u.putPack(ctx, u.builder)
}

// block puts the dirty bytes of one block: as they are, or merged with what the block has already when
// that would leave it in many pieces.
func (u *upload) block(ctx context.Context, g *generation, i uint32) error {
	b := g.blocks[i]
	var have extent
	err := u.s.kv.View(ctx, kv.Pending, func(r kv.Reader) (err error) {
		have, err = getExtent(r, g.f.contentID(), i)
		return err
	})
	if err != nil {
		return err
	}
	var all []run
	b.runs(func(from, to uint32, spans []span) { all = append(all, run{from, to, spans}) })
	whole := len(all) == 1 && all[0].from == 0 && all[0].to >= have.end()
	if !whole && len(have.pieces)+len(all) > mergePieces {
		return u.merge(ctx, g, i, have)
	}
	for _, r := range all {
		content := r.spans[0].b
		var scratch []byte
		if len(r.spans) > 1 {
			scratch = u.s.pool.get()
			content = scratch[:0]
			for _, s := range r.spans {
				content = append(content, s.b...)
			}
		}
		err := u.blob(ctx, g, i, r.from, content, scratch != nil)
		if scratch != nil {
			u.s.pool.put(scratch)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run is a range of a block that is dirty without a gap.
type run struct {
	from, to uint32
	spans    []span
}

// merge puts a whole block: what it has, the generations frozen before g, and g on top.
func (u *upload) merge(ctx context.Context, g *generation, i uint32, have extent) error {
	end := have.end()
	g.f.mu.RLock()
	for _, q := range g.f.queue {
		if b := q.blocks[i]; b != nil && len(b.spans) > 0 {
			end = max(end, b.spans[len(b.spans)-1].end())
		}
		if q == g {
			break
		}
	}
	g.f.mu.RUnlock()
	if have.hasInline {
		rows, err := u.s.inlineEnd(ctx, g.f.contentID(), i)
		if err != nil {
			return err
		}
		end = max(end, rows)
	}
	buf := u.s.pool.get()
	defer u.s.pool.put(buf)
	if _, err := g.f.read(ctx, int64(i)*BlockSize, buf[:end], g); err != nil {
		return err
	}
	return u.blob(ctx, g, i, 0, buf[:end], true)
}

// blob makes content, which belongs at off of a block, a blob with a place. Scratch says that the
// memory is used again when blob returns.
func (u *upload) blob(ctx context.Context, g *generation, block, off uint32, content []byte, scratch bool) error {
	h := u.s.hash(content)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pieces[g] = append(u.pieces[g], laidPiece{block, piece{off: off, n: uint32(len(content)), hash: h}})
	if _, ok := u.placed[h]; ok {
		return nil
	}
	if _, ok := u.waiting[h]; ok {
		return nil
	}
	if _, ok := u.known[h]; ok {
		return nil
	}
	exists, err := u.s.exists(ctx, h)
	if err != nil {
		return err
	}
	if exists {
		if scratch {
			content = slices.Clone(content)
		}
		u.known[h] = content
		return nil
	}
	u.waiting[h] = struct{}{}
	if len(content) >= soloBlob {
		u.mu.Unlock()
		defer u.mu.Lock()
		return u.putSolo(ctx, h, content)
	}
	return u.gather(ctx, h, content)
}

// gather adds a small blob to the pack that is being filled, and puts that when it is full. Called
// with u.mu.
func (u *upload) gather(ctx context.Context, h Hash, content []byte) error {
	if !u.builder.room(len(content)) {
		full := u.builder
		u.builder = &packBuilder{pool: &u.s.pool}
		u.mu.Unlock()
		err := u.putPack(ctx, full)
		u.mu.Lock()
		if err != nil {
			return err
		}
	}
	u.builder.add(h, content)
	return nil
}

func (u *upload) putSolo(ctx context.Context, h Hash, content []byte) error {
	id, err := u.object(ctx, content)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.placed[h] = place{pack: id, n: uint32(len(content)), solo: true, total: uint32(len(content))}
	delete(u.waiting, h)
	return nil
}

func (u *upload) putPack(ctx context.Context, b *packBuilder) error {
	defer b.release()
	if len(b.index) == 0 {
		return nil
	}
	total := uint32(b.content())
	id, err := u.object(ctx, b.seal())
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range b.index {
		u.placed[e.hash] = place{pack: id, off: e.off, n: e.n, total: total}
		delete(u.waiting, e.hash)
	}
	return nil
}

// object puts one object under a new id, which stays pinned until the flight ends.
func (u *upload) object(ctx context.Context, p []byte) (uint64, error) {
	s := u.s
	select {
	case s.flusher.puts <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-s.flusher.puts }()
	id, err := s.ids.take(ctx, true)
	if err != nil {
		return 0, err
	}
	u.mu.Lock()
	u.packs = append(u.packs, id)
	u.mu.Unlock()
	if _, err = s.ns.Put(ctx, objectName(id), p); errors.Is(err, objstore.ErrFull) {
		// There is no such object for certain. Burying it would only wake the reaper, again and again
		// for as long as the disks are full.
		u.forget(id)
	}
	return id, err
}

// forget takes an id back that was not used.
func (u *upload) forget(id uint64) {
	u.mu.Lock()
	u.packs = slices.DeleteFunc(u.packs, func(x uint64) bool { return x == id })
	u.mu.Unlock()
	u.s.pins.unpin([]uint64{id})
	u.s.pins.settle([]uint64{id})
}

// again puts a blob that was there when it was looked for and has been freed since.
func (u *upload) again(ctx context.Context, h Hash) error {
	content, ok := u.known[h]
	if !ok {
		return &DamageError{"upload", &goneError{h}}
	}
	delete(u.known, h)
	return u.putSolo(ctx, h, content)
}

// unpin ends the flight: packs that got no reference are dead.
func (u *upload) unpin(ctx context.Context) {
	u.s.pins.unpin(u.packs)
	defer u.s.pins.settle(u.packs)
	if err := u.s.bury(ctx, u.packs); err != nil {
		u.s.log.Warn("objects without references stay until the next start", "packs", len(u.packs), "err", err)
	}
}

// bury marks those of the packs dead that no blob is in, and has those rewritten that are sparse.
func (s *Store) bury(ctx context.Context, packs []uint64) error {
	var empty []uint64
	unused := func(r kv.Reader, id uint64) (bool, error) {
		row, err := getPack(r, id)
		if errors.Is(err, kv.ErrNotFound) {
			return true, nil
		}
		if err == nil && row.blobs > 0 && row.sparse() {
			s.rewriter.add(id)
		}
		return err == nil && row.blobs == 0, err
	}
	err := s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		for _, id := range packs {
			if ok, err := unused(r, id); err != nil {
				return err
			} else if ok {
				empty = append(empty, id)
			}
		}
		return nil
	})
	if err != nil || len(empty) == 0 {
		return err
	}
	defer s.reaper.kick()
	return s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
		for _, id := range empty {
			if ok, err := unused(t, id); err != nil {
				return err
			} else if ok {
				t.Delete(ksPack, u64key(id))
				t.Put(ksDead, u64key(id), nil)
			}
		}
		return nil
	})
}

// exists reports whether a blob has a row.
func (s *Store) exists(ctx context.Context, h Hash) (ok bool, err error) {
	err = s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		_, err := getBlob(r, &h)
		if ok = err == nil; errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		return err
	})
	return ok, err
}
