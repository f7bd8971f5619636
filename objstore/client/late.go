package client

import (
	"errors"
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// followUp looks after writes that nobody waits for any longer: they are confirmed in the manifest
// when they succeed and the upload was kept with this attempt in it, and queued for deletion otherwise.
func (w *chunkWrite) followUp(pending int, part bool) {
	if pending == 0 {
		return
	}
	var settled []func()
	var late []nsm.Location
	for i, f := range w.e.chunk.Fragments {
		if f.Unconfirmed {
			late = append(late, w.location(i, f.Disk))
			if d := w.u.s.c.o.Disks.Disk(f.Disk); d != nil {
				settled = append(settled, d.Straggle())
			}
		}
	}
	w.u.s.c.setLate(late, true)
	started := w.u.s.c.background(func() {
		defer w.u.s.c.setLate(late, false)
		var ends []outcome
		for range pending {
			ends = append(ends, <-w.results)
		}
		for _, s := range settled {
			s()
		}
		<-w.u.over
		if w.u.fate == unknown && part {
			return // a manifest may name them: the collector knows
		}
		w.reconcile(ends, part && w.u.fate == kept)
	})
	if !started {
		for _, s := range settled {
			s()
		}
	}
}

// reconcile makes the manifest say how late writes ended.
func (w *chunkWrite) reconcile(ends []outcome, kept bool) {
	u := w.u
	if !kept {
		var gone []nsm.Location
		for _, o := range ends {
			if o.err == nil {
				gone = append(gone, w.location(o.fragment, o.disk.ID()))
			}
		}
		u.abandon(gone)
		return
	}
	err := u.s.nsm.Change(u.s.c.ctx, u.name, u.id.ID, func(m *manifest.Manifest) error {
		for i := range m.Chunks {
			if m.Chunks[i].Number == w.e.chunk.Number {
				confirm(&m.Chunks[i], w.e.chunk.Fragments, ends)
			}
		}
		return nil
	})
	if slices.ContainsFunc(ends, func(o outcome) bool { return o.err != nil }) {
		u.s.c.o.Trouble.Degraded(u.s.nsm, u.name)
	}
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		// Deleted meanwhile: its fragments were queued, but those that landed after their deletion
		// are still there.
		w.reconcile(ends, false)
	case err != nil:
		u.s.c.log.Warn("late fragments stay unconfirmed", "object", u.name, "error", err)
	}
}

// confirm settles the fragments of a chunk that are still as the writer left them.
func confirm(c *manifest.Chunk, as []manifest.Fragment, ends []outcome) {
	for _, o := range ends {
		f := &c.Fragments[o.fragment]
		if f.Disk != o.disk.ID() || f.Version != as[o.fragment].Version || !f.Unconfirmed {
			continue // maintenance was faster
		}
		if o.err != nil {
			f.Disk = 0
		}
		f.Unconfirmed = false
	}
}
