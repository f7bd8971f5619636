package kvtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// testLevels: each level shows what it promises after each strength of commit.
func testLevels(t *testing.T, f *fixture) {
	for i := range 20 {
		v := fmt.Sprint(i)
		f.put(kv.Ordered, "a", "o", v)
		f.want(kv.Pending, "a", "o", v)
		f.put(kv.Ordered, "a", "o", v+"'")
		f.want(kv.Linearizable, "a", "o", v+"'")
		f.put(kv.Durable, "a", "d", v)
		f.want(kv.Pending, "a", "d", v)
		f.want(kv.Linearizable, "a", "d", v)
		if i%5 == 0 {
			f.must(f.Sync(f.ctx))
			f.want(kv.Pending, "a", "o", v+"'")
		}
	}
	f.must(f.Sync(f.ctx))
	f.must(f.Sync(f.ctx)) // nothing to do
}

// testSnapshot: a view does not move while it is open, whatever is written meanwhile.
func testSnapshot(t *testing.T, f *fixture) {
	f.put(kv.Durable, "a", "x", "0")
	f.put(kv.Ordered, "b", "x", "0")
	for _, l := range levels {
		var w sync.WaitGroup
		var once sync.Once
		began := make(chan struct{})
		f.must(f.View(f.ctx, l, func(r kv.Reader) error {
			before, _ := get(r, "a", "x")
			once.Do(func() { // a store may call again when its view would have moved
				w.Go(func() {
					close(began)
					for i := range 50 { // may wait for the view to end
						v := fmt.Append(nil, l, i)
						f.must(f.Update(f.ctx, kv.Ordered, func(tx kv.Txn) error { // one: a view that begins anew sees both or none
							tx.Put("a", []byte("x"), v)
							tx.Put("b", []byte("x"), v)
							return nil
						}))
					}
				})
			})
			<-began
			for range 200 {
				a, _ := get(r, "a", "x")
				b, _ := get(r, "b", "x")
				if a != before || b != before {
					return fmt.Errorf("the view moved from %q to %q and %q", before, a, b)
				}
			}
			return nil
		}))
		w.Wait()
		f.put(kv.Ordered, "b", "x", "same")
		f.put(kv.Ordered, "a", "x", "same")
	}
}

func testContext(t *testing.T, f *fixture) {
	f.put(kv.Durable, "a", "k", "kept")
	gone, cancel := context.WithCancel(f.ctx)
	cancel()
	for _, c := range []kv.Commit{kv.Durable, kv.Ordered} {
		err := f.Update(gone, c, func(tx kv.Txn) error { tx.Put("a", []byte("k"), []byte("lost")); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("update with a cancelled context: %v", err)
		}
	}
	if err := f.View(gone, kv.Linearizable, func(kv.Reader) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("view with a cancelled context: %v", err)
	}
	if err := f.Sync(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("sync with a cancelled context: %v", err)
	}
	f.want(kv.Linearizable, "a", "k", "kept")

	// Cancelled at a random moment: success means it is there, a plain context error means it is not,
	// and an unknown outcome means either.
	for i := range 50 {
		key := fmt.Sprint("at", i)
		ctx, cancel := context.WithTimeout(f.ctx, time.Duration(rand.IntN(400))*time.Microsecond)
		err := f.Update(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("a", []byte(key), []byte("v")); return nil })
		cancel()
		switch {
		case err == nil:
			f.want(kv.Linearizable, "a", key, "v")
		case errors.Is(err, kv.ErrUnknownOutcome):
		case errors.Is(err, context.DeadlineExceeded):
			f.want(kv.Linearizable, "a", key, "<none>")
		default:
			t.Errorf("update cut off: %v", err)
		}
	}
}

// testCounter: increments by many goroutines, with both strengths, lose nothing.
func testCounter(t *testing.T, f *fixture) {
	const workers, rounds = 8, 40
	var w sync.WaitGroup
	for n := range workers {
		w.Go(func() {
			for i := range rounds {
				if err := f.Update(f.ctx, kv.Commit((n+i)%2), increment); err != nil {
					t.Error(err)
				}
			}
		})
	}
	w.Wait()
	f.must(f.View(f.ctx, kv.Linearizable, func(r kv.Reader) error {
		if n := counter(r); n != workers*rounds {
			t.Errorf("the counter is %d, want %d", n, workers*rounds)
		}
		return nil
	}))
}

func counter(r kv.Reader) uint64 {
	v, err := r.Get("c", []byte("n"))
	if err != nil {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func increment(tx kv.Txn) error {
	tx.Put("c", []byte("n"), binary.BigEndian.AppendUint64(nil, counter(tx)+1))
	return nil
}

// testTransfers: money moves between accounts of two keyspaces while views at every level sum it up.
func testTransfers(t *testing.T, f *fixture) {
	const accounts, each = 10, 100
	account := func(i int) (kv.Keyspace, []byte) { return kv.Keyspace([]string{"left", "right"}[i%2]), []byte{byte(i)} }
	f.must(f.Update(f.ctx, kv.Durable, func(tx kv.Txn) error {
		for i := range accounts {
			ks, k := account(i)
			tx.Put(ks, k, []byte{each})
		}
		return nil
	}))
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	var movers, watchers sync.WaitGroup
	for _, l := range []kv.Level{kv.Linearizable, kv.Pending, kv.Stale} {
		watchers.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(time.Millisecond) { // leave the processors to the store
				var sum, n int
				err := f.View(f.ctx, l, func(r kv.Reader) error {
					sum, n = 0, 0
					for _, ks := range []kv.Keyspace{"left", "right"} {
						if err := r.Range(ks, kv.Range{}, func(_, v []byte) bool { sum += int(v[0]); n++; return true }); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil || n != accounts || sum != accounts*each {
					t.Errorf("level %d: %d accounts hold %d, %v; want %d and %d", l, n, sum, err, accounts, accounts*each)
					return
				}
			}
		})
	}
	for n := range 4 {
		movers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			for range 100 {
				from, to := rng.IntN(accounts), rng.IntN(accounts)
				err := f.Update(f.ctx, kv.Commit(rng.IntN(2)), func(tx kv.Txn) error {
					fks, fk := account(from)
					tks, tk := account(to)
					fv, err := tx.Get(fks, fk)
					if err != nil {
						return err
					}
					if from == to || fv[0] == 0 {
						return nil
					}
					tv, err := tx.Get(tks, tk)
					if err != nil {
						return err
					}
					if tv[0] == 255 {
						return nil
					}
					tx.Put(fks, fk, []byte{fv[0] - 1})
					tx.Put(tks, tk, []byte{tv[0] + 1})
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	movers.Wait()
	cancel()
	watchers.Wait()
}

// testMonotonic: a linearizable view never shows less than an earlier one, nor less than what was
// acknowledged before it began; a stale view never shows what was not written.
func testMonotonic(t *testing.T, f *fixture) {
	const rounds = 150
	var w sync.WaitGroup
	done := make(chan struct{})
	for _, l := range levels {
		w.Go(func() {
			last := uint64(0)
			for {
				var n uint64
				if err := f.View(f.ctx, l, func(r kv.Reader) error { n = counter(r); return nil }); err != nil {
					t.Error(err)
					return
				}
				if n < last {
					t.Errorf("level %d went back from %d to %d", l, last, n)
					return
				}
				last = n
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range uint64(rounds) {
		f.must(f.Update(f.ctx, kv.Commit(i%2), increment))
		f.must(f.View(f.ctx, kv.Level(i%3), func(r kv.Reader) error {
			if n := counter(r); n > i+1 || n != i+1 && i%3 != uint64(kv.Stale) {
				t.Errorf("after %d increments level %d shows %d", i+1, i%3, n)
			}
			return nil
		}))
	}
	close(done)
	w.Wait()
}
