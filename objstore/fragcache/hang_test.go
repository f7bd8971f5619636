package fragcache

import (
	"context"
	"testing"
	"time"
)

// TestHangingDisk: a disk that does not answer makes misses, in bounded time and with bounded goroutines.
func TestHangingDisk(t *testing.T) {
	o := Options{Dir: t.TempDir(), Patience: time.Millisecond}
	c := open(t, o)
	p := content(1, PageSize)
	c.Put(keyOf(1, p), len(p), 0, p, nil)
	settle(t, c)
	release := make(chan struct{})
	c.folder.tested = func() { <-release }
	got := make([]byte, len(p))
	if c.Get(context.Background(), keyOf(1, p), 0, got) {
		t.Fatal("it was read from a disk that hangs")
	}
	s := c.Stat()
	if s.Late != 1 || s.LastError == "" || c.Has(keyOf(1, p), 0, 1) {
		t.Fatalf("%+v", s)
	}
	for range 1000 { // nobody waits while it is known
		if c.Get(context.Background(), keyOf(1, p), 0, got) {
			t.Fatal("it was read from a disk that hangs")
		}
	}
	if n := len(c.folder.reads); n != 1 {
		t.Fatalf("%d reads are under way", n)
	}
	close(release)
	for len(c.folder.reads) > 0 {
		time.Sleep(time.Millisecond)
	}
	c.folder.readsOff.until = time.Time{} // its time has passed
	c.folder.o.Patience = time.Minute
	want(t, c, 1, p, 0, len(p), true)
	shut(t, c)
}

// TestPauses: something that fails again and again is tried less and less often.
func TestPauses(t *testing.T) {
	var p pause
	if p.now() {
		t.Fatal("it has not begun")
	}
	var waits []time.Duration
	for range 8 {
		p.begin()
		if !p.now() {
			t.Fatal("it has begun")
		}
		p.begin() // at once again: the same
		waits = append(waits, p.wait)
		p.until = time.Now().Add(-time.Millisecond)
	}
	if waits[0] != firstPause || waits[1] != 2*firstPause || waits[7] != lastPause {
		t.Fatal(waits)
	}
}
