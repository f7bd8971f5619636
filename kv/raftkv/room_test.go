package raftkv

import (
	"testing"
	"time"
)

// simulatePace lets a closed loop of updates into a table through a pacer while a flusher makes progress at rate with stalls, and
// returns the longest delay and how far the table grew over its room.
func simulatePace(rate float64, update int64, slack, stall time.Duration) (longest time.Duration, over int64) {
	const step = 8 << 20
	begin := time.Unix(1e9, 0)
	now, next := begin, begin
	p := pacer{last: begin, rate: rate}
	var active, most int64
	room := int64(step)
	part := time.Duration(step / rate * float64(time.Second))
	next = now.Add(part)
	for n := 0; now.Sub(begin) < 2*time.Minute; {
		for !now.Before(next) {
			p.flushed(step, next)
			room += step
			if n++; n%10 == 0 {
				next = next.Add(part + stall)
			} else {
				next = next.Add(part)
			}
		}
		if d := p.next.Sub(now); d > 0 && !p.next.IsZero() {
			longest = max(longest, d)
			now = now.Add(d)
		}
		active += update
		now = now.Add(50 * time.Microsecond)
		p.admitted(update, float64(active-room)/(float64(rate)*slack.Seconds()), now)
		most = max(most, active-room)
	}
	return longest, most
}

// TestPacer: updates that come faster than they are flushed wait a little each, and none for the flusher, even when that
// stalls now and then.
func TestPacer(t *testing.T) {
	const rate = 5e6
	for _, stall := range []time.Duration{0, time.Second, 3 * time.Second} {
		longest, over := simulatePace(rate, 2500, 10*time.Second, stall)
		if longest > 20*time.Millisecond {
			t.Errorf("with stalls of %v: an update was delayed by %v", stall, longest)
		}
		if over >= 10*rate {
			t.Errorf("with stalls of %v: the table grew %d bytes over its room", stall, over)
		}
	}
}

func TestPacerIsIdle(t *testing.T) {
	now := time.Unix(1e9, 0)
	var p pacer
	if p.admitted(1000, .5, now); !p.next.IsZero() {
		t.Error("it paces before it knows a rate")
	}
	p.last = now
	p.flushed(1e6, now.Add(time.Second))
	if p.admitted(1000, 0, now); !p.next.IsZero() {
		t.Error("it paces while there is room")
	}
	p.admitted(1<<30, .99, now)
	if d := p.next.Sub(now); d != maxPace {
		t.Errorf("a large update delays others by %v, want %v", d, maxPace)
	}
	if p.admitted(1, -1, now); !p.next.IsZero() {
		t.Error("it goes on when there is room again")
	}
}
