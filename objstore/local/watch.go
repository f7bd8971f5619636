package local

import (
	"fmt"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/manager"
)

// Reopening a disk that is down is tried after firstRetry, then less and less often.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	// stable is how long a disk must stay up before its next failure counts as the first: one that fails
	// again and again stays away longer and longer, and is rebuilt meanwhile.
	stable = time.Minute
	// hangAfter is how long a disk may take to say that it is there.
	hangAfter = 30 * time.Second
)

// watch looks at the disks: whether those that are up still are, whether others are back.
func (b *Backend) watch() {
	tick := time.NewTicker(b.o.WatchEvery)
	defer tick.Stop()
	watchers := make(map[objstore.DiskID]*watcher)
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.disks.Events():
			b.changed()
		case <-tick.C:
			disks := b.disks.Disks()
			manager.JudgeReads(disks)
			limit := b.disks.JudgeWrites(time.Now())
			for _, d := range disks {
				w := watchers[d.ID()]
				if w == nil {
					w = &watcher{b: b, d: d, idle: make(chan struct{}, 1)}
					w.idle <- struct{}{}
					watchers[d.ID()] = w
				}
				w.look(limit)
			}
		}
	}
}

// watcher looks at one disk. A disk that hangs must not keep others from being looked at, so each look
// is a goroutine, one at a time.
type watcher struct {
	b     *Backend
	d     *manager.Disk
	idle  chan struct{}
	after time.Time // no attempt to open it before
	wait  time.Duration
}

func (w *watcher) look(limit time.Duration) {
	select {
	case <-w.idle:
	default:
		return // the last look has not come back
	}
	w.b.wg.Go(func() {
		defer func() { w.idle <- struct{}{} }()
		if w.d.Readable() {
			if time.Since(w.d.Status().Since) > stable {
				w.wait = 0
			}
			hung := time.AfterFunc(hangAfter, func() {
				w.b.lost(w.d, fmt.Errorf("%w: no answer for %v", asd.ErrFailed, hangAfter))
			})
			defer hung.Stop()
			if err := w.d.Refresh(w.b.ctx); err != nil && w.b.ctx.Err() == nil {
				w.b.lost(w.d, err)
			}
			w.b.disks.ProbeWrites(w.b.ctx, w.d, limit, time.Now)
			return
		}
		if now := time.Now(); now.After(w.after) {
			w.reopen()
			w.wait = min(max(2*w.wait, firstRetry), lastRetry)
			w.after = now.Add(w.wait)
		}
	})
}

// reopen takes the disk back if it is the same one again. A disk whose folder was removed may have been put out of
// use by the errors of those who used it, before the watch looked: that it is missing is found out here.
func (w *watcher) reopen() {
	b, d := w.b, w.d
	id, dev, err := b.opener.Open(b.ctx, d.Dir(), d.ASD())
	if err != nil {
		if stateOf(err) == manager.Missing && d.Diagnose(manager.Missing, err) {
			b.log.Warn("disk is missing", "disk", d.ID(), "dir", d.Dir(), "error", err)
		}
		return
	}
	if b.ctx.Err() != nil || b.disks.Disk(d.ID()) != d {
		_ = dev.Close()
		return
	}
	if _, err := b.disks.Attach(b.ctx, id, d.Dir(), nodeOf(dev, b.o.Node), dev); err != nil {
		b.log.Warn("a disk that is back cannot be used", "disk", d.ID(), "error", err)
		_ = dev.Close()
	}
}
