package client

import (
	"context"
	"sync/atomic"
)

// workers run the operations on disks, each in a goroutine of its own, and keep idle goroutines for the
// next: their stacks have grown to what an operation needs, which costs a tenth of a small read.
type workers struct {
	ctx   context.Context // idle workers end with it
	tasks chan func()     // to idle workers
	idle  atomic.Int32
}

// maxIdle bounds the idle goroutines.
const maxIdle = 64

func newWorkers(ctx context.Context) *workers {
	return &workers{ctx: ctx, tasks: make(chan func())}
}

// run calls fn soon, in another goroutine. It does not wait.
func (w *workers) run(fn func()) {
	select {
	case w.tasks <- fn:
	default:
		go w.work(fn)
	}
}

func (w *workers) work(fn func()) {
	for {
		fn()
		if w.idle.Add(1) > maxIdle {
			w.idle.Add(-1)
			return
		}
		select {
		case fn = <-w.tasks:
			w.idle.Add(-1)
		case <-w.ctx.Done():
			return
		}
	}
}
