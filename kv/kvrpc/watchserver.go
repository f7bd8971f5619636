package kvrpc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// watch is the handler of Watch.
func (s *Server) watch(g grpc.ServerStream) error {
	m := new(kvpb.WatchRequest)
	if err := g.RecvMsg(m); err != nil {
		return err
	}
	err := s.serveWatch(g, m)
	if err == nil {
		return nil
	}
	return toStatus(encodeError(err, s.o.Addr))
}

func (s *Server) serveWatch(g grpc.ServerStream, m *kvpb.WatchRequest) error {
	if err := checkName("store", m.Store); err != nil {
		return err
	}
	if err := checkKeyspace(kv.Keyspace(m.Keyspace)); err != nil {
		return err
	}
	if n := len(m.Prefix); n > kv.MaxKey {
		return &kv.TooLargeError{What: "prefix", Size: n, Max: kv.MaxKey}
	}
	h, err := s.hostOf(&request{store: m.Store})
	if err != nil {
		return err
	}
	leave, err := s.enterWatch(clientOf(g.Context()))
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := joinContext(g.Context(), s.ctx)
	defer cancel()
	o := raftkv.WatchOptions{Keyspace: kv.Keyspace(m.Keyspace), Prefix: m.Prefix, From: m.From}
	out := &watchStream{grpc: g}
	if err := out.beat(); err != nil {
		return err
	}
	defer out.beating(ctx)()
	err = h.member.Watch(ctx, o, out.send)
	if s.ctx.Err() != nil {
		return kv.ErrClosed
	}
	return err
}

// watchStream sends events, and signs of life while there are none.
type watchStream struct {
	grpc grpc.ServerStream
	mu   sync.Mutex
	told bool // something was sent since the last beat
}

func (w *watchStream) send(index uint64, events []raftkv.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = true
	return w.grpc.SendMsg(watchResponse(index, events))
}

func (w *watchStream) beat() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told {
		w.told = false
		return nil
	}
	return w.grpc.SendMsg(&kvpb.WatchResponse{})
}

// beating sends a sign of life every watchBeat until the function it returns is called.
func (w *watchStream) beating(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		t := time.NewTicker(watchBeat / 2)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if w.beat() != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

func watchResponse(index uint64, events []raftkv.Event) *kvpb.WatchResponse {
	out := &kvpb.WatchResponse{Index: index, Events: make([]*kvpb.Event, len(events))}
	for i, e := range events {
		out.Events[i] = &kvpb.Event{Key: e.Key, Value: e.Value, Deleted: e.Deleted}
	}
	return out
}

// clientOf names who is at the other end of a connection.
func clientOf(ctx context.Context) string {
	if p, ok := grpcpeer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// enterWatch counts the watches of a client.
func (s *Server) enterWatch(client string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.watches[client]; n >= s.o.MaxWatches {
		return nil, fmt.Errorf("%w: %d watches", ErrTooMany, n)
	}
	s.watches[client]++
	s.watching.Add(1)
	return func() {
		s.watching.Add(^uint64(0))
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.watches[client]--; s.watches[client] == 0 {
			delete(s.watches, client)
		}
	}, nil
}
