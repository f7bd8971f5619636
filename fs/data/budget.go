package data

import (
	"context"
	"sync"
)

// budget bounds the memory in dirty buffers. A writer that finds it spent waits until generations have
// been committed; when they cannot be, it gets the error that keeps them from it.
type budget struct {
	max  int64
	full func() // asks for a flush; called without the lock

	mu     sync.Mutex
	used   int64
	frozen int64         // of used: in generations that are on their way to the disks
	broken error         // why the last attempt to commit failed, nil after one that succeeded
	change chan struct{} // closed and renewed when used falls or broken changes
}

func newBudget(max int64, full func()) *budget {
	return &budget{max: max, full: full, change: make(chan struct{})}
}

// wait returns when there is room for more dirty bytes. What the caller then adds may exceed the
// maximum by one write.
func (b *budget) wait(ctx context.Context) error {
	b.mu.Lock()
	for {
		if b.broken != nil {
			err := b.broken
			b.mu.Unlock()
			return err
		}
		// What is frozen already is being flushed; freezing more often than this only makes the
		// generations small.
		press := b.used-b.frozen > b.max/4
		if b.used < b.max {
			b.mu.Unlock()
			if press {
				b.full()
			}
			return nil
		}
		press = press || b.frozen == 0
		ch := b.change
		b.mu.Unlock()
		if press {
			b.full()
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.mu.Lock()
	}
}

// add changes the bytes held by n, which may be negative.
func (b *budget) add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
}

// freeze counts n bytes that are held as frozen.
func (b *budget) freeze(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen += n
}

// release gives back n frozen bytes.
func (b *budget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.frozen -= n
	if b.used < 0 || b.frozen < 0 {
		panic("data: more dirty memory released than held")
	}
	b.wake()
}

// result records how an attempt to commit a generation ended.
func (b *budget) result(err error) {
	b.mu.Lock()
	if (err == nil) != (b.broken == nil) {
		b.broken = err
		b.wake()
	}
	b.mu.Unlock()
}

func (b *budget) held() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

func (b *budget) wake() {
	close(b.change)
	b.change = make(chan struct{})
}
