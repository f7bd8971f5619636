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
	// foldFile is how many inline bytes a file gathers before they are brought into packs.
	foldFile = 1 << 20
	// foldAll is the same for the volume: what the key-value store carries for us stays bounded.
	foldAll = 32 << 20
	// foldIdle is how long a file is left alone after its last small synced write.
	foldIdle = 5 * time.Second
)

// folder brings inline rows into packs: files that have gathered many, or none for a while.
type folder struct {
	s    *Store
	wake chan struct{}

	mu    sync.Mutex
	files map[fs.Ino]*inlineFile
	total int64
}

type inlineFile struct {
	bytes int64
	last  time.Time
}

func newFolder(s *Store) *folder {
	return &folder{s: s, wake: make(chan struct{}, 1), files: make(map[fs.Ino]*inlineFile)}
}

// add records that n bytes of ino were committed inline.
func (d *folder) add(ino fs.Ino, n int64) {
	d.mu.Lock()
	x := d.files[ino]
	if x == nil {
		x = new(inlineFile)
		d.files[ino] = x
	}
	x.bytes += n
	x.last = d.s.clock()
	d.total += n
	much := x.bytes >= foldFile || d.total >= foldAll
	d.mu.Unlock()
	if much {
		poke(d.wake)
	}
}

// forget drops ino: it has no inline rows any more.
func (d *folder) forget(ino fs.Ino) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if x := d.files[ino]; x != nil {
		d.total -= x.bytes
		delete(d.files, ino)
	}
}

// due returns the files to fold now, and forgets them: what is written meanwhile counts anew.
func (d *folder) due() []fs.Ino {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.s.clock()
	all := d.total >= foldAll
	var out []fs.Ino
	for ino, x := range d.files {
		if all || x.bytes >= foldFile || now.Sub(x.last) >= foldIdle {
			out = append(out, ino)
			d.total -= x.bytes
			delete(d.files, ino)
		}
	}
	return out
}

func (d *folder) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-tick.C:
		}
		for _, ino := range d.due() {
			if _, err := d.s.fold(ctx, ino); err != nil && ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist) {
				d.s.log.Error("inline data stays in the key-value store for now", "ino", ino, "err", err)
				d.add(ino, 1) // try again after a while
			}
		}
	}
}

// fold is foldLocked of a file that nobody has locked.
func (s *Store) fold(ctx context.Context, ino fs.Ino) (*generation, error) {
	f, err := s.acquire(ctx, ino)
	if err != nil {
		return nil, err
	}
	defer s.release(f)
	f.op.RLock()
	defer f.op.RUnlock()
	return s.foldLocked(ctx, f)
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
