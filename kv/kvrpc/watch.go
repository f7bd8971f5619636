package kvrpc

import (
	"context"
	"errors"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// WatchOptions of Watch.
type WatchOptions struct {
	Keyspace kv.Keyspace
	// Prefix of the keys that are watched; all of the keyspace when it is empty.
	Prefix []byte
	// From is the first index of the log to deliver; 0 is what is committed from now on. After a read the
	// index of its ReadInfo plus one leaves nothing out.
	From uint64
}

// Event is a key that was set or removed.
type Event struct {
	Keyspace   kv.Keyspace
	Key, Value []byte
	Deleted    bool
}

// Watch calls fn with the events of each entry of the log, in order, nothing left out and nothing twice,
// until ctx is over or fn returns an error, and returns that. A call without events only says how far the
// watch has come. When the member that serves it fails, it goes on at another one. It returns a
// *kv.CompactedError when the log no longer reaches back to where it has to begin. The slices belong to fn.
func (s *Store) Watch(ctx context.Context, o WatchOptions, fn func(index uint64, events []Event) error) error {
	if o.From == 0 { // fixed now, so that it is the same at every member
		var info ReadInfo
		if err := s.get(ctx, nil, ReadOptions{Info: &info}, false, nil); err != nil {
			return err
		}
		o.From = info.Index + 1
	}
	w := &watcher{store: s, o: o, fn: fn, turn: int(s.client.turn.Add(1))}
	for try := 0; ; try++ {
		from := w.o.From
		err := w.follow(ctx)
		switch {
		case w.failed != nil:
			return w.failed
		case s.over(ctx) != nil:
			return s.over(ctx)
		case isFinal(err):
			return err
		}
		s.client.log.Debug("watch goes to another member", "store", s.name, "from", w.o.From, "err", err)
		if w.turn++; w.o.From != from {
			try = 0
		}
		s.pause(ctx, try)
	}
}

// isFinal says whether another member would answer the same.
func isFinal(err error) bool {
	var bad *InvalidError
	var large *kv.TooLargeError
	return errors.Is(err, kv.ErrCompacted) || errors.As(err, &bad) || errors.As(err, &large)
}

type watcher struct {
	store  *Store
	o      WatchOptions
	fn     func(index uint64, events []Event) error
	turn   int   // of the members to ask
	failed error // of fn
}

// follow watches at one member until that fails.
func (w *watcher) follow(ctx context.Context) error {
	known := w.store.client.Addrs()
	addr := known[w.turn%len(known)]
	api, err := w.store.client.api(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A member that is alive says something at least every watchBeat.
	silence := max(w.store.client.o.Silence, 2*watchBeat)
	alarm := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer alarm.Stop()
	stream, err := api.Watch(ctx, &kvpb.WatchRequest{
		Store: w.store.name, Keyspace: []byte(w.o.Keyspace), Prefix: w.o.Prefix, From: w.o.From})
	for err == nil {
		var m *kvpb.WatchResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		alarm.Stop()
		w.store.meet(addr)
		if w.failed = w.deliver(m); w.failed != nil {
			return w.failed
		}
		alarm.Reset(silence)
	}
	return w.store.client.callError(ctx, err)
}

func (w *watcher) deliver(m *kvpb.WatchResponse) error {
	if m.Index == 0 { // a sign of life
		return nil
	}
	events := make([]Event, len(m.Events))
	for i, e := range m.Events {
		events[i] = Event{w.o.Keyspace, e.Key, e.Value, e.Deleted}
	}
	w.store.sawIndex(m.Index)
	if err := w.fn(m.Index, events); err != nil {
		return err
	}
	w.o.From = m.Index + 1
	return nil
}
