package local

import (
	"context"
	"sync"
	"time"

	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
)

// safetyCache keeps the result of a survey, which looks at every manifest, for a moment.
type safetyCache struct {
	mu   sync.Mutex
	at   time.Time
	took time.Duration
	list []maint.Safety
}

func (c *safetyCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.Time{}
}

// Safety returns how many objects can lose how many more fragments, as the disks are now, least safe
// first. While every disk is up it comes from the counters; otherwise all manifests are looked at, no
// more often than a twentieth of the time.
func (b *Backend) Safety(ctx context.Context) ([]maint.Safety, error) {
	for _, d := range b.disks.Disks() {
		if s := d.Status(); s.State != manager.Up || s.Admin != manager.Active {
			return b.surveyed(ctx)
		}
	}
	var out []maint.Safety
	at := make(map[[2]int]int)
	for _, ns := range b.list() {
		counters, err := ns.NSM().Counters(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range counters {
			i, ok := at[[2]int{c.Spare, c.Full}]
			if !ok {
				i = len(out)
				at[[2]int{c.Spare, c.Full}] = i
				out = append(out, maint.Safety{Spare: c.Spare, Full: c.Full})
			}
			out[i].Objects += c.Objects
			out[i].Bytes += c.Bytes
		}
	}
	maint.SortSafety(out)
	return out, nil
}

func (b *Backend) surveyed(ctx context.Context) ([]maint.Safety, error) {
	c := &b.safety
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < 20*c.took {
		return c.list, nil
	}
	begin := time.Now()
	list, err := b.maint.Safety(ctx)
	if err != nil {
		return nil, err
	}
	c.list, c.at, c.took = list, time.Now(), time.Since(begin)
	return list, nil
}
