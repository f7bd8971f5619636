package manager

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// A disk whose writes take much longer than those of its peers is unfit: it gets no new fragments while the policy
// can be met without it. From then on it is probed with a small write, less and less often, and is fit again
// when several probes in a row were as fast as they should be.
const (
	writeFloor = 100 * time.Millisecond // below it no disk is unfit, whatever its peers do
	writeRatio = 4                      // times the median of the peers
	slowFor    = 2 * time.Second        // that long: all disks have their moments
	firstProbe = time.Second
	lastProbe  = time.Minute
	goodProbes = 3
	// relapse: a disk that is unfit again so soon waits longer than the last time.
	relapse = 5 * time.Minute
)

// fitness is whether a disk is fit for writers. The zero value is fit. Guarded by its disk's lock.
type fitness struct {
	unfit bool
	slow  time.Time     // since when it has been slow; zero: it is not
	good  int           // probes in a row
	wait  time.Duration // until the next probe
	next  time.Time     // no probe before
	until time.Time     // when it became fit the last time
}

// judge takes note of whether the disk is slow now, and makes it unfit when it has been for long enough. It reports
// whether it did.
func (f *fitness) judge(now time.Time, slow bool) bool {
	switch {
	case f.unfit:
		return false
	case !slow:
		f.slow = time.Time{}
		return false
	case f.slow.IsZero():
		f.slow = now
	}
	if now.Sub(f.slow) < slowFor {
		return false
	}
	f.disqualify(now)
	return true
}

// disqualify makes it unfit.
func (f *fitness) disqualify(now time.Time) {
	f.unfit, f.good, f.slow = true, 0, time.Time{}
	if f.wait == 0 || now.Sub(f.until) > relapse {
		f.wait = firstProbe
	} else {
		f.wait = min(2*f.wait, lastProbe)
	}
	f.next = now.Add(f.wait)
}

// probed takes note of a probe, and reports whether it is fit now.
func (f *fitness) probed(now time.Time, good bool) bool {
	if !good {
		f.good = 0
		f.wait = min(2*f.wait, lastProbe)
		f.next = now.Add(f.wait)
		return false
	}
	f.good++
	f.next = now.Add(firstProbe)
	if f.good < goodProbes {
		return false
	}
	f.unfit, f.until = false, now
	return true
}

// JudgeWrites compares how long writes take on the disks that are up, and makes those unfit that take far
// longer than the others. It returns how long a probe may take.
func (m *Manager) JudgeWrites(now time.Time) time.Duration {
	var means []time.Duration
	for _, d := range m.Disks() {
		if w := d.Writes.Mean(); w > 0 && d.Readable() && d.Fit() {
			means = append(means, w)
		}
	}
	limit := writeFloor
	if len(means) > 1 {
		limit = max(limit, writeRatio*medianOf(means))
	}
	for _, d := range m.Disks() {
		// One disk alone is as slow as it is.
		mean := d.Writes.Mean()
		if slow := len(means) > 1 && mean > limit && d.Readable(); d.judge(now, slow) {
			m.log.Warn("disk is slow and gets nothing new", "disk", d.ID(), "dir", d.Dir(), "mean", mean, "allowed", limit)
			m.wake()
		}
	}
	return limit
}

// Fit tells whether the disk's writes are not much slower than those of its peers.
func (d *Disk) Fit() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.fitness.unfit
}

func (d *Disk) judge(now time.Time, slow bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fitness.judge(now, slow)
}

// ProbeWrites writes a little to an unfit disk when it is time to, and makes the disk fit again when it has taken at
// most limit several times in a row. clock is time.Now but in tests. It waits as long as the disk takes.
func (m *Manager) ProbeWrites(ctx context.Context, d *Disk, limit time.Duration, clock func() time.Time) {
	d.mu.Lock()
	due := d.fitness.unfit && !clock().Before(d.fitness.next)
	d.mu.Unlock()
	if !due {
		return
	}
	dev, done, err := d.Use()
	if err != nil {
		return // when it is back, the next one looks
	}
	defer done()
	begin := clock()
	err = probe(ctx, dev)
	took := clock().Sub(begin)
	if ctx.Err() != nil {
		return
	}
	if !errors.Is(err, objstore.ErrFull) { // it has answered
		m.Observe(d, err)
	} else {
		err = nil
	}
	d.mu.Lock()
	fit := d.fitness.probed(clock(), err == nil && took <= limit)
	if fit {
		d.Writes.mean.Store(math.Float64bits(float64(max(took, 1))))
	}
	d.mu.Unlock()
	if fit {
		m.log.Info("disk is no longer slow", "disk", d.ID(), "dir", d.Dir())
		m.wake()
	}
}

// probeKey is of no namespace: those have numbers from 1. What a crash leaves of it the next probe replaces.
var probeKey = objstore.FragmentKey{Object: math.MaxUint64, Chunk: math.MaxUint32}

// probe writes 4 KiB durably, as writers do, and deletes it.
func probe(ctx context.Context, dev objstore.Disk) error {
	p := bufpool.Alloc(bufpool.Align)
	if err := dev.PutFragment(ctx, probeKey, nil, p, crc.Blocks(nil, p)); err != nil {
		return err
	}
	return dev.DeleteFragments(ctx, []objstore.FragmentKey{probeKey})
}
