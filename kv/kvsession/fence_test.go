package kvsession_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/kv/kvsession"
	"github.com/gabionfs/gabion/kv/kvsession/sessiontest"
)

func long() bool { return os.Getenv("GABION_LONG") != "" }

func put(ctx context.Context, s kv.Store, c kv.Commit, key, value string) error {
	return s.Update(ctx, c, func(tx kv.Txn) error { tx.Put("a", []byte(key), []byte(value)); return nil })
}

func get(ctx context.Context, s kv.Store, l kv.Level, key string) (value string, err error) {
	err = s.View(ctx, l, func(r kv.Reader) error {
		b, err := r.Get("a", []byte(key))
		if errors.Is(err, kv.ErrNotFound) {
			b, err = []byte("<none>"), nil
		}
		value = string(b)
		return err
	})
	return value, err
}

// isFenced checks that a session is over, in every call.
func isFenced(t *testing.T, s *kvsession.Session, holder string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), sessiontest.Patience)
	defer cancel()
	sessiontest.Wait(t, "for the session to hear of it", func() bool { return s.Err() != nil })
	_, viewErr := get(ctx, s, kv.Pending, "k")
	for name, err := range map[string]error{
		"err": s.Err(), "view": viewErr, "sync": s.Sync(ctx),
		"ordered": put(ctx, s, kv.Ordered, "k", "late"), "durable": put(ctx, s, kv.Durable, "k", "late"),
	} {
		var fenced *kv.FencedError
		if !errors.Is(err, kv.ErrFenced) || !errors.As(err, &fenced) || fenced.Holder != holder {
			t.Errorf("%s of a session that lost the store to %q: %v", name, holder, err)
		}
	}
}

func want(t *testing.T, s kv.Store, key, value string) {
	t.Helper()
	if got, err := get(context.Background(), s, kv.Linearizable, key); err != nil || got != value {
		t.Errorf("%s is %q, %v; want %q", key, got, err, value)
	}
}

// TestExclusive: while a session lasts others can neither have one nor write; they can read. When it is
// closed they can.
func TestExclusive(t *testing.T) {
	r := sessiontest.New(t, 1)
	ctx := context.Background()
	s := r.Session(kvsession.Options{Owner: "first"})
	other := r.Client().Store("s")
	var fenced *kv.FencedError
	if _, err := r.Open(kvsession.Options{Owner: "second"}); !errors.As(err, &fenced) || fenced.Holder != "first" {
		t.Errorf("a second session: %v", err)
	}
	if _, err := r.Open(kvsession.Options{Owner: "second", Wait: 20 * time.Millisecond}); !errors.As(err, &fenced) {
		t.Errorf("a second session that waits: %v", err)
	}
	if err := other.Set(ctx, kv.Durable, "a", []byte("k"), []byte("foreign")); !errors.As(err, &fenced) || fenced.Holder != "first" {
		t.Errorf("a write of someone else: %v", err)
	}
	if err := put(ctx, s, kv.Durable, "k", "mine"); err != nil {
		t.Fatal(err)
	}
	want(t, r.Member(0), "k", "mine")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := other.Set(ctx, kv.Durable, "a", []byte("k"), []byte("foreign")); err != nil {
		t.Errorf("a write after the session: %v", err)
	}
	second := r.Session(kvsession.Options{Owner: "second"})
	want(t, second, "k", "foreign")
	if a, b := s.Stats().Epoch, second.Stats().Epoch; a >= b {
		t.Errorf("the fencing number went from %d to %d", a, b)
	}
	var invalid *kvrpc.InvalidError
	if _, err := r.Open(kvsession.Options{Owner: strings.Repeat("o", 300)}); !errors.As(err, &invalid) {
		t.Errorf("an owner with too long a name: %v", err)
	}
	if _, err := kvsession.Open(ctx, r.Client(), "none", kvsession.Options{Owner: "o"}); !errors.Is(err, kv.ErrNoStore) {
		t.Errorf("a store that does not exist: %v", err)
	}
}

// TestTakenOver: a store that is stolen, or that its owner takes a second time, is lost to the former
// session, with everything that it had not sent.
func TestTakenOver(t *testing.T) {
	for _, c := range []struct {
		name  string
		o     kvsession.Options
		offer string
	}{
		{"stolen", kvsession.Options{Owner: "thief", Steal: true}, "thief"},
		{"by the same owner", kvsession.Options{Owner: "first"}, "first"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := sessiontest.New(t, 1)
			ctx := context.Background()
			s, line := r.Tapped(kvsession.Options{Owner: "first", TTL: time.Minute})
			if err := put(ctx, s, kv.Durable, "k", "before"); err != nil {
				t.Fatal(err)
			}
			line.Cut(true)
			sessiontest.Wait(t, "for the session to notice", func() bool { return !s.Stats().Connected })
			for _, k := range []string{"k", "new"} {
				if err := put(ctx, s, kv.Ordered, k, "not sent"); err != nil {
					t.Fatal(err)
				}
			}
			waiting := make(chan error)
			go func() { waiting <- put(ctx, s, kv.Durable, "k", "not sent either") }()
			thief := r.Session(c.o)
			line.Cut(false)
			if err := <-waiting; !errors.Is(err, kv.ErrFenced) || !errors.Is(err, kv.ErrUnknownOutcome) {
				t.Errorf("a durable update that was under way: %v", err)
			}
			isFenced(t, s, c.offer)
			want(t, thief, "k", "before")
			want(t, thief, "new", "<none>")
		})
	}
}

// TestExpired: a session that is not heard of for its TTL loses the store to the first who wants it, and
// answers nothing that it cannot be sure of long before.
func TestExpired(t *testing.T) {
	r := sessiontest.New(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), sessiontest.Patience)
	defer cancel()
	s, line := r.Tapped(kvsession.Options{Owner: "first", TTL: 2 * time.Second})
	if err := put(ctx, s, kv.Durable, "k", "before"); err != nil {
		t.Fatal(err)
	}
	line.Cut(true)
	// It can be sure of nothing after half the TTL: a view waits, and obeys its context.
	sessiontest.Wait(t, "for doubt", func() bool { return !s.Stats().Held })
	brief, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	for _, l := range []kv.Level{kv.Pending, kv.Linearizable} {
		if v, err := get(brief, s, l, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a view of a session in doubt: %q, %v", v, err)
		}
	}
	if err := put(brief, s, kv.Ordered, "k", "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an update of a session in doubt: %v", err)
	}
	if v, err := get(ctx, s, kv.Stale, "k"); err != nil || v != "before" {
		t.Errorf("a stale view: %q, %v", v, err)
	}
	other := r.Client().Store("s")
	sessiontest.Wait(t, "for the session to run out", func() bool {
		err := other.Set(ctx, kv.Durable, "a", []byte("k"), []byte("foreign"))
		if err != nil && !errors.Is(err, kv.ErrFenced) {
			t.Fatalf("a write of someone else: %v", err)
		}
		return err == nil
	})
	line.Cut(false)
	isFenced(t, s, "")
	if v, err := other.Get(ctx, "a", []byte("k"), kvrpc.ReadOptions{}); err != nil || string(v) != "foreign" {
		t.Errorf("what someone else wrote is %q, %v", v, err)
	}
}

// TestComesBack: a session that was cut off for longer than its TTL, and whose store nobody wanted, goes
// on.
func TestComesBack(t *testing.T) {
	r := sessiontest.New(t, 1)
	ctx := context.Background()
	s, line := r.Tapped(kvsession.Options{TTL: 300 * time.Millisecond})
	line.Cut(true)
	sessiontest.Wait(t, "for doubt", func() bool { return !s.Stats().Held })
	time.Sleep(300 * time.Millisecond) // now it has run out, if the clock is to be believed
	line.Cut(false)
	if err := put(ctx, s, kv.Durable, "k", "v"); err != nil {
		t.Fatal(err)
	}
	want(t, r.Member(0), "k", "v")
}

// TestElsewhere: the nodes of a cluster that do not have the store are passed over.
func TestElsewhere(t *testing.T) {
	r := sessiontest.New(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other := kvrpc.NewServer(kvrpc.ServerOptions{Stores: func(string) (kvrpc.Member, error) { return nil, kv.ErrNoStore }})
	g := grpc.NewServer(other.GRPCOptions()...)
	other.Register(g)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(l) }()
	defer func() { g.Stop(); other.Close(); <-served }()
	c, err := kvrpc.Dial(context.Background(), kvrpc.ClientOptions{Addrs: append([]string{l.Addr().String()}, r.Client().Addrs()...)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := kvsession.Open(context.Background(), c, "s", kvsession.Options{Owner: "o"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := kvsession.Open(context.Background(), c, "none", kvsession.Options{Owner: "o"}); !errors.Is(err, kv.ErrNoStore) {
		t.Errorf("a store that nobody has: %v", err)
	}
}
