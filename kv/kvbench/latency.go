package kvbench

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latencies counts durations in buckets that are at most 1/16 wide. The zero value is empty; safe for
// concurrent use.
type Latencies struct {
	buckets [latencyBuckets]atomic.Uint64
	largest atomic.Int64 // exactly
}

const (
	latencySteps   = 16 // buckets for each power of two
	latencyBuckets = 48 * latencySteps
)

// bucketOf returns the bucket of a number of nanoseconds: the exponent and the four bits behind the first.
func bucketOf(ns uint64) int {
	if ns < latencySteps {
		return int(ns)
	}
	e := bits.Len64(ns) - 5 // so that ns>>e has five bits
	return min((e+1)*latencySteps+int(ns>>e)-latencySteps, latencyBuckets-1)
}

// bucketEnd returns the longest duration in a bucket.
func bucketEnd(b int) uint64 {
	if b < latencySteps {
		return uint64(b)
	}
	e := b/latencySteps - 1
	return (uint64(b%latencySteps)+latencySteps+1)<<e - 1
}

// Add counts one duration.
func (l *Latencies) Add(d time.Duration) {
	l.buckets[bucketOf(uint64(max(d, 0)))].Add(1)
	for {
		old := l.largest.Load()
		if int64(d) <= old || l.largest.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// Count returns how many durations were counted.
func (l *Latencies) Count() (n uint64) {
	for i := range l.buckets {
		n += l.buckets[i].Load()
	}
	return n
}

// Quantile returns the duration that the share q of all did not exceed, rounded up by at most 1/16; 0
// when there is none.
func (l *Latencies) Quantile(q float64) time.Duration {
	rest := uint64(q * float64(l.Count()))
	for i := range l.buckets {
		n := l.buckets[i].Load()
		if n > rest {
			return min(time.Duration(bucketEnd(i)), l.Max())
		}
		rest -= n
	}
	return l.Max()
}

// Max returns the longest duration.
func (l *Latencies) Max() time.Duration { return time.Duration(l.largest.Load()) }
