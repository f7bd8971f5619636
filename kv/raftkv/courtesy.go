package raftkv

import "time"

// courtesy makes a copy of much data give way to updates. As long as there are any, it rests as long as it
// works; and, unless it is urgent, longer while they wait for the log's disk or the flusher. It never stops altogether: a rest that
// took longer than it was to, because the machine has much to do, counts for the next ones.
type courtesy struct {
	store  *Store
	urgent bool          // something else waits for the copy
	since  int           // bytes copied since the last rest
	began  time.Time     // when it went on after that
	owed   time.Duration // rest that was not taken yet; negative: taken in advance
	seq    uint64        // of the last transaction at that time
}

const (
	// shortRest and longRest bound the rest after copyBytes, so a copy makes 40 MB a second at least, if the disk does.
	shortRest = 5 * time.Millisecond
	longRest  = 25 * time.Millisecond
	// slowSync is how long a sync of the log takes when the disk is asked for too much.
	slowSync = 10 * time.Millisecond
)

// done notes that n bytes were copied.
func (c *courtesy) done(n int) { c.since += n }

// giveWay rests when it is time to. Its error says that the store stops.
func (c *courtesy) giveWay() error {
	now := time.Now()
	if c.began.IsZero() {
		c.began = now
	}
	if c.since < copyBytes {
		return nil
	}
	c.owed += c.due(now.Sub(c.began))
	if c.owed > 0 {
		if !c.store.sleep(c.owed) {
			return c.store.closedError()
		}
		c.owed -= time.Since(now)
	}
	c.since, c.began = 0, time.Now()
	return nil
}

// due returns how long to rest after work that took so long.
func (c *courtesy) due(worked time.Duration) time.Duration {
	s := c.store
	s.mu.Lock()
	idle := s.seq == c.seq
	pressed := !s.pace.next.IsZero() || s.flushing != nil && s.active.bytes > s.room()/4*3
	c.seq = s.seq
	s.mu.Unlock()
	if idle {
		return 0
	}
	if since := s.wal.Busy(); !since.IsZero() && time.Since(since) > slowSync {
		pressed = true
	}
	if pressed && !c.urgent {
		return longRest
	}
	return min(worked, shortRest)
}
