package maint

import (
	"context"
	"sync"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manager"
)

// highestPatience is how long Highest waits for the disks.
const highestPatience = 5 * time.Second

// Highest returns what nsm.Options.Highest wants: it looks on all disks that are up, at the same time.
func Highest(disks *manager.Manager) func(ctx context.Context, ns uint32, from uint64) (uint64, error) {
	return func(ctx context.Context, ns uint32, from uint64) (uint64, error) {
		within, cancel := context.WithTimeout(ctx, highestPatience)
		defer cancel()
		var mu sync.Mutex
		var highest uint64
		var wg sync.WaitGroup
		for _, d := range disks.Disks() {
			wg.Go(func() {
				// A disk that is down, or does not answer, may have something to say when it is back; until
				// then the margin above the others must do.
				_ = d.Do(within, func(dev objstore.Disk) error {
					id, err := highestOn(within, dev, ns, from)
					mu.Lock()
					defer mu.Unlock()
					highest = max(highest, id)
					return err
				})
			})
		}
		wg.Wait()
		mu.Lock()
		defer mu.Unlock()
		return highest, ctx.Err()
	}
}

// highestOn finds the highest id from from on a disk, by bisection: a disk lists its keys only forwards. 0 is
// none.
func highestOn(ctx context.Context, dev objstore.Disk, ns uint32, from uint64) (highest uint64, err error) {
	to := objstore.FragmentKey{Namespace: ns + 1}
	first := func(from uint64) (id uint64, ok bool, err error) {
		err = dev.Range(ctx, objstore.FragmentKey{Namespace: ns, Object: from}, to, func(f objstore.FragmentInfo) bool {
			id, ok = f.Key.Object, true
			return false
		})
		return id, ok, err
	}
	id, ok, err := first(from)
	if err != nil || !ok {
		return 0, err
	}
	// There is one at low, and none above high.
	low, high := id, uint64(1<<64-1)
	for low < high {
		mid := low + (high-low)/2 + 1
		switch id, ok, err := first(mid); {
		case err != nil:
			return low, err
		case ok:
			low = id
		default:
			high = mid - 1
		}
	}
	return low, nil
}
