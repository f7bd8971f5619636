package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/tests/harness"
)

const powerSpace = kv.Keyspace("power")

// writer writes keys of its own, one after the other, and knows which were acknowledged.
type writer struct {
	n     int
	begun int // keys below may be there
	acked map[int]bool
}

func (w *writer) key(i int) []byte { return fmt.Appendf(nil, "%02d/%08d", w.n, i) }

func (w *writer) value(i int) []byte { return fmt.Appendf(nil, "%d of writer %d", i, w.n) }

// run writes until stop is closed. What was not acknowledged is left as it is.
func (w *writer) run(d *remote, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(2 * time.Millisecond): // a load, not a benchmark
		}
		ctx, cancel := context.WithTimeout(context.Background(), opLimit)
		err := d.store.Set(ctx, kv.Durable, powerSpace, w.key(w.begun), w.value(w.begun))
		cancel()
		w.acked[w.begun] = err == nil
		w.begun++
	}
}

// check reads back what the writers wrote.
func (c *cluster) checkPower(ctx context.Context, d *remote, writers []*writer) (acked int, err error) {
	for _, w := range writers {
		found := map[string]string{}
		err := d.insist(ctx, "read everything", func(ctx context.Context) error {
			clear(found)
			return d.store.Scan(ctx, powerSpace, kv.Prefix(fmt.Appendf(nil, "%02d/", w.n)), kvrpc.RangeOptions{}, func(k, v []byte) bool {
				found[string(k)] = string(v)
				return true
			})
		})
		if err != nil {
			return acked, err
		}
		for i := range w.begun {
			v, ok := found[string(w.key(i))]
			switch {
			case ok && v != string(w.value(i)):
				return acked, fmt.Errorf("%s is %q", w.key(i), v)
			case !ok && w.acked[i]:
				return acked, fmt.Errorf("%s was acknowledged and is lost, of %d keys", w.key(i), w.begun)
			}
			if w.acked[i] {
				acked++
			}
			delete(found, string(w.key(i)))
		}
		if len(found) > 0 {
			return acked, fmt.Errorf("keys that nobody wrote: %v", found)
		}
	}
	return acked, nil
}

// powerCut ends a node as a power failure does: nothing more reaches its disk. It may live on for a moment,
// and must not promise anything then.
func (n *node) powerCut(alive time.Duration) {
	n.loop.Cut()
	time.Sleep(alive)
	n.kill()
	n.loop.Remount()
}

// TestPowerCut cuts the power of each member, and of all at once, while clients write. Nothing that was
// acknowledged is lost, and the members agree.
func TestPowerCut(t *testing.T) {
	seed := harness.Seed(t)
	r := rand.New(rand.NewPCG(seed, 0))
	c := startCluster(t, options{nodes: 3, loops: true, flush: 16 << 10})
	d, err := c.dial(seed)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	var writers []*writer
	for n := range 4 {
		writers = append(writers, &writer{n: n, acked: map[int]bool{}})
	}
	rounds := harness.Scale(5, 60)
	for round := range rounds {
		stop := make(chan struct{})
		var w sync.WaitGroup
		for _, wr := range writers {
			w.Go(func() { wr.run(d, stop) })
		}
		time.Sleep(200*time.Millisecond + time.Duration(r.Int64N(int64(800*time.Millisecond)))) // any moment is right
		victims := c.members()
		switch k := round % 5; k {
		case 3: // all at once
		case 4:
			r.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
			victims = victims[:2]
		default:
			victims = victims[k : k+1]
		}
		var cuts sync.WaitGroup
		for _, n := range victims {
			alive := time.Duration(r.Int64N(int64(300 * time.Millisecond)))
			cuts.Go(func() { n.powerCut(alive) })
		}
		cuts.Wait()
		for _, n := range victims {
			n.start()
		}
		close(stop)
		w.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(patience))
		acked, err := c.checkPower(ctx, d, writers)
		err = errors.Join(err, d.sameEverywhere(ctx))
		cancel()
		t.Logf("round %d: power cut of %s; %d keys are acknowledged", round, ids(victims), acked)
		if err != nil {
			t.Fatal(err)
		}
		if acked == 0 {
			t.Fatal("nothing was acknowledged: nothing was tested")
		}
	}
}
