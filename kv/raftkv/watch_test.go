package raftkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// patience bounds a wait that only ends when something hangs.
const patience = time.Minute

func withPatience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// follower replays a watch into a map, and checks that it moves forward.
type follower struct {
	t    testing.TB
	mu   sync.Mutex
	next uint64
	data map[string]string
	done chan error
}

// follow watches the keyspace "a" of a member from an index on.
func follow(ctx context.Context, t testing.TB, s *raftkv.Store, from uint64) *follower {
	f := &follower{t: t, next: from, data: map[string]string{}, done: make(chan error, 1)}
	go func() {
		f.done <- s.Watch(ctx, raftkv.WatchOptions{Keyspace: "a", From: from}, f.see)
	}()
	return f
}

func (f *follower) see(index uint64, events []raftkv.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index < f.next {
		f.t.Errorf("index %d after %d", index, f.next-1)
	}
	f.next = index + 1
	for _, e := range events {
		if e.Keyspace != "a" {
			f.t.Errorf("an event of keyspace %q", e.Keyspace)
		}
		if e.Deleted {
			delete(f.data, string(e.Key))
		} else {
			f.data[string(e.Key)] = string(e.Value)
		}
	}
	return nil
}

func (f *follower) picture() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprint(f.data)
}

// contents is what a member shows of the keyspace "a", and the index up to which it is complete.
func contents(t testing.TB, s *raftkv.Store) (string, uint64) {
	t.Helper()
	data := map[string]string{}
	index, err := s.ViewAt(withPatience(t), kv.Stale, func(r kv.Reader, _ uint64) error {
		return r.Range("a", kv.Range{}, func(k, v []byte) bool { data[string(k)] = string(v); return true })
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(data), index
}

// waitFor waits until the watch has seen everything up to an index.
func (f *follower) waitFor(index uint64) {
	f.t.Helper()
	wait(f.t, fmt.Sprintf("for a watch to reach index %d", index), func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.next > index
	})
}

// TestWatch: a watch that began at the beginning, one that began in the middle, and one after a restart
// see what happened, in order.
func TestWatch(t *testing.T) {
	ctx, stop := context.WithCancel(withPatience(t))
	defer stop()
	dir := memDir(t)
	o := raftkv.Options{Dir: dir, FlushBytes: 8 << 10, SegmentBytes: 64 << 10, MinLog: 8 << 20}
	s := open(t, o)
	early := follow(ctx, t, s, 1)
	if err := put(s, kv.Durable, "before", "the middle"); err != nil {
		t.Fatal(err)
	}
	var late *follower
	for i := range 200 {
		if i == 100 {
			_, at := contents(t, s)
			late = follow(ctx, t, s, at+1)
		}
		if err := s.Update(ctx, kv.Commit(i%2), func(tx kv.Txn) error {
			tx.Put("a", []byte(fmt.Sprint("k", i%37)), bytes.Repeat([]byte{byte(i)}, 200))
			tx.Delete("a", []byte(fmt.Sprint("k", (i+5)%37)))
			tx.Put("b", []byte("other"), []byte(fmt.Sprint(i)))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	index, err := s.UpdateAt(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("a", []byte("end"), nil); return nil })
	if err != nil {
		t.Fatal(err)
	}
	want, _ := contents(t, s)
	early.waitFor(index)
	if got := early.picture(); got != want {
		t.Errorf("the watch saw\n%.200s\nwant\n%.200s", got, want)
	}
	late.waitFor(index)
	if missing := strings.Replace(want, "before:the middle ", "", 1); late.picture() != missing || missing == want {
		t.Errorf("the watch from the middle saw\n%.200s\nwant\n%.200s", late.picture(), missing)
	}
	if s.Stats().Flushes == 0 {
		t.Error("nothing was flushed")
	}
	// A keyspace and a prefix that nothing happens to: it still gets on.
	quiet := make(chan uint64, 1)
	enough := errors.New("enough")
	err = s.Watch(ctx, raftkv.WatchOptions{Keyspace: "a", Prefix: []byte("none"), From: 1}, func(index uint64, events []raftkv.Event) error {
		if len(events) > 0 {
			t.Errorf("%d events", len(events))
		}
		quiet <- index
		return enough
	})
	if err != enough || <-quiet < index {
		t.Errorf("a quiet watch: %v", err)
	}
	stop()
	for _, f := range []*follower{early, late} {
		if err := <-f.done; !errors.Is(err, context.Canceled) {
			t.Errorf("watch ended with %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, o)
	ctx, stop = context.WithCancel(withPatience(t))
	defer stop()
	again := follow(ctx, t, s, 1)
	again.waitFor(index)
	if got := again.picture(); got != want {
		t.Errorf("after a restart the watch saw\n%.200s\nwant\n%.200s", got, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-again.done; !errors.Is(err, kv.ErrClosed) {
		t.Errorf("watch of a closed store: %v", err)
	}
}

// TestWatchCompacted: a watch that wants to begin before the log does is told where it may, and one that
// is too slow is told too and holds nobody up.
func TestWatchCompacted(t *testing.T) {
	ctx := withPatience(t)
	s := open(t, raftkv.Options{Dir: memDir(t), FlushBytes: 8 << 10, SegmentBytes: 16 << 10})
	defer s.Close()
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	slow := make(chan error, 1)
	watch := func() {
		slow <- s.Watch(ctx, raftkv.WatchOptions{}, func(uint64, []raftkv.Event) error {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-leave
			return nil
		})
	}
	go watch()
	value := strings.Repeat("v", 500)
	write := func() {
		t.Helper()
		if err := put(s, kv.Durable, "k", value); err != nil {
			t.Fatal(err)
		}
	}
	for seen := false; !seen; {
		write()
		select {
		case <-entered:
			seen = true
		case err := <-slow: // before it was scheduled
			if !errors.Is(err, kv.ErrCompacted) {
				t.Fatal(err)
			}
			go watch()
		default:
		}
	}
	for last := s.AppliedIndex(); s.Stats().StateIndex < last+2; {
		write()
	}
	var compacted *kv.CompactedError
	err := s.Watch(ctx, raftkv.WatchOptions{From: 1}, func(uint64, []raftkv.Event) error { return errors.New("an event") })
	if !errors.Is(err, kv.ErrCompacted) || !errors.As(err, &compacted) || compacted.First < 2 {
		t.Fatalf("a watch from the beginning: %v", err)
	}
	close(leave)
	if err := <-slow; !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("a watch that was too slow: %v", err)
	}
	// It can begin where it was told, and sees the next update.
	if err := put(s, kv.Durable, "k", value); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	if err := s.Watch(ctx, raftkv.WatchOptions{From: compacted.First}, func(uint64, []raftkv.Event) error { return enough }); err != enough && !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("a watch from %d: %v", compacted.First, err)
	}
}
