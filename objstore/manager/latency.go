package manager

import (
	"math"
	"sync/atomic"
	"time"
)

// Latency estimates how long operations take, without locks. The zero value is ready.
type Latency struct {
	p95  atomic.Uint64 // float64 bits, nanoseconds
	mean atomic.Uint64 // of the recent past
	slow atomic.Bool
}

// Add takes one operation into account.
func (l *Latency) Add(d time.Duration) {
	x := float64(max(d, 1))
	p := math.Float64frombits(l.p95.Load())
	switch {
	case p == 0:
		p = 2 * x
	case x > p:
		// Steps up are 19 times as long as steps down: they balance where 5 of 100 lie above.
		p *= 1.19
	default:
		p *= 0.99
	}
	l.p95.Store(math.Float64bits(p)) // two at once lose one observation, which does not matter
	m := math.Float64frombits(l.mean.Load())
	if m == 0 {
		m = x
	}
	l.mean.Store(math.Float64bits(m + (x-m)/16))
}

// P95 returns the estimate below which 95 of 100 operations stay; 0 when nothing is known.
func (l *Latency) P95() time.Duration {
	return time.Duration(math.Float64frombits(l.p95.Load()))
}

// Mean returns the average of the recent past; 0 when nothing is known.
func (l *Latency) Mean() time.Duration {
	return time.Duration(math.Float64frombits(l.mean.Load()))
}

// Slow tells whether the disk was judged to be much slower than its peers.
func (l *Latency) Slow() bool { return l.slow.Load() }

// slowFloor is below what no disk is called slow, whatever its peers do.
const slowFloor = 20 * time.Millisecond

// JudgeReads compares disks with each other: one that takes four times as long as the median of all
// that are up, and noticeably long, is slow. A slow disk's memory fades, so that it gets another chance.
func JudgeReads(disks []*Disk) {
	var means []time.Duration
	for _, d := range disks {
		if m := d.Reads.Mean(); m > 0 && d.Readable() {
			means = append(means, m)
		}
	}
	if len(means) == 0 {
		return
	}
	median := medianOf(means)
	for _, d := range disks {
		m := d.Reads.Mean()
		slow := m > slowFloor && m > 4*median
		if d.Reads.slow.Load() && slow {
			d.Reads.mean.Store(math.Float64bits(float64(m) * 0.9))
		}
		d.Reads.slow.Store(slow)
	}
}

func medianOf(v []time.Duration) time.Duration {
	for i := range v { // a handful: insertion sort
		for j := i; j > 0 && v[j] < v[j-1]; j-- {
			v[j], v[j-1] = v[j-1], v[j]
		}
	}
	return v[(len(v)-1)/2]
}
