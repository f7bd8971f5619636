package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gabionfs/gabion/tests/harness"
)

// history is one run of a cluster with clients and faults.
type history struct {
	t      *testing.T
	seed   uint64
	o      options
	faults []nemesis
	c      *cluster
	rec    *record
	work   *workload
	own    *remote // the nemeses' client
	watch  *watch

	mu  sync.Mutex
	err error // of a nemesis
}

// checkLimit is how long the checker may think about one history.
const checkLimit = 2 * time.Minute

// newHistory draws what happens in a history.
func newHistory(t *testing.T, seed uint64) *history {
	r := rand.New(rand.NewPCG(seed, 0))
	h := &history{t: t, seed: seed, o: options{nodes: 3}}
	if r.IntN(6) == 0 {
		h.o.nodes = 5
	}
	if s := os.Getenv("GABION_NEMESES"); s != "" { // of all histories, for a closer look
		for _, f := range nemeses {
			if slices.Contains(strings.Split(s, "+"), f.name) {
				h.faults = append(h.faults, f)
			}
		}
		h.need()
		return h
	}
	for range 1 + r.IntN(2) {
		h.faults = append(h.faults, nemeses[r.IntN(len(nemeses))])
	}
	if len(h.faults) == 2 && h.faults[0].name == h.faults[1].name {
		h.faults = h.faults[:1]
	}
	h.need()
	return h
}

// need gives the cluster what its faults need.
func (h *history) need() {
	for _, f := range h.faults {
		if f.needs != nil {
			f.needs(&h.o)
		}
	}
}

func (h *history) names() string {
	var out []string
	for _, f := range h.faults {
		out = append(out, f.name)
	}
	return strings.Join(out, "+")
}

// run runs the history and checks it.
func (h *history) run(d time.Duration) {
	h.c = startCluster(h.t, h.o)
	h.rec = newRecord()
	h.work = &workload{rec: h.rec, clients: 4, seed: h.seed,
		open: func(n int) (database, error) { return h.c.dial(h.seed + uint64(n)) }}
	var err error
	if h.own, err = h.c.dial(h.seed); err != nil {
		h.t.Fatal(err)
	}
	defer h.own.close()
	defer h.report()

	h.watch = newWatch()
	watching, unwatch := context.WithCancel(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() { h.keep(h.watch.run(watching, h.own)) })
	defer watcher.Wait()
	defer unwatch()

	stop := make(chan struct{})
	var clients, nemeses sync.WaitGroup
	clients.Go(func() { h.keep(h.work.run(stop)) })
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for i, f := range h.faults {
		if h.o.network && h.c.net == nil || f.name == "clock" && !h.o.clocks {
			f.strike = pauseOne // what can be done anywhere
		}
		nemeses.Go(func() { h.torment(ctx, f, rand.New(rand.NewPCG(h.seed, uint64(100+i)))) })
	}
	nemeses.Wait()
	h.recover()
	sleep(context.Background(), rand.New(rand.NewPCG(h.seed, 4)), 300*time.Millisecond, 600*time.Millisecond)
	close(stop)
	clients.Wait()
	h.keep(h.work.finish())
	after, cancel := context.WithTimeout(context.Background(), harness.Patience(patience))
	defer cancel()
	h.keep(h.own.sameEverywhere(after))
	h.keep(h.finishWatch(after))
	h.verdict()
}

// finishWatch writes once more and waits until the watch has delivered that.
func (h *history) finishWatch(ctx context.Context) error {
	last := count{counter: h.work.clients}
	err := h.own.insist(ctx, "the last write", func(ctx context.Context) (err error) {
		last.value++
		last.call = h.rec.now()
		last.index, err = h.own.count(ctx, last.counter, last.value)
		h.rec.count(last, err != nil)
		return err
	})
	if err != nil {
		return err
	}
	return h.own.insist(ctx, "the watch's end", func(context.Context) error {
		if !h.watch.reached(last.index) {
			return fmt.Errorf("it has not come to index %d", last.index)
		}
		return nil
	})
}

// keep keeps the first error.
func (h *history) keep(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && h.err == nil {
		h.err = err
	}
}

// torment lets a nemesis strike again and again.
func (h *history) torment(ctx context.Context, f nemesis, r *rand.Rand) {
	for sleep(ctx, r, 200*time.Millisecond, time.Second); ctx.Err() == nil; sleep(ctx, r, 200*time.Millisecond, 1200*time.Millisecond) {
		if err := f.strike(ctx, h, r); err != nil {
			h.keep(fmt.Errorf("%s: %w", f.name, err))
			return
		}
	}
}

// recover ends all faults.
func (h *history) recover() {
	if h.c.net != nil {
		h.keep(h.c.net.Heal())
	}
	for _, n := range h.c.members() {
		if n.clock != nil {
			n.clock.jump(0)
		}
		n.signal(syscall.SIGCONT)
		n.start()
	}
	h.rec.fault("all faults are over")
}

// leader returns the member that leads, nil when none says so.
func (h *history) leader(ctx context.Context) *node {
	found := make(chan *node, len(h.c.all()))
	var w sync.WaitGroup
	for _, n := range h.c.members() {
		w.Go(func() {
			if h.own.leads(ctx, n) {
				found <- n
			}
		})
	}
	w.Wait()
	select {
	case n := <-found:
		return n
	default:
		return nil
	}
}

// gone waits until a node is no member of the store any more.
func (c *cluster) gone(ctx context.Context, id string) error {
	last := ""
	for ctx.Err() == nil {
		out, err := c.adminOut(ctx, "voters", storeName)
		if voters := strings.Fields(out); err == nil && len(voters) > 0 && !slices.Contains(voters, id) {
			return nil
		}
		last = fmt.Sprint(out, err)
		time.Sleep(100 * time.Millisecond) // between two requests
	}
	return fmt.Errorf("waited in vain until %s is no voter: %s", id, last)
}

// verdict checks what was recorded.
func (h *history) verdict() {
	if h.err != nil {
		h.t.Error(h.err)
	}
	result, info, wrong := h.rec.check(checkLimit)
	wrong = append(wrong, h.watch.check(h.rec.counts)...)
	for _, w := range wrong[:min(len(wrong), 20)] {
		h.t.Error(w)
	}
	if result == porcupine.Ok {
		return
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("gabion-history-%d.html", h.seed))
	if err := porcupine.VisualizePath(registers, info, path); err != nil {
		h.t.Errorf("visualize: %v", err)
		return
	}
	h.t.Logf("the history is drawn in %s", path)
}

// report says what happened, whatever became of it.
func (h *history) report() {
	h.t.Logf("%s, %d nodes: %d operations, %d writes acknowledged, %d of unknown outcome, %d failed",
		h.names(), h.o.nodes, h.rec.total(), h.rec.acked(), h.rec.unknown, h.rec.failed)
	if h.t.Failed() {
		h.t.Logf("why operations failed: %v", h.rec.why)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		status, err := h.c.adminOut(ctx, "status")
		h.t.Logf("the cluster says: %s %v", status, err)
		h.t.Logf("faults, by seconds since the beginning:\n%s", strings.Join(h.rec.faults, "\n"))
	}
}

// TestHistories runs histories, some at a time. Each has its own seed.
func TestHistories(t *testing.T) {
	base := harness.Seed(t)
	histories := harness.Scale(30, 500)
	length := time.Duration(harness.Scale(6, 12)) * time.Second
	harness.Binary(t)
	clockErr := clocksJump()
	if clockErr != nil {
		t.Logf("no clock jumps: %v", clockErr)
	}
	var next, ran, ops, acked, unknown atomic.Int64
	var w sync.WaitGroup
	for range 3 * runtime.GOMAXPROCS(0) { // they mostly wait
		w.Go(func() {
			for i := next.Add(1) - 1; i < int64(histories); i = next.Add(1) - 1 {
				t.Run(fmt.Sprint(i), func(t *testing.T) {
					h := newHistory(t, base+uint64(i))
					h.o.clocks = h.o.clocks && clockErr == nil
					defer func() {
						if t.Failed() {
							t.Logf("replay: GABION_SEED=%d go test -count 1 -run '^TestHistories$/^%d$' ./tests/cluster", base, i)
						}
					}()
					h.run(length)
					ran.Add(1)
					ops.Add(int64(h.rec.total()))
					acked.Add(int64(h.rec.acked()))
					unknown.Add(int64(h.rec.unknown))
				})
			}
		})
	}
	w.Wait()
	t.Logf("%d histories, %d operations, %d writes acknowledged, %d outcomes unknown", ran.Load(), ops.Load(), acked.Load(), unknown.Load())
	if ran.Load() > 0 && acked.Load() == 0 && !t.Failed() {
		t.Error(errors.New("no write was ever acknowledged: nothing was tested"))
	}
}
