package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// A register operation, as porcupine sees it.
type regInput struct {
	key    string
	kind   int // read, write, compare-and-swap
	value  string
	expect string
}

type regOutput struct {
	value   string // of a read
	swapped bool
	unknown bool // it may have happened, now or later
}

const (
	regRead = iota
	regWrite
	regSwap
)

var registers = porcupine.Model{
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		parts := map[string][]porcupine.Operation{}
		for _, o := range h {
			k := o.Input.(regInput).key
			parts[k] = append(parts[k], o)
		}
		var out [][]porcupine.Operation
		for _, p := range parts {
			out = append(out, p)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out, s := input.(regInput), output.(regOutput), state.(string)
		switch in.kind {
		case regRead:
			return out.value == s, s
		case regWrite:
			return true, in.value
		}
		if out.unknown && s == in.expect || out.swapped {
			return s == in.expect, in.value
		}
		return out.unknown || s != in.expect, s
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

var errMismatch = errors.New("mismatch")

// registerOp runs one operation at a member. retry says that it certainly did not happen.
func registerOp(s *raftkv.Store, in regInput, ordered bool) (out regOutput, retry bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var err error
	if in.kind == regRead {
		err = s.View(ctx, kv.Linearizable, func(r kv.Reader) error {
			out.value, _ = get(r, in.key)
			return nil
		})
		return out, err != nil
	}
	commit, epoch := kv.Durable, s.Epoch()
	if ordered {
		commit = kv.Ordered
	}
	err = s.Update(ctx, commit, func(tx kv.Txn) error {
		if in.kind == regSwap {
			if v, _ := get(tx, in.key); v != in.expect {
				return errMismatch
			}
		}
		tx.Put("a", []byte(in.key), []byte(in.value))
		return nil
	})
	var not *kv.NotLeaderError
	switch {
	case errors.Is(err, errMismatch):
		// What the function saw was pending, perhaps; the answer counts once it is not.
		if s.SyncSince(ctx, epoch) != nil {
			return out, true
		}
		return out, false
	case err == nil && ordered:
		err = s.SyncSince(ctx, epoch)
		out.unknown = err != nil
	case errors.Is(err, kv.ErrUnknownOutcome):
		out.unknown = true
	case errors.As(err, &not):
		return out, true
	case err != nil:
		out.unknown = true
	}
	out.swapped = err == nil
	return out, false
}

// TestLinearizable records a history of concurrent clients while the leadership moves and leaders are
// cut off, and asks porcupine whether it is linearizable.
func TestLinearizable(t *testing.T) {
	c := startCluster(t, 3)
	c.leader()
	const clients, perClient = 6, 60
	var (
		mu      sync.Mutex
		history []porcupine.Operation
		w       sync.WaitGroup
		done    = make(chan struct{})
		began   = time.Now()
	)
	for n := range clients {
		w.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), uint64(began.UnixNano())))
			last := ""
			at := rng.IntN(3)
			for i := range perClient {
				in := regInput{key: fmt.Sprint("r", rng.IntN(3)), kind: rng.IntN(3), value: fmt.Sprint(n, ".", i), expect: last}
				for {
					call := time.Since(began).Nanoseconds()
					out, retry := registerOp(c.members[at], in, rng.IntN(2) == 0)
					if retry {
						at = (at + 1) % 3
						time.Sleep(time.Millisecond) // there may be no leader at all
						continue
					}
					end := time.Since(began).Nanoseconds()
					if out.unknown {
						end = int64(1) << 60
					}
					mu.Lock()
					history = append(history, porcupine.Operation{ClientId: n, Input: in, Output: out, Call: call, Return: end})
					mu.Unlock()
					if in.kind == regRead {
						last = out.value
					}
					break
				}
				time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // so that the faults fall into the history
			}
		})
	}
	var faults sync.WaitGroup
	faults.Go(func() {
		rng := rand.New(rand.NewPCG(7, uint64(began.UnixNano())))
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(50+rng.IntN(150)) * time.Millisecond):
			}
			for i, s := range c.members {
				if !s.Stats().Leads {
					continue
				}
				if rng.IntN(2) == 0 {
					_ = s.TransferLeadership(context.Background())
				} else {
					c.wires[i].isolate(true)
					time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
					c.wires[i].isolate(false)
				}
				break
			}
		}
	})
	w.Wait()
	close(done)
	faults.Wait()
	unknown := 0
	for i, o := range history {
		if o.Output.(regOutput).unknown {
			unknown++
			history[i].ClientId = clients + i // its client went on
		}
	}
	t.Logf("%d operations in %v, %d with an unknown outcome", len(history), time.Since(began), unknown)
	switch porcupine.CheckOperationsTimeout(registers, history, 30*time.Second) {
	case porcupine.Illegal:
		t.Error("the history is not linearizable")
	case porcupine.Unknown:
		t.Log("the checker did not finish")
	}
	c.converge()
}
