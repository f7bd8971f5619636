package maint

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/erasure"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// RecoverOptions for Recover.
type RecoverOptions struct {
	// Everything also brings back what the store, as far as it knows of the namespace, says was deleted or
	// never finished.
	Everything bool
	// Progress is called now and then, never twice at a time; nil: it is not.
	Progress func(Recovered)
}

// Recovered says what Recover found and did.
type Recovered struct {
	Namespace  string       `json:"namespace"`
	Uploads    int64        `json:"uploads"`    // looked at
	Known      int64        `json:"known"`      // of whose fate the store knew, which were left alone
	Adopted    int64        `json:"adopted"`    // objects that are there again
	Corrected  int64        `json:"corrected"`  // objects whose manifests named fragments that are not there
	Unchanged  int64        `json:"unchanged"`  // objects that were there as they should be
	Superseded int64        `json:"superseded"` // older objects of the same name
	Incomplete int64        `json:"incomplete"` // uploads with fewer fragments than are needed: never finished, deleted, or lost
	Degraded   int64        `json:"degraded"`   // objects, of those adopted or corrected, that lack fragments
	Fragments  int64        `json:"fragments"`  // read
	Bytes      int64        `json:"bytes"`      // of them
	Damaged    int64        `json:"damaged"`    // of them, unreadable
	Lost       []LostUpload `json:"lost"`       // the incomplete ones, at most MaxLost
	Absent     []string     `json:"absent"`     // disks that were not there to be looked at
}

// LostUpload is an upload that cannot be brought back from the disks that are there.
type LostUpload struct {
	ID     uint64 `json:"id"`
	Name   string `json:"name"` // "" when no fragment could be asked
	Reason string `json:"reason"`
}

// MaxLost bounds the list of lost uploads.
const MaxLost = 1000

// Recover rebuilds the manifests of a namespace from what lies on its disks.
//
// Every upload of which the store knows the fate is left as it is: after a loss of all its rows that is none,
// after the restore of a backup it is those from before the backup. Of the others all fragments are read and
// verified, and the object is made to exist if each of its chunks has k of them; what is missing is left to
// repair. Of several objects of one name the last upload wins.
//
// What comes back wrongly: a deleted object of which k fragments of each chunk had not been deleted from the
// disks yet when the store was lost; and an object whose put had not returned, or was refused because its
// name was taken meanwhile, when the process died at that moment. What does not come back: objects of
// zero bytes, of which disks hold nothing.
//
// It may be cut off and run again. Nothing is deleted from disks.
func (m *Maint) Recover(ctx context.Context, ns *client.Namespace, o RecoverOptions) (Recovered, error) {
	n := ns.NSM()
	r := &recovery{m: m, ns: ns, n: n, o: o, out: Recovered{Namespace: n.Name(), Lost: []LostUpload{}, Absent: []string{}}}
	err := r.run(ctx)
	if err != nil {
		err = fmt.Errorf("objstore: recover namespace %s: %w", n.Name(), err)
	}
	return r.out, err
}

type recovery struct {
	m       *Maint
	ns      *client.Namespace
	n       *nsm.Manager
	o       RecoverOptions
	unknown uint64                // first id that the store knows nothing of
	going   map[nsm.Location]bool // fragments that the store wants deleted
	codes   erasure.Cache

	mu   sync.Mutex // guards what follows
	out  Recovered
	last time.Time // of a call of Progress
}

func (r *recovery) run(ctx context.Context) error {
	defer r.m.task("recover", 0)()
	e, err := r.n.Advance(ctx)
	if err != nil {
		return err
	}
	// What is being written now registers itself; what is written from here on has higher ids.
	grace, cancel := context.WithTimeout(ctx, r.m.o.UploadGrace)
	err = r.n.Quiesce(grace, e)
	cancel()
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.n.Expire(ctx, e); err != nil {
		return err
	}
	r.m.work.Lock() // fragments must not move meanwhile
	defer r.m.work.Unlock()
	if !r.o.Everything {
		if r.unknown, err = r.n.Unknown(ctx); err != nil {
			return err
		}
	}
	if err := r.listGoing(ctx); err != nil {
		return err
	}
	highest, err := r.scan(ctx)
	if err != nil {
		return err
	}
	if err := r.n.Reserve(ctx, highest); err != nil {
		return err
	}
	if len(r.out.Absent) == 0 {
		// Only now may the collector take what is left over for garbage.
		if err := r.n.Release(ctx); err != nil {
			return err
		}
	}
	r.report(true)
	return r.n.Sync(ctx)
}

// listGoing reads the queues of what is to be deleted.
func (r *recovery) listGoing(ctx context.Context) error {
	r.going = make(map[nsm.Location]bool)
	var from uint64
	for {
		list, err := r.n.Obsoletes(ctx, from, obsoleteBatch)
		if err != nil {
			return err
		}
		for _, e := range list {
			from = e.ID + 1
			for _, l := range e.At {
				r.going[l] = true
			}
		}
		if len(list) < obsoleteBatch {
			break
		}
	}
	for _, d := range r.m.o.Disks.Disks() {
		list, err := r.m.parked(ctx, d.ID())
		if err != nil {
			return err
		}
		for _, l := range list {
			r.going[l] = true
		}
	}
	return nil
}

// recoverParallel is how many uploads are rebuilt at a time. Each takes the memory of one coded chunk.
const recoverParallel = 4

// scan walks over all disks at once, in the order of their keys, so that all fragments of an upload come
// together, and rebuilds uploads as they come, a few at a time. It returns the highest id.
func (r *recovery) scan(ctx context.Context) (highest uint64, err error) {
	var walks []*walk
	for _, d := range r.m.o.Disks.Disks() {
		if !d.Readable() {
			r.out.Absent = append(r.out.Absent, fmt.Sprintf("%d in %s", d.ID(), d.Dir()))
			continue
		}
		walks = append(walks, &walk{d: d, from: objstore.FragmentKey{Namespace: r.n.Number()}, to: objstore.FragmentKey{Namespace: r.n.Number() + 1}})
	}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(recoverParallel)
	for within.Err() == nil {
		id := uint64(1<<64 - 1)
		some := false
		for _, w := range walks {
			ok, err := w.fill(within)
			if err != nil {
				return 0, errors.Join(err, g.Wait())
			}
			if ok {
				id, some = min(id, w.page[0].Key.Object), true
			}
		}
		if !some {
			break
		}
		var at []nsm.Location
		for _, w := range walks {
			if at, err = w.take(within, id, at); err != nil {
				return 0, errors.Join(err, g.Wait())
			}
		}
		highest = id
		g.Go(func() error { return r.upload(within, id, at) })
	}
	return highest, errors.Join(g.Wait(), ctx.Err())
}

// walk lists the fragments of a namespace on one disk.
type walk struct {
	d        *manager.Disk
	from, to objstore.FragmentKey
	page     []objstore.FragmentInfo
	end      bool
}

// fill reads the next page when there is none, and reports whether there is a fragment.
func (w *walk) fill(ctx context.Context) (bool, error) {
	if len(w.page) > 0 || w.end {
		return len(w.page) > 0, nil
	}
	var page []objstore.FragmentInfo
	from := w.from
	err := w.d.Do(ctx, func(dev objstore.Disk) error {
		var list []objstore.FragmentInfo
		err := dev.Range(ctx, from, w.to, func(f objstore.FragmentInfo) bool {
			list = append(list, f)
			return len(list) < rangePage
		})
		if err == nil {
			page = list
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("list disk %d: %w", w.d.ID(), err)
	}
	w.page = page
	if w.end = len(page) < rangePage; len(page) > 0 {
		w.from = page[len(page)-1].Key.Next()
	}
	return len(page) > 0, nil
}

// take appends the fragments of an upload.
func (w *walk) take(ctx context.Context, id uint64, at []nsm.Location) ([]nsm.Location, error) {
	for {
		ok, err := w.fill(ctx)
		if err != nil || !ok || w.page[0].Key.Object != id {
			return at, err
		}
		at = append(at, nsm.Location{Disk: w.d.ID(), Key: w.page[0].Key})
		w.page = w.page[1:]
	}
}

// count changes the figures and reports them, now and then.
func (r *recovery) count(fn func(*Recovered)) {
	r.mu.Lock()
	fn(&r.out)
	r.mu.Unlock()
	r.report(false)
}

const progressEvery = 200 * time.Millisecond

func (r *recovery) report(now bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.o.Progress == nil || !now && time.Since(r.last) < progressEvery {
		return
	}
	r.last = time.Now()
	out := r.out
	out.Lost = nil
	r.o.Progress(out)
}
