package kvsession_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvsession"
	"github.com/gabionfs/gabion/kv/kvsession/sessiontest"
)

// The ledger is a row per transaction, a counter of them, and a few rows that each transaction
// overwrites in turn. Any state but that after some prefix of the transactions is visible in it.
const slots = 7

func num(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func entry(tx kv.Txn, value int) error {
	n := uint64(0)
	switch b, err := tx.Get("ledger", []byte("n")); {
	case err == nil:
		n = binary.BigEndian.Uint64(b)
	case !errors.Is(err, kv.ErrNotFound):
		return err
	}
	n++
	tx.Put("ledger", []byte("n"), num(n))
	tx.Put("entries", num(n), make([]byte, value))
	tx.Put("slots", num(n%slots), num(n))
	if n > 100 { // only the last hundred are kept
		tx.Delete("entries", num(n-100))
	}
	return nil
}

// checkLedger returns how many transactions a view shows, after checking that it shows a prefix.
func checkLedger(r kv.Reader) (n uint64, err error) {
	switch b, err := r.Get("ledger", []byte("n")); {
	case err == nil:
		n = binary.BigEndian.Uint64(b)
	case !errors.Is(err, kv.ErrNotFound):
		return 0, err
	}
	want := max(n, 100) - 100 + 1
	if err := r.Range("entries", kv.Range{}, func(k, _ []byte) bool {
		if binary.BigEndian.Uint64(k) != want {
			return false
		}
		want++
		return true
	}); err != nil {
		return n, err
	}
	if want != n+1 {
		return n, fmt.Errorf("of %d entries number %d is missing", n, want)
	}
	for s := uint64(0); s < min(slots, n); s++ {
		last := n - s // written into slot last%slots
		b, err := r.Get("slots", num(last%slots))
		if err != nil || binary.BigEndian.Uint64(b) != last {
			return n, fmt.Errorf("after %d entries slot %d has %x, %v", n, last%slots, b, err)
		}
	}
	return n, nil
}

// TestLeaderLost: the leader is stopped, cut off and moved away from, again and again, in the middle of
// streams of ordered updates. Nothing that was acknowledged is lost, nothing is applied twice or out of
// order, and no member ever shows anything but a prefix.
func TestLeaderLost(t *testing.T) {
	r := sessiontest.New(t, 3)
	s := r.Session(kvsession.Options{TTL: time.Minute, Window: 2 * time.Millisecond})
	ctx, cancel := context.WithTimeout(context.Background(), 4*sessiontest.Patience) // many waits
	defer cancel()
	var done atomic.Bool
	var wrote atomic.Uint64
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for i := 0; !done.Load(); i++ {
				commit := kv.Ordered
				if i%50 == w {
					commit = kv.Durable
				}
				if err := s.Update(ctx, commit, func(tx kv.Txn) error { return entry(tx, 100*w) }); err != nil {
					t.Errorf("update: %v", err)
					return
				}
				wrote.Add(1)
				if i%20 == 0 {
					if err := s.View(ctx, kv.Level(i/20%3), func(r kv.Reader) error { _, err := checkLedger(r); return err }); err != nil {
						t.Errorf("view: %v", err)
						return
					}
				}
				time.Sleep(100 * time.Microsecond) // leave the processors to the members
			}
		})
	}
	more := func() {
		t.Helper()
		from := wrote.Load() + 200
		sessiontest.Wait(t, "for more updates", func() bool { return wrote.Load() >= from || t.Failed() })
		if err := s.Sync(ctx); err != nil {
			t.Fatalf("sync: %v", err)
		}
	}
	check := func(i int) {
		t.Helper()
		if m := r.Member(i); m != nil {
			if err := m.View(ctx, kv.Stale, func(r kv.Reader) error { _, err := checkLedger(r); return err }); err != nil && !sessiontest.Unavailable(err) {
				t.Errorf("member %d: %v", i, err)
			}
		}
	}
	rounds := 1
	if long() {
		rounds = 10
	}
	for range rounds {
		more()
		i := r.Leader()
		r.Stop(i)
		more()
		r.Start(i)
		for j := range 3 {
			check(j)
		}
		more()
		i = r.Leader()
		r.Connect(i, false) // from the other members; the session still reaches it
		more()
		check(i)
		r.Connect(i, true)
		more()
		i = r.Leader()
		r.Isolate(i, true) // from the session; it still leads
		time.Sleep(20 * time.Millisecond)
		r.Isolate(i, false)
		more()
		if err := r.Member(r.Leader()).TransferLeadership(ctx); err != nil {
			t.Logf("transfer: %v", err)
		}
		more()
	}
	done.Store(true)
	work.Wait()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	sessiontest.Wait(t, "for the last state on a leader", func() bool {
		err := r.Member(r.Leader()).View(ctx, kv.Linearizable, func(r kv.Reader) error {
			n, err := checkLedger(r)
			if err == nil && n != wrote.Load() {
				err = fmt.Errorf("%d entries are there, %d were acknowledged", n, wrote.Load())
			}
			return err
		})
		if err != nil && !sessiontest.Unavailable(err) {
			t.Fatal(err)
		}
		return err == nil
	})
	t.Logf("%d transactions, %+v", wrote.Load(), s.Stats())
}

// TestUnreachable: while no member answers, ordered updates go on until the bound on what is not
// acknowledged, what has to wait obeys its context, and everything arrives in the end.
func TestUnreachable(t *testing.T) {
	r := sessiontest.New(t, 1)
	s := r.Session(kvsession.Options{TTL: time.Minute, MaxPending: 100 << 10})
	ctx := context.Background()
	update := func(ctx context.Context, c kv.Commit) error {
		return s.Update(ctx, c, func(tx kv.Txn) error { return entry(tx, 1000) })
	}
	if err := update(ctx, kv.Durable); err != nil {
		t.Fatal(err)
	}
	if err := s.View(ctx, kv.Pending, func(r kv.Reader) error { _, err := checkLedger(r); return err }); err != nil {
		t.Fatal(err) // now it knows all there is in these keyspaces
	}
	r.Isolate(0, true)
	sessiontest.Wait(t, "for the session to notice", func() bool { return !s.Stats().Connected })
	pending := s.Stats().PendingBytes
	given, giveUp := context.WithCancel(ctx)
	go func() { // when it waits for the answer that does not come
		defer giveUp()
		for end := time.Now().Add(sessiontest.Patience); s.Stats().PendingBytes == pending && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}()
	wrote := uint64(2)
	if err := update(given, kv.Durable); !errors.Is(err, kv.ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("a durable update: %v", err)
	}
	brief, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := s.Sync(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("sync: %v", err)
	}
	if err := s.View(brief, kv.Pending, func(r kv.Reader) error { _, err := r.Get("unknown", []byte("k")); return err }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a view: %v", err)
	}
	full := false
	for range 1000 {
		brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		err := update(brief, kv.Ordered)
		cancel()
		if full = errors.Is(err, context.DeadlineExceeded); full {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		wrote++
	}
	if !full {
		t.Error("ordered updates never waited")
	}
	if st := s.Stats(); st.PendingBytes > 110<<10 || st.CacheBytes > 200<<10 {
		t.Errorf("%d bytes wait, %d are held", st.PendingBytes, st.CacheBytes)
	}
	if err := s.View(ctx, kv.Pending, func(r kv.Reader) error { // what was written since is known anyway
		n, err := checkLedger(r)
		if err == nil && n != wrote {
			err = fmt.Errorf("%d entries, want %d", n, wrote)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	r.Isolate(0, false)
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Member(0).View(ctx, kv.Linearizable, func(r kv.Reader) error {
		n, err := checkLedger(r)
		if err == nil && n != wrote {
			err = fmt.Errorf("%d entries, want %d", n, wrote)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestCloseUnreachable: Close gives up after its timeout and says so.
func TestCloseUnreachable(t *testing.T) {
	r := sessiontest.New(t, 1)
	s := r.Session(kvsession.Options{CloseTimeout: 50 * time.Millisecond})
	r.Isolate(0, true)
	if err := s.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error { tx.Put("a", []byte("k"), nil); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, kv.ErrUnknownOutcome) {
		t.Errorf("close: %v", err)
	}
}
