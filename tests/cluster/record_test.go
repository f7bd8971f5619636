package cluster

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// never is the return of an operation whose outcome is unknown.
const never = time.Duration(1) << 60

// A count is a write of a counter's next value by its only writer. Values are 1, 2, 3... of attempts, so some
// may be left out.
type count struct {
	counter   int
	value     int64
	index     uint64 // of the log, when it was acknowledged
	call, ret time.Duration
}

// glanceKind is how a counter is read.
type glanceKind uint8

const (
	glanceSession glanceKind = iota
	glanceStale
	glanceStrong // linearizable
)

// A glance is a read of a counter.
type glance struct {
	session   int // of its client
	counter   int
	member    string // that answered
	value     int64
	index     uint64 // that the answer claims to show at least
	call, ret time.Duration

	kind glanceKind
	min  uint64        // session read: the index that was asked for
	age  time.Duration // stale read: what it claims; 0 of a linearizable one
}

// record is what the clients of a history saw. Times are since its beginning, on the one monotonic clock of the
// machine.
type record struct {
	began time.Time

	mu      sync.Mutex
	ops     []porcupine.Operation
	counts  []count
	glances []glance
	failed  int // operations that certainly did not happen
	unknown int
	nextID  int // for operations whose client went on without an answer
	faults  []string
	why     map[string]int // errors of failed operations, without their numbers
}

// firstLostClient is where the numbers of clients begin that stand for unknown outcomes.
const firstLostClient = 1000

func newRecord() *record {
	return &record{began: time.Now(), nextID: firstLostClient, why: map[string]int{}}
}

func (r *record) now() time.Duration { return time.Since(r.began) }

func (r *record) op(client int, call time.Duration, in input, out output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ret := r.now()
	if out.Unknown {
		ret = never
		client = r.nextID
		r.nextID++
		r.unknown++
	}
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: int64(call), Return: int64(ret)})
}

func (r *record) count(c count, unknown bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.ret = r.now()
	if unknown {
		c.ret = never
		r.unknown++
	}
	r.counts = append(r.counts, c)
}

func (r *record) glance(g glance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g.ret = r.now()
	r.glances = append(r.glances, g)
}

func (r *record) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed++
	r.why[digits.ReplaceAllString(err.Error(), "#")]++
}

var digits = regexp.MustCompile("[0-9]+")

// fault notes what a nemesis did.
func (r *record) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fmt.Sprintf("%8.3f ", r.now().Seconds())+fmt.Sprintf(format, args...))
}

// total is the number of operations with an answer or an unknown outcome.
func (r *record) total() int { return len(r.ops) + len(r.counts) + len(r.glances) }

// size is total while clients are at work.
func (r *record) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total()
}

// acked is the number of writes that were acknowledged.
func (r *record) acked() int {
	n := 0
	for _, o := range r.ops {
		if !o.Input.(input).Kind.reads() && o.Return != int64(never) {
			n++
		}
	}
	for _, c := range r.counts {
		if c.ret != never {
			n++
		}
	}
	return n
}

// check returns what is wrong with the history, nothing when it is right.
func (r *record) check(limit time.Duration) (porcupine.CheckResult, porcupine.LinearizationInfo, []string) {
	var wrong []string
	result, info := porcupine.CheckOperationsVerbose(registers, r.ops, limit)
	switch result {
	case porcupine.Illegal:
		wrong = append(wrong, "the history of the registers is not linearizable")
	case porcupine.Unknown:
		wrong = append(wrong, fmt.Sprintf("whether the history of the registers is linearizable was not decided within %v", limit))
	}
	return result, info, append(wrong, r.checkGlances()...)
}

// checkGlances checks the reads of counters.
func (r *record) checkGlances() []string {
	var wrong []string
	say := func(g glance, format string, args ...any) {
		kind := fmt.Sprintf("session read (min index %d)", g.min)
		switch g.kind {
		case glanceStale:
			kind = fmt.Sprintf("stale read (age %v)", g.age)
		case glanceStrong:
			kind = "linearizable read"
		}
		wrong = append(wrong, fmt.Sprintf("client %d, %s of counter %d at %s from %.3f to %.3f: %d at index %d: ",
			g.session, kind, g.counter, g.member, g.call.Seconds(), g.ret.Seconds(), g.value, g.index)+fmt.Sprintf(format, args...))
	}
	writes := map[int][]count{}
	for _, c := range r.counts {
		writes[c.counter] = append(writes[c.counter], c)
	}
	for _, g := range r.glances {
		found := g.value == 0
		for _, w := range writes[g.counter] {
			found = found || w.value == g.value && w.call <= g.ret
			switch {
			case w.ret == never || w.value <= g.value:
			case w.index != 0 && w.index <= g.index:
				say(g, "but %d was written at index %d", w.value, w.index)
			case g.kind != glanceSession && w.ret < g.call-g.age:
				say(g, "but %d was acknowledged at %.3f", w.value, w.ret.Seconds())
			}
		}
		if !found {
			say(g, "nobody had written that")
		}
		if g.index < g.min {
			say(g, "the index is too low")
		}
	}
	r.checkSessions(say)
	return wrong
}

// checkSessions checks that no session reads go back, and that a session sees what itself wrote. The reads and
// the writes of a client are one after the other.
func (r *record) checkSessions(say func(g glance, format string, args ...any)) {
	type at struct{ session, counter int }
	seen := map[at]int64{}
	by := map[at]string{}
	type event struct {
		at
		value int64
		time  time.Duration
		g     *glance
		index uint64
		how   string
	}
	var events []event
	for i := range r.glances {
		if g := &r.glances[i]; g.kind != glanceStale {
			events = append(events, event{at{g.session, g.counter}, g.value, g.ret, g, g.index, fmt.Sprintf("a read of kind %d at %s", g.kind, g.member)})
		}
	}
	for _, c := range r.counts {
		if c.ret != never && c.index != 0 {
			events = append(events, event{at{c.counter, c.counter}, c.value, c.ret, nil, c.index, "its own write"})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.time, b.time) })
	for _, e := range events {
		if e.g != nil && e.value < seen[e.at] {
			say(*e.g, "the session had seen %d %s", seen[e.at], by[e.at])
		}
		if e.value > seen[e.at] {
			seen[e.at], by[e.at] = e.value, fmt.Sprintf("at index %d, at %.3f, by %s", e.index, e.time.Seconds(), e.how)
		}
	}
}
