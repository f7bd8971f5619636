package local

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/client"
)

// slowed delays the writes to the ASD in one folder.
type slowed struct {
	Opener
	dir   string
	delay *atomic.Int64
	puts  *atomic.Int64 // of more than a probe
}

type slowDisk struct {
	objstore.CachedDisk
	o slowed
}

func (o slowed) Open(ctx context.Context, dir, want string) (string, objstore.Disk, error) {
	id, d, err := o.Opener.Open(ctx, dir, want)
	if err == nil && dir == o.dir {
		d = slowDisk{d.(objstore.CachedDisk), o}
	}
	return id, d, err
}

func (d slowDisk) PutFragment(ctx context.Context, k objstore.FragmentKey, recovery, data []byte, sums []uint32) error {
	if k.Namespace != 0 {
		d.o.puts.Add(1)
	}
	time.Sleep(time.Duration(d.o.delay.Load()))
	return d.CachedDisk.PutFragment(ctx, k, recovery, data, sums)
}

// TestSlowDisk slows one of eight disks down to 200 ms: soon it gets no writes, everything is read, and when it is
// fast again it is used again.
func TestSlowDisk(t *testing.T) {
	d := dirs(t, 8)
	o := options(memkv.New(), d)
	s := slowed{asdOpener{asd.Options{Cluster: cluster, Capacity: 1 << 30}}, d[3], new(atomic.Int64), new(atomic.Int64)}
	o.Opener, o.Client = s, client.Options{}
	o.Policies = []objstore.Policy{{K: 4, M: 2, C: 5, X: 6}}
	b := open(t, o)
	ns := namespace(t, b)
	all := objects{}
	all.fill(t, ns, 4)
	disk := b.disks.Disks()[3]
	next := 0
	// busy writes a little until cond holds.
	busy := func(what string, cond func() bool) {
		t.Helper()
		waitFor(t, what, func() bool {
			next++
			all.put(t, ns, "busy"+string(rune('a'+next%26))+time.Now().String(), noise(1000+next))
			return cond()
		})
	}
	s.delay.Store(int64(200 * time.Millisecond))
	busy("the disk to be out of use for writers", func() bool { return !disk.Fit() })
	if !disk.Readable() || disk.Writable() {
		t.Fatal("an unfit disk is read from and not written to")
	}
	// What was under way ends; then nothing comes.
	waitFor(t, "the writes that are late", func() bool { return disk.Status().Stragglers == 0 })
	before := s.puts.Load()
	all.fill(t, ns, 10)
	if n := s.puts.Load() - before; n > 0 {
		t.Fatalf("%d writes to an unfit disk", n)
	}
	all.check(t, ns)
	s.delay.Store(0)
	waitFor(t, "the disk to be fit again", disk.Fit)
	before = s.puts.Load()
	busy("writes to the disk", func() bool { return s.puts.Load() > before })
	all.check(t, ns)
}
