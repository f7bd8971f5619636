package data

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// spaceAge is how old a reading of the disks' capacity may be.
const spaceAge = 200 * time.Millisecond

// space answers whether the disks could take more, so that a write fails at once and not at its flush.
type space struct {
	read  func() objstore.Capacity // nil: the disks are taken to be endless
	clock func() time.Time

	mu   sync.Mutex
	at   time.Time
	last objstore.Capacity
}

func (x *space) capacity() objstore.Capacity {
	if x.read == nil {
		return objstore.Capacity{Total: fs.MaxFile, Free: fs.MaxFile}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if now := x.clock(); now.Sub(x.at) > spaceAge || now.Before(x.at) {
		x.last, x.at = x.read(), now
	}
	return x.last
}

// fits reports whether there is room for n bytes. A no is never older than the question.
func (x *space) fits(n int64) bool {
	if n <= x.capacity().Free {
		return true
	}
	x.mu.Lock()
	x.at = time.Time{}
	x.mu.Unlock()
	return n <= x.capacity().Free
}

// makeRoom is called when the disks are full. It waits until the space of all that was removed so far is
// free, and reports whether there may be room for more now.
func (s *Store) makeRoom(ctx context.Context) bool {
	if s.reaper.settled(ctx) != nil {
		return false
	}
	s.rewriter.hurry()
	if r, ok := s.ns.(objstore.Reclaimer); ok {
		if err := r.Reclaim(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the space of what was removed comes back later", "err", err)
		}
	}
	return ctx.Err() == nil && s.space.fits(1)
}

// fsError makes errors of the layers below match the vocabulary of package fs.
func (s *Store) fsError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, objstore.ErrFull):
		return fmt.Errorf("%w: %w", fs.ErrNoSpace, err)
	case errors.Is(err, kv.ErrClosed), errors.Is(err, objstore.ErrClosed):
		return fmt.Errorf("%w: %w", fs.ErrClosed, err)
	}
	return err
}
