package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

// nemesis is a kind of fault. One that is under way when the history ends is undone.
type nemesis struct {
	name  string
	needs func(o *options) // what the cluster must have for it
	// strike does it once and undoes it, unless that is left to heal. It returns early when ctx is over.
	strike func(ctx context.Context, h *history, r *rand.Rand) error
}

// nemeses are drawn from, each as often as the others.
var nemeses = []nemesis{
	{"kill", nil, killOne},
	{"kill-all", nil, killAll},
	{"pause", nil, pauseOne},
	{"partition", network, partition},
	{"one-way", network, oneWay},
	{"isolate-leader", network, isolateLeader},
	{"bridge", network, bridge},
	{"stall", func(o *options) { o.loops = true }, stallDisk},
	{"clock", func(o *options) { o.clocks = true }, jumpClock},
	{"members", func(o *options) { o.spares = 2 }, changeMembers},
	{"transfer", nil, transferLeader},
	{"snapshots", func(o *options) { o.flush = 4 << 10 }, killOne},
}

func network(o *options) { o.network = true }

// sleep waits between min and max, or until ctx is over.
func sleep(ctx context.Context, r *rand.Rand, least, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(least + time.Duration(r.Int64N(int64(most-least)))):
	}
}

// victim draws a member: often the one that leads.
func (h *history) victim(ctx context.Context, r *rand.Rand) *node {
	if r.IntN(2) == 0 {
		if n := h.leader(ctx); n != nil {
			return n
		}
	}
	all := h.c.members()
	return all[r.IntN(len(all))]
}

func (h *history) what(ctx context.Context, n *node) string {
	if h.leader(ctx) == n {
		return n.id + ", the leader"
	}
	return n.id
}

func killOne(ctx context.Context, h *history, r *rand.Rand) error {
	n := h.victim(ctx, r)
	h.rec.fault("kill %s", h.what(ctx, n))
	n.kill()
	sleep(ctx, r, 100*time.Millisecond, 2*time.Second)
	h.rec.fault("start %s", n.id)
	n.start()
	return nil
}

func killAll(ctx context.Context, h *history, r *rand.Rand) error {
	h.rec.fault("kill all")
	var w sync.WaitGroup
	for _, n := range h.c.members() {
		w.Go(n.kill)
	}
	w.Wait()
	all := h.c.members()
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, n := range all {
		sleep(ctx, r, 0, 300*time.Millisecond)
		h.rec.fault("start %s", n.id)
		n.start()
	}
	sleep(ctx, r, time.Second, 2*time.Second)
	return nil
}

func pauseOne(ctx context.Context, h *history, r *rand.Rand) error {
	n := h.victim(ctx, r)
	h.rec.fault("stop %s", h.what(ctx, n))
	n.signal(syscall.SIGSTOP)
	sleep(ctx, r, 100*time.Millisecond, 4*time.Second)
	h.rec.fault("continue %s", n.id)
	n.signal(syscall.SIGCONT)
	return nil
}

// heal makes the network whole after a while.
func (h *history) heal(ctx context.Context, r *rand.Rand) error {
	sleep(ctx, r, 200*time.Millisecond, 4*time.Second)
	h.rec.fault("heal")
	return h.c.net.Heal()
}

func partition(ctx context.Context, h *history, r *rand.Rand) error {
	all := h.c.members()
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	cut := 1 + r.IntN(len(all)-1)
	h.rec.fault("partition %s from %s", ids(all[:cut]), ids(all[cut:]))
	for _, a := range all[:cut] {
		for _, b := range all[cut:] {
			if err := h.c.net.Drop(a.host, b.host, true); err != nil {
				return err
			}
		}
	}
	return h.heal(ctx, r)
}

func oneWay(ctx context.Context, h *history, r *rand.Rand) error {
	n := h.victim(ctx, r)
	out := r.IntN(2) == 0
	h.rec.fault("%s, sends=%t: lost on the way to or from the others", h.what(ctx, n), out)
	for _, m := range h.c.members() {
		from, to := m.host, n.host
		if out {
			from, to = to, from
		}
		if err := h.c.net.Drop(from, to, false); err != nil {
			return err
		}
	}
	return h.heal(ctx, r)
}

// isolateLeader cuts the leader off from the others, and often from the clients too.
func isolateLeader(ctx context.Context, h *history, r *rand.Rand) error {
	n := h.leader(ctx)
	if n == nil {
		sleep(ctx, r, 50*time.Millisecond, 100*time.Millisecond)
		return nil
	}
	clients := r.IntN(3) == 0
	h.rec.fault("isolate %s, the leader; from clients: %t", n.id, clients)
	for _, m := range h.c.members() {
		if err := h.c.net.Drop(n.host, m.host, true); err != nil {
			return err
		}
	}
	if clients {
		if err := h.c.net.Drop(n.host, clientHost, true); err != nil {
			return err
		}
	}
	return h.heal(ctx, r)
}

// bridge cuts two members off from each other while both reach the third.
func bridge(ctx context.Context, h *history, r *rand.Rand) error {
	all := h.c.members()
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	h.rec.fault("%s and %s lose touch", all[0].id, all[1].id)
	if err := h.c.net.Drop(all[0].host, all[1].host, true); err != nil {
		return err
	}
	return h.heal(ctx, r)
}

func ids(nodes []*node) string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.id)
	}
	slices.Sort(out)
	return strings.Join(out, "+")
}

func stallDisk(ctx context.Context, h *history, r *rand.Rand) error {
	n := h.victim(ctx, r)
	h.rec.fault("the disk of %s stalls", h.what(ctx, n))
	thaw, err := n.stall()
	if err != nil {
		return err
	}
	sleep(ctx, r, time.Second, 8*time.Second) // a member steps down when its log's sync took too long
	h.rec.fault("the disk of %s goes on", n.id)
	return thaw()
}

func jumpClock(ctx context.Context, h *history, r *rand.Rand) error {
	n := h.victim(ctx, r)
	spans := []time.Duration{time.Second, 10 * time.Second, time.Hour, 25 * time.Hour, 60 * 24 * time.Hour}
	d := spans[r.IntN(len(spans))]
	if r.IntN(2) == 0 {
		d = -d
	}
	h.rec.fault("the clock of %s jumps to %v", h.what(ctx, n), d)
	n.clock.jump(d)
	sleep(ctx, r, 50*time.Millisecond, 500*time.Millisecond)
	return nil
}

func transferLeader(ctx context.Context, h *history, r *rand.Rand) error {
	all := h.c.members()
	n := all[r.IntN(len(all))]
	h.rec.fault("transfer to %s", n.id)
	if err := h.c.admin(ctx, "transfer", storeName, n.id); err != nil {
		h.rec.fault("transfer failed: %v", oneLine(err)) // it may, while another fault is there
	}
	sleep(ctx, r, 0, 500*time.Millisecond)
	return nil
}

// changeMembers adds a node, or removes one.
func changeMembers(ctx context.Context, h *history, r *rand.Rand) error {
	now, all := h.c.members(), h.c.all()
	// What has begun is brought to its end, whatever becomes of the history's time.
	long, cancel := context.WithTimeout(context.WithoutCancel(ctx), harness.Patience(patience))
	defer cancel()
	if len(now) <= h.c.o.nodes && len(all) < h.c.o.nodes+h.c.o.spares {
		h.rec.fault("a node joins")
		n, err := h.c.join(long, len(all)+1)
		if err != nil {
			return fmt.Errorf("join: %w", err)
		}
		h.rec.fault("%s has joined", n.id)
		return nil
	}
	if len(now) <= h.c.o.nodes {
		sleep(ctx, r, 100*time.Millisecond, time.Second)
		return nil
	}
	n := now[r.IntN(len(now))]
	h.rec.fault("remove %s", h.what(ctx, n))
	if err := h.c.admin(long, "remove", n.id); err != nil {
		return fmt.Errorf("remove %s: %w", n.id, err)
	}
	if err := h.c.gone(long, n.id); err != nil {
		return err
	}
	h.rec.fault("%s is out", n.id)
	n.remove()
	return nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
