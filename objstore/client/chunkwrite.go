package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/erasure"
	"github.com/gabionfs/gabion/objstore/fragcache"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// writeChunk writes one chunk, by the first policy that can be met, and by later ones when disks fail.
// owner is the buffer that raw lies in, let go of when it is no longer needed; nil for the caller's memory.
func (u *upload) writeChunk(ctx context.Context, number uint32, off int64, raw []byte, owner *held) error {
	if owner != nil {
		defer owner.done()
	}
	return u.writeRaw(ctx, number, off, raw, owner != nil)
}

// writeRaw is writeChunk; paid tells that the memory for coding raw was acquired already.
func (u *upload) writeRaw(ctx context.Context, number uint32, off int64, raw []byte, paid bool) error {
	avoid := make(map[objstore.DiskID]bool)
	var last error
	for index, attempt := u.first, uint32(0); ; attempt++ {
		at, err := u.s.c.place(ctx, &u.preset, index, avoid, u.id.ID+uint64(number))
		if err != nil {
			if last != nil && !errors.Is(err, objstore.ErrFull) {
				err = fmt.Errorf("%w; last: %w", err, last)
			}
			return err
		}
		if len(raw) > at.policy.K*u.preset.FragmentSize {
			return u.writeSmaller(ctx, at.policy, number, off, raw, paid)
		}
		p, failed, err := u.attempt(ctx, at, number, attempt, off, raw, paid)
		if err == nil {
			u.mu.Lock()
			u.parts = append(u.parts, p)
			u.mu.Unlock()
			return nil
		}
		if len(failed) == 0 || ctx.Err() != nil {
			return err
		}
		// The policy may still be met by the disks that are left: place decides.
		last, index = err, at.index
		for _, d := range failed {
			avoid[d] = true
		}
	}
}

// writeSmaller cuts a chunk again for a policy with fewer data fragments.
func (u *upload) writeSmaller(ctx context.Context, p objstore.Policy, number uint32, off int64, raw []byte, paid bool) error {
	_, length := erasure.Chunks(int64(len(raw)), p.K, u.preset.FragmentSize, objstore.FrameSize)
	for len(raw) > 0 {
		n := min(int(length), len(raw))
		if err := u.writeRaw(ctx, number, off, raw[:n], paid); err != nil {
			return err
		}
		raw, off = raw[n:], off+int64(n)
		number = u.nextNumber.Add(1) - 1
	}
	return nil
}

// sorted returns the parts in the order of the object.
func (u *upload) sorted() []part {
	u.mu.Lock()
	defer u.mu.Unlock()
	slices.SortFunc(u.parts, func(a, b part) int {
		if a.offset < b.offset {
			return -1
		}
		return 1
	})
	return u.parts
}

// outcome is how the write of one fragment ended.
type outcome struct {
	fragment int
	disk     *manager.Disk
	err      error
}

// attempt codes a chunk by one policy and writes its fragments until at least c are durable. When it
// fails it returns the disks that failed.
func (u *upload) attempt(ctx context.Context, at placement, number, version uint32, off int64, raw []byte, paid bool) (part, []objstore.DiskID, error) {
	if !paid {
		// Given back when the attempt is over, not when the last late write is: a disk that hangs must
		// not hold up the others. What hangs is bounded per disk.
		share, err := u.s.c.acquire(ctx, len(raw)*(at.policy.K+at.policy.M)/at.policy.K)
		if err != nil {
			return part{}, nil, err
		}
		defer share.release()
	}
	e, err := u.encode(at.policy, number, version, off, raw)
	if err != nil {
		return part{}, nil, err
	}
	defer e.buf.Release()
	w := &chunkWrite{u: u, e: e, at: at, results: make(chan outcome, len(e.shards)+len(at.spare))}
	err = w.run(ctx)
	pending := w.inFlight
	if err != nil {
		u.mu.Lock()
		u.gone = append(u.gone, w.written()...)
		u.mu.Unlock()
		w.followUp(pending, false)
		return part{}, w.failed, err
	}
	w.followUp(pending, true)
	return part{offset: off, chunk: e.chunk, sum: e.sum}, nil, nil
}

// chunkWrite is one attempt to write the fragments of a chunk.
type chunkWrite struct {
	u        *upload
	e        *coded
	at       placement
	results  chan outcome
	inFlight int
	done     int // confirmed
	failed   []objstore.DiskID
	lastErr  error
}

// start begins the write of fragment i to d.
func (w *chunkWrite) start(i int, d *manager.Disk) {
	u, e := w.u, w.e
	f := &e.chunk.Fragments[i]
	f.Disk, f.Unconfirmed = d.ID(), true
	key := objstore.FragmentKey{Namespace: u.s.nsm.Number(), Object: u.id.ID, Chunk: e.chunk.Number, Fragment: uint8(i), Version: f.Version}
	w.inFlight++
	e.buf.Hold()
	src := fragment{fragcache.Key{Fragment: key, Sum: f.Sum}, len(e.shards[i])}
	data := i < w.at.policy.K
	u.s.c.ops.run(func() {
		err := u.s.c.putFragment(u.s.c.ctx, d, src, e.info, e.shards[i], e.sums[i], data)
		e.buf.Release()
		w.results <- outcome{i, d, err}
	})
}

// putFragment writes to a disk and takes note of how it did. keep tells whether reads will ask for the fragment.
func (c *Client) putFragment(ctx context.Context, d *manager.Disk, src fragment, info, data []byte, sums []uint32, keep bool) error {
	dev, done, err := d.Use()
	if err != nil {
		return err
	}
	defer done()
	d.Writing.Add(1)
	defer d.Writing.Add(-1)
	begin := time.Now()
	err = dev.PutFragment(ctx, src.Fragment, info, data, sums)
	if err == nil {
		d.Writes.Add(time.Since(begin))
		if keep && c.o.CacheWrites && c.keeps(dev) {
			c.o.Fragments.Put(src.Key, src.size, 0, data, sums)
		}
	}
	c.o.Disks.Observe(d, err)
	return err
}

// Grace for fragments that are late when enough are durable.
const (
	graceMin = 20 * time.Millisecond
	graceMax = 250 * time.Millisecond
)

// run writes all fragments and returns when all ended, or enough are durable and the others are late.
func (w *chunkWrite) run(ctx context.Context) error {
	begin := time.Now()
	for i, d := range w.at.disks {
		if d != nil {
			w.start(i, d)
		}
	}
	var late <-chan time.Time
	stuck := time.NewTimer(w.u.s.c.o.WriteTimeout)
	defer stuck.Stop()
	for w.inFlight > 0 {
		// When it is decided, either way, those that are still under way get a little longer: most of
		// them are just about to end.
		if decided := w.done >= w.at.policy.C || w.done+w.inFlight < w.at.policy.C; decided && late == nil {
			least := w.u.s.c.o.Grace
			grace := time.NewTimer(min(max(2*time.Since(begin), least), max(least, graceMax)))
			defer grace.Stop()
			late = grace.C
		}
		select {
		case o := <-w.results:
			w.finish(o)
			continue
		case <-late:
		case <-stuck.C:
			w.giveUp()
		case <-ctx.Done():
			return ctx.Err()
		}
		break
	}
	if w.done < w.at.policy.C {
		return fmt.Errorf("%d of %d fragments written, policy %v: %w", w.done, len(w.e.shards), w.at.policy, w.lastErr)
	}
	return nil
}

// giveUp takes disks that do not answer for failed ones.
func (w *chunkWrite) giveUp() {
	for _, f := range w.e.chunk.Fragments {
		if f.Unconfirmed {
			w.failed = append(w.failed, f.Disk)
			w.lastErr = fmt.Errorf("disk %d: no answer for %v", f.Disk, w.u.s.c.o.WriteTimeout)
		}
	}
}

// finish takes one outcome into account, and writes a failed fragment to a spare disk.
func (w *chunkWrite) finish(o outcome) {
	w.inFlight--
	f := &w.e.chunk.Fragments[o.fragment]
	if o.err == nil {
		w.done++
		f.Unconfirmed = false
		return
	}
	w.lastErr = fmt.Errorf("disk %d: %w", o.disk.ID(), o.err)
	w.failed = append(w.failed, o.disk.ID())
	// The write may have happened all the same; then it is garbage of a key that nobody refers to.
	f.Disk, f.Unconfirmed = 0, false
	for i, d := range w.at.spare {
		if d.Writable() && w.fits(d) {
			w.at.spare = slices.Delete(w.at.spare, i, i+1)
			w.start(o.fragment, d)
			return
		}
	}
}

// fits tells whether a fragment on d keeps the limit per node.
func (w *chunkWrite) fits(d *manager.Disk) bool {
	n := 0
	for _, f := range w.e.chunk.Fragments {
		if f.Disk != 0 {
			if node, _ := w.u.s.c.o.Disks.Node(f.Disk); node == d.Node() {
				n++
			}
		}
	}
	return n < w.at.policy.X
}

// written returns the fragments that are durable.
func (w *chunkWrite) written() []nsm.Location {
	var out []nsm.Location
	for i, f := range w.e.chunk.Fragments {
		if f.Present() {
			out = append(out, w.location(i, f.Disk))
		}
	}
	return out
}

func (w *chunkWrite) location(i int, d objstore.DiskID) nsm.Location {
	return nsm.Location{Disk: d, Key: objstore.FragmentKey{Namespace: w.u.s.nsm.Number(), Object: w.u.id.ID,
		Chunk: w.e.chunk.Number, Fragment: uint8(i), Version: w.e.chunk.Fragments[i].Version}}
}
