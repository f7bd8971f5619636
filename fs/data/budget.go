package data

import (
	"context"
	"sync"
)

// budget bounds the memory in dirty buffers. A writer that finds it spent waits until generations have
// been committed; when they cannot be, it gets the error that keeps them from it. That error is never older
// than the write: what failed before is tried once more first.
type budget struct {
	max   int64
	full  func() // asks for a flush; called without the lock
	retry func() // has what failed tried again; called without the lock

	mu       sync.Mutex
	used     int64
	frozen   int64         // of used: in generations that are on their way to the disks
	attempts uint64        // to commit generations, begun so far: the number of the newest
	broken   error         // why the last attempt to end failed, nil when it succeeded
	brokenBy uint64        // the newest attempt that failed
	change   chan struct{} // closed and renewed when used falls and when an attempt failed or is the first to succeed
}

func newBudget(max int64, full, retry func()) *budget {
	return &budget{max: max, full: full, retry: retry, change: make(chan struct{})}
}

// wait returns when there is room for more dirty bytes. What the caller then adds may exceed the
// maximum by one write.
func (b *budget) wait(ctx context.Context) error {
	b.mu.Lock()
	since := b.attempts
	for {
		if b.broken != nil {
			err, fresh, ch := b.broken, b.brokenBy > since, b.change
			b.mu.Unlock()
			if fresh {
				return err
			}
			b.retry()
			select {
			case <-ch:
			case <-ctx.Done():
				return ctx.Err()
			}
			b.mu.Lock()
			continue
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

// begin numbers an attempt to commit generations.
func (b *budget) begin() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attempts++
	return b.attempts
}

// begun returns the number of the newest attempt.
func (b *budget) begun() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attempts
}

// result records how an attempt ended, and reports whether that is news: another outcome than the last.
func (b *budget) result(attempt uint64, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	news := (err == nil) != (b.broken == nil)
	b.broken = err
	if err != nil {
		b.brokenBy = max(b.brokenBy, attempt)
	}
	if news || err != nil {
		b.wake()
	}
	return news
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
