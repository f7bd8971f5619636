package asd

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWindow(t *testing.T) {
	at := func(h, m int) time.Time { return time.Date(2026, 3, 4, h, m, 0, 0, time.UTC) }
	var first, late ID
	late[0] = 59 // seconds of a splay, little-endian
	for _, c := range []struct {
		w     Window
		id    ID
		now   time.Time
		open  bool
		until time.Time
	}{
		{Window{}, first, at(0, 0), true, at(4, 0)},
		{Window{}, first, at(3, 59), true, at(4, 0)},
		{Window{}, first, at(4, 0), false, at(24, 0)},
		{Window{From: 22 * time.Hour}, first, at(1, 0), true, at(2, 0)},
		{Window{From: 22 * time.Hour}, first, at(2, 0), false, at(22, 0)},
		{Window{From: 22 * time.Hour}, first, at(23, 0), true, at(26, 0)},
		{Window{From: 46 * time.Hour}, first, at(23, 0), true, at(26, 0)},
		{Window{From: time.Hour, Length: time.Hour}, first, at(1, 30), true, at(2, 0)},
		{Window{From: time.Hour, Length: 24 * time.Hour}, first, at(0, 30), true, at(24, 30)},
		{Window{From: time.Hour, Length: time.Hour, Splay: 60}, late, at(1, 0), false, at(1, 0).Add(59)},
		{Window{From: time.Hour, Length: time.Hour, Splay: 60}, late, at(1, 0).Add(59), true, at(2, 0)},
	} {
		open, until := c.w.state(c.now, c.id)
		if open != c.open || !until.Equal(c.until) {
			t.Errorf("%+v at %v: open %v until %v, want %v until %v", c.w, c.now, open, until, c.open, c.until)
		}
	}
}

// TestWindowProperties: what holds for every window and every moment.
func TestWindowProperties(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		zone = time.UTC
	}
	rapid.Check(t, func(rt *rapid.T) {
		minutes := func(name string, n int) time.Duration {
			return time.Duration(rapid.IntRange(0, n).Draw(rt, name)) * time.Minute
		}
		w := Window{From: minutes("from", 2000), Length: minutes("length", 1500), Splay: minutes("splay", 600)}
		var id ID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(rt, "id"))
		now := time.Date(2026, 3, 25, 0, 0, 0, 0, zone).Add(minutes("now", 10*24*60)) // the clocks change meanwhile
		open, until := w.state(now, id)
		if !until.After(now) {
			rt.Fatalf("at %v the state is said to last until %v", now, until)
		}
		if until.Sub(now) > 26*time.Hour {
			rt.Fatalf("at %v nothing changes until %v", now, until)
		}
		if before, _ := w.state(until.Add(-1), id); before != open {
			rt.Fatalf("open %v at %v, and not the same just before %v", open, now, until)
		}
		if after, _ := w.state(until, id); w.Length < 23*time.Hour && after == open { // longer ones meet when a day has 23 hours
			rt.Fatalf("open %v at %v and still so at %v", open, now, until)
		}
	})
}

// TestScheduled: nothing is compacted before the window opens, and everything after.
func TestScheduled(t *testing.T) {
	var hour atomic.Int64 // of the clock
	hour.Store(12)
	now := func() time.Time { return time.Date(2026, 3, 4, int(hour.Load()), 0, 0, 0, time.UTC) }
	a := mustOpen(t, newDir(t), Options{SegmentSize: 1 << 20, Compaction: Compaction{
		Mode: CompactScheduled, Window: Window{From: 2 * time.Hour}, Rate: -1, PoolDelay: time.Millisecond, Now: now}})
	for i := range 40 {
		put(t, a, fmt.Sprint(i), payload(100<<10, uint64(i)))
	}
	for i := range 40 {
		if i%4 != 0 {
			del(t, a, fmt.Sprint(i))
		}
	}
	rounds := a.counters.rounds.Load()
	for end := time.Now().Add(time.Minute); a.counters.rounds.Load() < rounds+3; time.Sleep(time.Millisecond) {
		a.wake()
		if time.Now().After(end) {
			t.Fatal("maintenance does not run")
		}
	}
	if n := a.Stat().Compactions; n != 0 {
		t.Fatalf("%d segments were compacted outside of the window", n)
	}
	hour.Store(3)
	for end := time.Now().Add(time.Minute); a.Stat().GarbageRatio() > 0.5 || a.Stat().Compactions == 0; time.Sleep(time.Millisecond) {
		a.wake()
		if time.Now().After(end) {
			t.Fatalf("in the window for a minute: %+v", a.Stat())
		}
	}
	for i := 0; i < 40; i += 4 {
		check(t, a, fmt.Sprint(i), payload(100<<10, uint64(i)))
	}
}

func TestHistogram(t *testing.T) {
	for n := range uint64(1 << 16) {
		b := bucketOf(n)
		if top := bucketTop(b); n > top || b > 0 && n <= bucketTop(b-1) {
			t.Fatalf("%d is in bucket %d, which ends at %d", n, b, top)
		}
	}
	for b := range histogramBuckets {
		if got := bucketOf(bucketTop(b)); got != b {
			t.Fatalf("the last of bucket %d is in bucket %d", b, got)
		}
	}
	var h Histogram
	if l := h.Summary(); l != (Latency{}) {
		t.Fatalf("empty: %+v", l)
	}
	for i := range 1000 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	h.Add(-1)
	h.Add(1 << 62)
	l := h.Summary()
	near := func(got, want time.Duration) bool { return got >= want && got <= want+want/7 }
	if l.Count != 1002 || !near(l.P50, 500*time.Millisecond) || !near(l.P99, 991*time.Millisecond) || l.Max != 1<<62 {
		t.Fatalf("%+v", l)
	}
}

// TestYield: the background waits while the foreground is busy, not for ever, and goes on when it pauses.
func TestYield(t *testing.T) {
	a := mustOpen(t, newDir(t), Options{})
	ctx := Background(t.Context())
	put(t, a, "k", payload(1000, 1))
	before := a.Stat()
	if before.ApplyTime.Count != 1 || before.Yields != 0 {
		t.Fatalf("%+v", before)
	}
	op, err := a.enter(t.Context(), &a.counters.read)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Get(ctx, []byte("k"), nil); err != nil { // though the foreground never pauses
		t.Fatal(err)
	}
	st := a.Stat()
	if st.Yields != 1 || st.ReadTime.Count != 0 {
		t.Fatalf("%+v", st)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.Get(cancelled, []byte("k"), nil); err == nil {
		t.Fatal("a read whose context ended went on")
	}
	done := make(chan error)
	go func() {
		_, err := a.Get(ctx, []byte("k"), nil)
		done <- err
	}()
	op.end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if st := a.Stat(); st.ReadTime.Count != 1 {
		t.Fatalf("%+v", st)
	}
}
