package client

import (
	"slices"
	"time"
)

// hedge is how long reads wait before they ask other disks, as worked out at some time.
type hedge struct {
	delay time.Duration
	at    time.Time
}

// hedgeDelay is how long a read waits before it asks other disks: longer than 95 of 100 reads of a
// typical disk take, so that a slow disk is overtaken but a busy machine is not asked for more.
func (c *Client) hedgeDelay() time.Duration {
	now := time.Now()
	if h := c.hedge.Load(); h != nil && now.Sub(h.at) < 100*time.Millisecond {
		return h.delay
	}
	h := &hedge{c.o.HedgeMin, now}
	var p95 []time.Duration
	for _, d := range c.o.Disks.Disks() {
		if p := d.Reads.P95(); p > 0 && d.Readable() {
			p95 = append(p95, p)
		}
	}
	if len(p95) > 0 {
		slices.Sort(p95)
		h.delay = min(max(3*p95[(len(p95)-1)/2], c.o.HedgeMin), time.Second)
	}
	c.hedge.Store(h)
	return h.delay
}
