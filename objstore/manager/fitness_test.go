package manager

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/internal/testclock"
)

// pacedDisk takes as long as pace says, on the clock.
type pacedDisk struct {
	*disktest.Disk
	clock *testclock.Clock
	pace  time.Duration
	err   error
	puts  int
}

func (d *pacedDisk) PutFragment(ctx context.Context, k objstore.FragmentKey, recovery, data []byte, sums []uint32) error {
	d.puts++
	d.clock.Add(d.pace)
	if d.err != nil {
		return d.err
	}
	return d.Disk.PutFragment(ctx, k, recovery, data, sums)
}

func TestFitness(t *testing.T) {
	ctx := context.Background()
	clock := testclock.New(time.Unix(1_000_000, 0))
	m := openManager(t, memkv.New())
	paced := &pacedDisk{Disk: disktest.New(0), clock: clock, pace: 200 * time.Millisecond}
	slow, err := m.Attach(ctx, "slow", "/slow", "node", paced)
	if err != nil {
		t.Fatal(err)
	}
	var others []*Disk
	for _, name := range []string{"a", "b", "c"} {
		others = append(others, attach(t, m, name, "/"+name))
	}
	// tick is one look of the watch a second.
	tick := func() {
		clock.Add(time.Second)
		limit := m.JudgeWrites(clock.Now())
		for _, d := range m.Disks() {
			m.ProbeWrites(ctx, d, limit, clock.Now)
		}
	}
	write := func(d *Disk, took time.Duration, n int) {
		for range n {
			d.Writes.Add(took)
		}
	}
	for _, d := range others {
		write(d, 5*time.Millisecond, 50)
	}
	write(slow, 5*time.Millisecond, 50)
	tick()
	// A moment of slowness is nothing, nor is one that ends in time.
	write(slow, 300*time.Millisecond, 20)
	tick()
	tick()
	if !slow.Writable() {
		t.Fatal("out of use after a moment")
	}
	write(slow, 5*time.Millisecond, 100)
	tick()
	write(slow, 200*time.Millisecond, 100)
	tick()
	tick()
	if !slow.Writable() {
		t.Fatal("what was before counts")
	}
	tick()
	if slow.Writable() || !slow.Busy() || !slow.Readable() || slow.Fit() || !slow.Status().Slow {
		t.Fatal("the slow disk is written to")
	}
	for _, d := range others {
		if !d.Writable() {
			t.Fatal("another disk is not written to")
		}
	}
	// It is probed less and less often while it is slow.
	var at []int
	for i := range 300 {
		before := paced.puts
		tick()
		if paced.puts > before {
			at = append(at, i)
		}
	}
	if n := len(at); n < 6 || n > 12 || at[n-1]-at[n-2] < 50 {
		t.Fatalf("probed at seconds %v", at)
	}
	// An error is no better than slowness.
	paced.pace, paced.err = time.Millisecond, errors.New("I/O error")
	before := paced.puts
	for range 120 {
		tick()
	}
	if slow.Fit() || paced.puts-before > 2 || !slow.Readable() {
		t.Fatalf("fit by %d probes that failed", paced.puts-before)
	}
	// Then it is fast: fit after a few good probes in a row.
	paced.err = nil
	before = paced.puts
	for range 60 {
		tick()
	}
	if !slow.Fit() || !slow.Writable() || slow.Busy() || paced.puts-before != goodProbes || slow.Status().Slow {
		t.Fatalf("after %d good probes: fit %v", paced.puts-before, slow.Fit())
	}
	if slow.Writes.Mean() > 10*time.Millisecond {
		t.Fatalf("mean %v: what was is remembered", slow.Writes.Mean())
	}
	if len(paced.Keys()) != 0 {
		t.Fatal("a probe was left on the disk")
	}
	// Slow again soon: the first probe comes later than the last time.
	wait := slow.fitness.wait
	write(slow, 200*time.Millisecond, 100)
	for range 4 {
		tick()
	}
	if slow.Fit() || slow.fitness.wait < wait || slow.fitness.wait == firstProbe {
		t.Fatalf("waits %v after %v", slow.fitness.wait, wait)
	}
}

// TestFitnessAlone has one disk, and disks that are all alike: none of them is slow.
func TestFitnessAlone(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	m := openManager(t, memkv.New())
	a := attach(t, m, "a", "/a")
	judge := func() {
		for range 10 {
			now = now.Add(time.Second)
			m.JudgeWrites(now)
		}
	}
	a.Writes.Add(time.Minute)
	judge()
	b := attach(t, m, "b", "/b")
	b.Writes.Add(30 * time.Second)
	judge()
	if !a.Fit() || !b.Fit() {
		t.Fatal("disks that are all slow are unfit")
	}
}
