package asd

import (
	"context"
	"time"
)

// maintain is the background of an ASD: it makes Written batches durable soon, brings space back and
// rebuilds an index that pebble found damaged.
func (a *ASD) maintain() {
	defer a.done.Done()
	const tick = 100 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-timer.C:
			timer.Reset(max(tick, a.idleTick()))
		case <-a.kick:
			// Changes come in crowds; look at them together.
			select {
			case <-a.stop:
				return
			case <-time.After(tick):
			}
		}
		if a.Err() != nil {
			continue
		}
		if a.damage.Load() {
			a.indexMu.RLock()
			x := a.index
			a.indexMu.RUnlock()
			if err := a.rebuild(x, bad("found in the background")); err != nil {
				continue
			}
			a.damage.Store(false)
		}
		if w := a.lastWritten(); w > 0 {
			a.syncUntil(w)
		}
		if err := a.reclaim(); err != nil {
			a.log.Warn("compaction", "error", err)
		}
		a.counters.rounds.Add(1)
	}
}

// idleTick is how long maintenance sleeps when nobody wakes it: until the pool is due, or the active segment.
func (a *ASD) idleTick() time.Duration {
	a.table.RLock()
	defer a.table.RUnlock()
	if len(a.table.pool) > 1 || !a.quietSince.IsZero() {
		return min(a.opts.Compaction.PoolDelay, time.Second)
	}
	_, again := a.mayCompact()
	return min(max(again, 0), time.Minute)
}

// reclaim is one round of the background.
func (a *ASD) reclaim() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-a.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	may := func() bool { ok, _ := a.mayCompact(); return ok }
	if err := a.compactWhile(ctx, choice{fraction: a.opts.Compaction.MinGarbage}, a.opts.Compaction.Rate, may); err != nil && ctx.Err() == nil {
		return err
	}
	if w := a.lastWritten(); w != a.quietLSN {
		a.quietLSN, a.quietSince = w, time.Now()
	} else if !a.quietSince.IsZero() && time.Since(a.quietSince) >= a.opts.Compaction.PoolDelay {
		a.quietSince = time.Time{}
		if err := a.submit(&request{trim: true}); err != nil {
			return err
		}
	}
	delay := a.opts.Compaction.PoolDelay
	if a.room() < 0 {
		delay = 0 // others need it more
	}
	if err := a.trimPool(delay); err != nil {
		return err
	}
	if err := a.ensureSpare(); err != nil {
		return err
	}
	return a.ensureBallast()
}
