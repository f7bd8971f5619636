// Package interrupt is how a person or a supervisor ends a process that runs until then.
package interrupt

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// onePress is how long signals count as the same wish: who ends a process often signals it twice, by its id and
// with its group, and did not mean to hurry it.
const onePress = 300 * time.Millisecond

// Context returns a context that the first SIGINT or SIGTERM ends, after first is called with it, unless that is
// nil. A later one calls forced, which exits. What is returned beside gives the signals back.
func Context(ctx context.Context, first func(os.Signal), forced func()) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	over := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			if first != nil {
				first(s)
			}
			cancel()
		case <-over:
			return
		}
		for at := time.Now(); ; {
			select {
			case <-signals:
				if time.Since(at) >= onePress {
					forced()
				}
			case <-over:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(over)
		cancel()
	}
}
