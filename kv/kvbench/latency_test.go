package kvbench_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/kvbench"
)

// TestLatencies compares with sorted durations.
func TestLatencies(t *testing.T) {
	var l kvbench.Latencies
	if l.Quantile(.5) != 0 || l.Max() != 0 || l.Count() != 0 {
		t.Error("the empty value is not empty")
	}
	r := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 10000 {
		d := time.Duration(r.Uint64() >> (r.IntN(40) + 20))
		all = append(all, d)
		l.Add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, .01, .5, .9, .99, .999} {
		want := all[int(q*float64(len(all)))]
		if got := l.Quantile(q); got < want || got > want+want/16+1 {
			t.Errorf("quantile %v is %v, want %v or a little more", q, got, want)
		}
	}
	if l.Max() != all[len(all)-1] || l.Quantile(1) != l.Max() || l.Count() != 10000 {
		t.Errorf("max %v, quantile 1 %v, count %d; want %v", l.Max(), l.Quantile(1), l.Count(), all[len(all)-1])
	}
	l.Add(-1)
	l.Add(1 << 62) // longer than the last bucket
	if l.Count() != 10002 || l.Quantile(1) != 1<<62 {
		t.Error("durations at the ends are not counted")
	}
}
