package raftkv

import (
	"testing"
	"time"
)

// TestHolds: the log stays from a snapshot on until its member has what came meanwhile.
func TestHolds(t *testing.T) {
	var h holds
	expect := func(what string, bytes int64, want uint64) {
		t.Helper()
		if got := h.first(bytes); got != want {
			t.Errorf("%s: the log stays from %d on, want %d", what, got, want)
		}
	}
	expect("nothing is sent", 0, 0)
	a, b := h.add(11, 1000), h.add(21, 5000)
	h.to(a, "a")
	h.to(b, "b")
	expect("two are sent", 900, 11)
	expect("the log is larger than one", 1000, 21)
	expect("the log is larger than both", 5000, 0)
	h.advance("a", 30)
	expect("what raft sends before the snapshot does not count", 0, 11)
	h.sent(a, 40)
	h.advance("a", 5)
	expect("what came before the snapshot", 0, 11)
	h.advance("a", 15)
	expect("on the way", 0, 16)
	h.advance("b", 39)
	expect("another member", 0, 16)
	h.advance("a", 39)
	expect("nearly there", 0, 21)
	h.advance("a", 40)
	h.drop(b)
	expect("all done", 0, 0)

	c := h.add(51, 1000)
	h.to(c, "c")
	h.sent(c, 50)
	expect("nothing came meanwhile", 0, 51)
	h.advance("c", 50)
	expect("and the member says so", 0, 0)

	d := h.add(61, 1000)
	h.sent(d, 70)
	d.expiry = time.Now().Add(-time.Second)
	expect("given up", 0, 0)
	if len(h.list) != 0 {
		t.Errorf("%d are left", len(h.list))
	}
}
