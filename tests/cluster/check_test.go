package cluster

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// fake is a replicated store without replicas: its followers are its own past. It makes one mistake, now and
// then, for the checks to find.
type fake struct {
	mistake string

	mu      sync.Mutex
	r       *rand.Rand
	began   time.Time
	groups  map[int]regs
	counts  map[int]int64
	index   uint64
	history []fakeState // copies of the counters, oldest first
	late    []func()    // writes that were cut off, or are to be made twice
}

type fakeState struct {
	at     time.Time
	index  uint64
	counts map[int]int64
	groups map[int]regs
}

func newFake(mistake string, seed uint64) *fake {
	f := &fake{mistake: mistake, r: rand.New(rand.NewPCG(seed, 1)), began: time.Now(), groups: map[int]regs{}, counts: map[int]int64{}}
	f.keep()
	return f
}

// keep makes the present part of the past.
func (f *fake) keep() {
	f.index++
	f.history = append(f.history, fakeState{time.Now(), f.index, maps.Clone(f.counts), maps.Clone(f.groups)})
}

func (f *fake) errs(mistake string) bool { return f.mistake == mistake && f.r.IntN(3) == 0 }

func (f *fake) do(_ context.Context, in input) (output, error) {
	time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond) // so that operations overlap
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.late) > 0 && f.r.IntN(3) == 0 {
		f.late[0]()
		f.late = f.late[1:]
		f.keep()
	}
	if in.Kind.reads() {
		s := f.groups[in.Group]
		if f.errs("stale read") {
			s = f.history[max(0, len(f.history)-1-f.r.IntN(12))].groups[in.Group]
		}
		return output{Saw: s, Prev: s[in.Key]}, nil
	}
	out, next := f.apply(in)
	unknown := f.r.IntN(25) == 0
	switch {
	case unknown && f.r.IntN(2) == 0: // it happens later
		f.late = append(f.late, func() { _, f.groups[in.Group] = f.apply(in) })
	case f.errs("lost write"):
	case f.errs("torn sequence") && out.Applied && in.Kind == opMove:
		f.groups[in.Group] = with(f.groups[in.Group], in.Key, 0)
	default:
		f.groups[in.Group] = next
	}
	if f.errs("applied twice") {
		f.late = append(f.late, func() { _, f.groups[in.Group] = f.apply(in) })
	}
	f.keep()
	if unknown {
		return output{}, fmt.Errorf("%w: so it is", kv.ErrUnknownOutcome)
	}
	if f.errs("failed but happened") {
		return output{}, &kv.NotLeaderError{}
	}
	return out, nil
}

// apply is written on its own, rather than with the model's step.
func (f *fake) apply(in input) (output, regs) {
	s := f.groups[in.Group]
	out := output{Prev: s[in.Key]}
	holds := s[in.Key] == in.Expect
	switch in.Kind {
	case opSet:
		return output{}, with(s, in.Key, in.Value)
	case opReplace:
		return out, with(s, in.Key, in.Value)
	case opSwap:
		if out.Applied = holds; holds {
			s = with(s, in.Key, in.Value)
		}
		return out, s
	}
	if !holds {
		return output{}, s
	}
	if in.Kind == opSpread {
		return output{Applied: true}, regs{in.Value, in.Value, in.Value}
	}
	return output{Applied: true}, with(with(s, in.Key, 0), (in.Key+1)%perGroup, in.Value)
}

func with(s regs, k int, v int64) regs {
	s[k] = v
	return s
}

func (f *fake) count(_ context.Context, counter int, value int64) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.errs("lost count") {
		f.counts[counter] = value
	}
	f.keep()
	if f.r.IntN(25) == 0 {
		return 0, fmt.Errorf("%w: so it is", kv.ErrUnknownOutcome)
	}
	if f.errs("failed count happened") {
		return 0, &kv.NotLeaderError{}
	}
	return f.index, nil
}

func (f *fake) session(_ context.Context, counter int, min uint64) (seen, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.past()
	for s.index < min && !f.errs("session goes back") {
		s = f.past()
	}
	out := seen{value: s.counts[counter], index: s.index, shown: s.index}
	if f.mistake == "session goes back" {
		out.index = max(out.index, min) // it lies about it
		out.shown = out.index
	}
	return out, nil
}

func (f *fake) past() fakeState { return f.history[max(0, len(f.history)-1-f.r.IntN(60))] }

func (f *fake) stale(_ context.Context, counter int) (seen, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.past()
	out := seen{value: s.counts[counter], index: s.index, shown: s.index, age: time.Since(s.at)}
	if f.errs("false age") {
		out.age = 0
	}
	if f.errs("value of the future") {
		out.value += 1000
	}
	return out, nil
}

func (f *fake) strong(_ context.Context, counter int) (seen, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := seen{value: f.counts[counter], index: f.index, shown: f.index}
	if f.mistake == "index too low" {
		out.shown = 0
	}
	return out, nil
}

func (f *fake) close() {}

// TestChecks: a store without mistakes passes, and each mistake is found.
func TestChecks(t *testing.T) {
	for mistake, want := range map[string]string{
		"":                      "",
		"stale read":            "not linearizable",
		"lost write":            "not linearizable",
		"torn sequence":         "not linearizable",
		"applied twice":         "not linearizable",
		"failed but happened":   "not linearizable",
		"session goes back":     "was written at index",
		"index too low":         "the session had seen",
		"lost count":            "was written at index",
		"false age":             "was acknowledged at",
		"failed count happened": "nobody had written that",
		"value of the future":   "nobody had written that",
	} {
		t.Run(mistake, func(t *testing.T) {
			t.Parallel()
			// What a mistake looks like depends on how the clients' operations meet: one round may not show it.
			const rounds = 20
			for seed := range uint64(rounds) {
				all := tryFake(t, mistake, 42+seed)
				switch {
				case mistake == "" && all != "":
					t.Fatalf("seed %d: wrong without a mistake: %s", 42+seed, all)
				case strings.Contains(all, want):
					return
				}
			}
			t.Errorf("%d rounds do not show %q", rounds, want)
		})
	}
}

// tryFake lets clients work on a store that makes a mistake, and returns what the checks say.
func tryFake(t *testing.T, mistake string, seed uint64) string {
	f := newFake(mistake, seed)
	w := &workload{rec: newRecord(), clients: 5, seed: seed, think: time.Millisecond,
		open: func(int) (database, error) { return f, nil }}
	stop := make(chan struct{})
	go func() {
		for w.rec.size() < 2500 {
			time.Sleep(time.Millisecond)
		}
		close(stop)
	}()
	if err := w.run(stop); err != nil {
		t.Fatal(err)
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	_, _, wrong := w.rec.check(time.Minute)
	t.Logf("seed %d: %d operations, %d unknown, %d wrong", seed, w.rec.total(), w.rec.unknown, len(wrong))
	return strings.Join(wrong, "\n")
}
