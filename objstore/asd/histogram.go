package asd

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations in buckets whose width is an eighth of their lower end or less, after the idea of
// HdrHistogram: what it tells is at most 12.5% too much. The zero value is empty. Safe for concurrent use.
type Histogram struct {
	counts [histogramBuckets]atomic.Int64
	sum    atomic.Int64
	max    atomic.Int64
}

const (
	histogramUnit    = time.Microsecond
	histogramBuckets = 34 * 8 // up to 2^36 units, 19 hours
)

// bucketOf returns the bucket of n units: eight for each power of two, and one for each number below sixteen.
func bucketOf(n uint64) int {
	if n < 8 {
		return int(n)
	}
	exp := bits.Len64(n) - 4 // n>>exp lies in 8..15
	return min(8*exp+int(n>>exp), histogramBuckets-1)
}

// bucketTop returns the largest number of units in a bucket.
func bucketTop(b int) uint64 {
	if b < 16 {
		return uint64(b)
	}
	exp := b/8 - 1
	return (uint64(b-8*exp)+1)<<exp - 1
}

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d/histogramUnit))].Add(1)
	h.sum.Add(int64(d))
	for {
		old := h.max.Load()
		if int64(d) <= old || h.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// Latency sums a histogram up. Quantiles are at most 12.5% above the truth.
type Latency struct {
	Count                     int64
	Mean, P50, P99, P999, Max time.Duration
}

// Summary returns what was counted so far.
func (h *Histogram) Summary() Latency {
	var counts [histogramBuckets]int64
	l := Latency{Max: time.Duration(h.max.Load())}
	for i := range h.counts {
		counts[i] = h.counts[i].Load()
		l.Count += counts[i]
	}
	if l.Count == 0 {
		return Latency{}
	}
	l.Mean = time.Duration(h.sum.Load() / l.Count)
	quantile := func(num, den int64) time.Duration {
		rest := (l.Count*num + den - 1) / den
		for i, n := range counts {
			if rest -= n; rest <= 0 {
				return min(time.Duration(bucketTop(i)+1)*histogramUnit, l.Max)
			}
		}
		return l.Max
	}
	l.P50, l.P99, l.P999 = quantile(1, 2), quantile(99, 100), quantile(999, 1000)
	return l
}
