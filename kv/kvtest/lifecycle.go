package kvtest

import (
	"errors"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/kv"
)

func testClose(t *testing.T, f *fixture) {
	f.put(kv.Ordered, "a", "k", "v")
	f.must(f.Close())
	nothing := func(kv.Txn) error { t.Error("evaluated after close"); return nil }
	for name, err := range map[string]error{
		"durable update":    f.Update(f.ctx, kv.Durable, nothing),
		"ordered update":    f.Update(f.ctx, kv.Ordered, nothing),
		"linearizable view": f.View(f.ctx, kv.Linearizable, func(kv.Reader) error { return nothing(nil) }),
		"pending view":      f.View(f.ctx, kv.Pending, func(kv.Reader) error { return nothing(nil) }),
		"stale view":        f.View(f.ctx, kv.Stale, func(kv.Reader) error { return nothing(nil) }),
		"sync":              f.Sync(f.ctx),
		"close":             f.Close(),
	} {
		if !errors.Is(err, kv.ErrClosed) {
			t.Errorf("%s after close: %v", name, err)
		}
	}
}

// testCloseOvertakes: calls that Close overtakes end, with success or a typed error.
func testCloseOvertakes(t *testing.T, f *fixture) {
	var w sync.WaitGroup
	begun := make(chan struct{}, 64)
	for n := range 8 {
		w.Go(func() {
			for i := 0; ; i++ {
				var err error
				switch (n + i) % 4 {
				case 0, 1:
					err = f.Update(f.ctx, kv.Commit(n%2), increment)
				case 2:
					err = f.View(f.ctx, kv.Level(i%3), func(r kv.Reader) error { counter(r); return nil })
				case 3:
					err = f.Sync(f.ctx)
				}
				if err != nil {
					if !errors.Is(err, kv.ErrClosed) && !errors.Is(err, kv.ErrUnknownOutcome) {
						t.Errorf("overtaken by close: %v", err)
					}
					return
				}
				if i == 5 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range 8 {
		<-begun
	}
	f.must(f.Close())
	w.Wait()
}
