package data

import (
	"context"
	"sync"
	"sync/atomic"
)

// generation is a set of writes of one file that becomes durable at once. While it is the file's
// current one it is guarded by file.mu; once frozen its blocks do not change until it is released.
type generation struct {
	f      *file
	blocks map[uint32]*dirtyBlock
	held   int64 // bytes of buffers, accounted in the budget
	writes uint64

	size  int64        // the file's size after it, or -1 when it does not change the size
	mtime atomic.Int64 // 0 when it does not set it (again)
	ctime int64        // 0 when it does not set it

	fold    bool        // brings inline rows into packs: nothing the user did
	dropped atomic.Bool // the file is gone; there is nothing to commit
	prev    *generation // the one frozen before it; nil once that is committed

	mu      sync.Mutex
	over    bool          // committed or dropped
	err     error         // of the last attempt
	tried   uint64        // the number of the last attempt that failed
	attempt chan struct{} // closed and renewed at each failed attempt, closed for good when over
}

func newGeneration(f *file) *generation {
	return &generation{f: f, blocks: make(map[uint32]*dirtyBlock, 1), size: -1, attempt: make(chan struct{})}
}

func (g *generation) block(i uint32) *dirtyBlock {
	b := g.blocks[i]
	if b == nil {
		b = new(dirtyBlock)
		g.blocks[i] = b
	}
	return b
}

// dirty returns the number of dirty bytes and of runs, walking at most until limit runs were seen.
func (g *generation) dirty(limit int) (bytes int64, runs int) {
	for _, b := range g.blocks {
		for _, s := range b.spans {
			bytes += int64(len(s.b))
		}
		if runs <= limit {
			b.runs(func(uint32, uint32, []span) { runs++ })
		}
	}
	return bytes, runs
}

// wait has g tried again if that failed before, and returns when g is over, or with the error of an attempt
// to commit it that began after the call.
func (g *generation) wait(ctx context.Context) error {
	s := g.f.s
	for since := s.budget.begun(); ; {
		g.mu.Lock()
		over, err, tried, ch := g.over, g.err, g.tried, g.attempt
		g.mu.Unlock()
		switch {
		case over:
			return nil
		case tried > since:
			return err
		}
		s.flusher.hurry()
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next returns when g is over, or with the error of the next attempt to commit it that fails.
func (g *generation) next(ctx context.Context) error {
	g.mu.Lock()
	over, ch := g.over, g.attempt
	g.mu.Unlock()
	if over {
		return nil
	}
	select {
	case <-ch:
	case <-ctx.Done():
		return ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return nil
	}
	return g.err
}

func (g *generation) failed(attempt uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err, g.tried = err, attempt
	close(g.attempt)
	g.attempt = make(chan struct{})
}

func (g *generation) finish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		panic("data: a generation was committed twice")
	}
	g.over = true
	close(g.attempt)
}
