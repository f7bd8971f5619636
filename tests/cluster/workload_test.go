package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// database is a client of a store, as the workload needs it.
type database interface {
	// do runs an operation on registers. The error of a write matches kv.ErrUnknownOutcome when it may have
	// happened, or happens yet; with any other error it has not.
	do(ctx context.Context, in input) (output, error)
	// count sets a counter and returns the write's index.
	count(ctx context.Context, counter int, value int64) (uint64, error)
	// session reads a counter at some member, at least as of an index.
	session(ctx context.Context, counter int, min uint64) (seen, error)
	// stale reads a counter at some member.
	stale(ctx context.Context, counter int) (seen, error)
	// strong reads a counter linearizably.
	strong(ctx context.Context, counter int) (seen, error)
	close()
}

// seen is the answer to a read that is not linearizable.
type seen struct {
	value  int64
	index  uint64 // everything up to it is shown
	shown  uint64 // nothing after it is shown
	age    time.Duration
	member string
}

const (
	opLimit   = 3 * time.Second // an operation is given up after that
	perHandle = 40              // operations of a group before the clients move on to the next one
	thinkTime = 12 * time.Millisecond
)

// workload is a number of clients that work on a store and write down what they see.
type workload struct {
	rec     *record
	clients int
	seed    uint64
	open    func(client int) (database, error)
	think   time.Duration // 0 is thinkTime

	begun atomic.Int64 // operations on registers
}

// group returns the group to work on: two are in use at a time.
func (w *workload) group(r *rand.Rand) int {
	n := int(w.begun.Add(1)) / perHandle
	return max(0, n-r.IntN(2))
}

// run works until stop is closed. It returns the first error of opening a client.
func (w *workload) run(stop <-chan struct{}) error {
	var wg sync.WaitGroup
	errs := make(chan error, w.clients)
	for n := range w.clients {
		wg.Go(func() {
			db, err := w.open(n)
			if err != nil {
				errs <- err
				return
			}
			defer db.close()
			c := &client{w: w, n: n, db: db, r: rand.New(rand.NewPCG(w.seed, uint64(n)))}
			for !c.rest(stop) {
				c.act()
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// client is one session: its operations come one after the other.
type client struct {
	w    *workload
	n    int
	db   database
	r    *rand.Rand
	last [perGroup]int64 // of the group that it saw last
	at   int             // that group
	next int64           // value of its writes
	mine int64           // its counter
	min  uint64          // index of its session
}

// rest waits between two operations and reports whether it is time to stop.
func (c *client) rest(stop <-chan struct{}) bool {
	think := c.w.think
	if think == 0 {
		think = thinkTime
	}
	select {
	case <-stop:
		return true
	case <-time.After(time.Duration(c.r.Int64N(int64(2*think) + 1))):
		return false
	}
}

func (c *client) act() {
	switch p := c.r.IntN(20); {
	case p < 12:
		c.register()
	case p < 15:
		c.count()
	case p < 17:
		c.look(glanceSession)
	case p < 18:
		c.look(glanceStrong)
	default:
		c.look(glanceStale)
	}
}

// value returns a value that no other write has.
func (c *client) value() int64 {
	c.next++
	return int64(c.n+1)<<32 | c.next
}

// register runs one operation on a group.
func (c *client) register() {
	g := c.w.group(c.r)
	if g != c.at {
		c.at, c.last = g, [perGroup]int64{}
	}
	in := input{Group: g, Kind: opKind(c.r.IntN(int(opSpread) + 1)), Key: c.r.IntN(perGroup)}
	in.Expect = c.last[in.Key]
	if !in.Kind.reads() {
		in.Value = c.value()
		if in.Kind == opSet && c.r.IntN(8) == 0 {
			in.Value = 0
		}
	}
	c.apply(in)
}

func (c *client) apply(in input) {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	call := c.w.rec.now()
	out, err := c.db.do(ctx, in)
	switch {
	case err == nil:
	case !in.Kind.reads() && errors.Is(err, kv.ErrUnknownOutcome):
		out = output{Unknown: true}
	default:
		c.w.rec.fail(err)
		return
	}
	c.w.rec.op(c.n, call, in, out)
	c.learn(in, out)
}

// learn remembers what the group looks like, so that conditions sometimes hold.
func (c *client) learn(in input, out output) {
	k := in.Key
	switch {
	case out.Unknown:
	case in.Kind == opGet, in.Kind == opSwap && !out.Applied:
		c.last[k] = out.Prev
	case in.Kind == opGetAll:
		c.last = out.Saw
	case in.Kind == opMove && out.Applied:
		c.last[k], c.last[(k+1)%perGroup] = 0, in.Value
	case in.Kind == opSpread && out.Applied:
		c.last = [perGroup]int64{in.Value, in.Value, in.Value}
	case in.Kind == opSet, in.Kind == opReplace, out.Applied:
		c.last[k] = in.Value
	}
}

// count writes the next value of the client's own counter.
func (c *client) count() {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	c.mine++
	w := count{counter: c.n, value: c.mine, call: c.w.rec.now()}
	var err error
	w.index, err = c.db.count(ctx, w.counter, w.value)
	unknown := errors.Is(err, kv.ErrUnknownOutcome)
	if err != nil && !unknown {
		c.w.rec.fail(err)
		return
	}
	c.w.rec.count(w, unknown)
	if err == nil {
		c.min = max(c.min, w.index)
	}
}

// look reads some counter.
func (c *client) look(kind glanceKind) {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	g := glance{session: c.n, counter: c.r.IntN(c.w.clients), kind: kind, call: c.w.rec.now()}
	var s seen
	var err error
	switch kind {
	case glanceStale:
		s, err = c.db.stale(ctx, g.counter)
	case glanceStrong:
		s, err = c.db.strong(ctx, g.counter)
	default:
		g.min = c.min
		s, err = c.db.session(ctx, g.counter, c.min)
	}
	if err != nil {
		c.w.rec.fail(err)
		return
	}
	g.value, g.index, g.age, g.member = s.value, s.index, s.age, s.member
	c.w.rec.glance(g)
	if kind != glanceStale {
		c.min = max(c.min, s.shown)
	}
}

// finish reads everything once more when the faults are over, so that what was lost is missed.
func (w *workload) finish() error {
	db, err := w.open(w.clients)
	if err != nil {
		return err
	}
	defer db.close()
	c := &client{w: w, n: w.clients, db: db, r: rand.New(rand.NewPCG(w.seed, uint64(w.clients)))}
	for g := range int(w.begun.Load())/perHandle + 1 {
		if err := c.insist(input{Group: g, Kind: opGetAll}); err != nil {
			return err
		}
	}
	return nil
}

// insist reads until there is an answer.
func (c *client) insist(in input) error {
	for end := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(context.Background(), opLimit)
		call := c.w.rec.now()
		out, err := c.db.do(ctx, in)
		cancel()
		if err == nil {
			c.w.rec.op(c.n, call, in, out)
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("no answer from a cluster without faults: %w", err)
		}
		time.Sleep(50 * time.Millisecond) // between two requests to a cluster that recovers
	}
}

// patience is how long a healed cluster may take to do what is asked of it.
const patience = 90 * time.Second
