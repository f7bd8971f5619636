package data

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

const (
	// bigGeneration is the size from which a generation is flushed on its own; smaller ones are
	// gathered, so that their blobs share packs and their commits a transaction.
	bigGeneration = 1 << 20
	// batchBytes and batchFiles bound what is gathered.
	batchBytes = maxPack
	batchFiles = 1024
	// commitFiles bounds the generations in one transaction: others wait while it is evaluated.
	commitFiles = 48
	// maxPause is how long what failed is left alone at most when nobody asks for it: each attempt may cost as
	// much as a success.
	maxPause = 5 * time.Second
)

// flusher takes frozen generations to the disks.
type flusher struct {
	s    *Store
	wake chan struct{} // poked when there is something to do
	puts chan struct{} // one token for each blob or pack that may be underway

	mu      sync.Mutex
	queue   []*generation
	retry   []*generation // failed; queued again by the timer or by somebody who waits
	pause   time.Duration // of the timer; 0 while nothing fails
	resume  time.Time     // when the timer may try again
	flights sync.WaitGroup
}

func newFlusher(s *Store, puts int) *flusher {
	return &flusher{s: s, wake: make(chan struct{}, 1), puts: make(chan struct{}, puts)}
}

// enqueue adds a frozen generation. Generations of one file are enqueued in order.
func (x *flusher) enqueue(g *generation) {
	x.mu.Lock()
	x.queue = append(x.queue, g)
	x.mu.Unlock()
	poke(x.wake)
}

// enqueueFirst adds a generation that somebody failed to commit otherwise: newer ones of its file may
// be queued already.
func (x *flusher) enqueueFirst(g *generation) {
	x.mu.Lock()
	x.queue = slices.Insert(x.queue, 0, g)
	x.mu.Unlock()
	poke(x.wake)
}

// hurry has what failed before tried again now: somebody waits for it.
func (x *flusher) hurry() {
	x.mu.Lock()
	x.queue = append(x.retry, x.queue...)
	x.retry = nil
	x.mu.Unlock()
	poke(x.wake)
}

// due is hurry by the timer, which leaves what fails again and again alone for longer and longer.
func (x *flusher) due() {
	x.mu.Lock()
	due := len(x.retry) > 0 && !time.Now().Before(x.resume)
	x.mu.Unlock()
	if due {
		x.hurry()
	}
}

// backOff sets the pause after an attempt. Called with x.mu.
func (x *flusher) backOff(err error) {
	if err == nil {
		x.pause, x.resume = 0, time.Time{}
		return
	}
	now := time.Now()
	if now.Before(x.resume) {
		return // of the same crowd
	}
	x.pause = min(max(2*x.pause, x.s.flushAfter/4), maxPause)
	x.resume = now.Add(x.pause)
}

// run freezes files that have been dirty for a while, and starts a flight for what is frozen.
func (x *flusher) run(ctx context.Context) {
	tick := time.NewTicker(x.s.flushAfter / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			x.flights.Wait()
			return
		case <-x.wake:
		case <-tick.C:
			x.s.freezeOld()
			x.due()
		}
		for {
			batch := x.next()
			if len(batch) == 0 {
				break
			}
			x.flights.Add(1)
			go func() {
				defer x.flights.Done()
				x.fly(ctx, batch)
			}()
		}
	}
}

// next takes a big generation, or as many small ones as share a pack, from the queue.
func (x *flusher) next() (batch []*generation) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var bytes int64
	n := 0
	for _, g := range x.queue {
		if len(batch) > 0 && (g.held >= bigGeneration || bytes+g.held > batchBytes || len(batch) == batchFiles) {
			break
		}
		n++
		batch = append(batch, g)
		if bytes += g.held; g.held >= bigGeneration {
			break
		}
	}
	x.queue = slices.Delete(x.queue, 0, n)
	return batch
}

// fly takes a batch to the disks.
func (x *flusher) fly(ctx context.Context, batch []*generation) {
	attempt := x.s.budget.begin()
	rest, err := x.try(ctx, attempt, batch)
	if errors.Is(err, objstore.ErrFull) && x.s.makeRoom(ctx) {
		rest, err = x.try(ctx, attempt, rest)
	}
	if err != nil {
		x.fail(ctx, attempt, rest, err)
	}
}

// try puts the blobs of a batch and commits its generations, each after the one before it. With an error it
// returns those that are left.
func (x *flusher) try(ctx context.Context, attempt uint64, batch []*generation) ([]*generation, error) {
	up := x.s.newUpload()
	defer up.unpin(context.WithoutCancel(ctx))
	err := up.put(ctx, batch)
	for len(batch) > 0 && err == nil {
		group := batch[:min(len(batch), commitFiles)]
		if err = x.precede(ctx, group); err == nil {
			err = x.s.commit(ctx, up, group)
		}
		if err != nil {
			break
		}
		if x.s.budget.result(attempt, nil) {
			x.mu.Lock()
			x.backOff(nil)
			x.mu.Unlock()
		}
		batch = batch[len(group):]
	}
	return batch, err
}

// precede waits until the generations that were frozen before those of the group, and are not in the
// group themselves, are committed.
func (x *flusher) precede(ctx context.Context, group []*generation) error {
	for i, g := range group {
		g.f.mu.RLock()
		prev := g.prev
		g.f.mu.RUnlock()
		if prev == nil || slices.Contains(group[:i], prev) {
			continue
		}
		if err := prev.next(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fail keeps generations for another attempt and tells those who wait.
func (x *flusher) fail(ctx context.Context, attempt uint64, batch []*generation, err error) {
	x.mu.Lock()
	x.retry = append(x.retry, batch...)
	x.backOff(err)
	// Told under the lock, so that who hears of it finds them in the queue.
	news := x.s.budget.result(attempt, err)
	x.mu.Unlock()
	if ctx.Err() == nil && news {
		x.s.log.Error("dirty data cannot be written and stays in memory", "files", len(batch), "err", err)
	}
	for _, g := range batch {
		g.failed(attempt, err)
	}
}

// commit switches the files of the group to their new content in one transaction, and takes the generations out of
// memory. A blob that was found before and freed since is put again.
func (s *Store) commit(ctx context.Context, up *upload, group []*generation) error {
	for {
		var l *ledger
		changes := make([]*change, len(group))
		err := s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
			l = s.ledger(t)
			for i, g := range group {
				c, err := s.begin(t, l, g)
				if err != nil {
					return err
				}
				if changes[i] = c; c == nil {
					continue
				}
				c.placed = up.placed
				for _, p := range up.pieces[g] {
					if err := c.lay(p.block, p.piece); err != nil {
						return err
					}
				}
				if g.fold {
					if err := c.unfold(); err != nil {
						return err
					}
				}
				if err := c.end(); err != nil {
					return err
				}
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
		if err != nil {
			return err
		}
		l.settle()
		for i, g := range group {
			g.f.committed(g, changes[i])
		}
		return nil
	}
}

// freezeOld freezes the files whose first uncommitted write is flushAfter ago.
func (s *Store) freezeOld() {
	now := s.clock()
	s.dirtyMu.Lock()
	var old []*file
	for f, since := range s.dirty {
		if now.Sub(since) >= s.flushAfter {
			old = append(old, f)
		}
	}
	s.dirtyMu.Unlock()
	// In the order of their first write, and so mostly of their names' creation: files that were
	// written together lie together.
	slices.SortFunc(old, func(a, b *file) int { return int(a.ino) - int(b.ino) })
	for _, f := range old {
		f.mu.Lock()
		f.freeze(false)
		f.mu.Unlock()
	}
}

// freezeMost freezes everything that is dirty: memory is short.
func (s *Store) freezeMost() {
	s.dirtyMu.Lock()
	all := make([]*file, 0, len(s.dirty))
	for f := range s.dirty {
		all = append(all, f)
	}
	s.dirtyMu.Unlock()
	for _, f := range all {
		f.mu.Lock()
		f.freeze(false)
		f.mu.Unlock()
	}
}
