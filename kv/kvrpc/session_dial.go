package kvrpc

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// ErrorOf returns the error that a message stands for, which errors.Is and errors.As know as they do
// locally.
func ErrorOf(e *kvpb.Error) error {
	if e == nil {
		return &remoteError{"kvrpc: an error without content"}
	}
	return decodeError(e)
}

// SessionDialer connects an exclusive session (see package kvsession) with the leader of its store. Safe
// for concurrent use.
type SessionDialer struct {
	client *Client
	store  *Store
	mu     sync.Mutex
	addr   string // of the member to ask next
}

// Sessions returns a dialer for sessions on the store.
func (s *Store) Sessions() *SessionDialer {
	d := &SessionDialer{client: s.client, store: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.addr = s.leader
	return d
}

// Dial opens a stream to the member that led last, to the one that last names as the leader, or, after
// any other error, to the next of those that are known.
func (d *SessionDialer) Dial(ctx context.Context, last error) (*SessionStream, error) {
	addr := d.choose(last)
	conn, err := d.client.Conn(addr)
	if err != nil {
		return nil, err
	}
	// The stream outlives ctx, which is about opening it.
	run, cancel := context.WithCancel(d.client.ctx)
	unhook := context.AfterFunc(ctx, cancel)
	stream, err := kvpb.NewSessionClient(conn).Attach(run)
	if !unhook() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, d.store.streamError(ctx, addr, err)
	}
	d.client.admitted()
	return &SessionStream{stream: stream, cancel: cancel, store: d.store, addr: addr}, nil
}

// Known is how many members Dial chooses from at present.
func (d *SessionDialer) Known() int { return len(d.client.Addrs()) }

func (d *SessionDialer) choose(last error) string {
	known := d.client.Addrs()
	d.mu.Lock()
	defer d.mu.Unlock()
	var hint *leaderHint
	switch {
	case errors.As(last, &hint) && hint.address != "" && hint.address != d.addr:
		d.client.learn(hint.address)
		d.addr = hint.address
	case last != nil || d.addr == "":
		// One that is not known is at -1, and the first of all comes next.
		d.addr = known[(slices.Index(known, d.addr)+1)%len(known)]
	}
	return d.addr
}

// SessionStream is one connection of a session. Send and Recv are each for one goroutine at a time.
type SessionStream struct {
	stream kvpb.Session_AttachClient
	cancel context.CancelFunc
	store  *Store
	addr   string
}

// Send sends a message; when it fails, Recv says why.
func (s *SessionStream) Send(m *kvpb.SessionRequest) error { return s.stream.Send(m) }

// Recv returns the next message of the member.
func (s *SessionStream) Recv() (*kvpb.SessionResponse, error) {
	m, err := s.stream.Recv()
	if err != nil {
		return nil, s.store.streamError(s.stream.Context(), s.addr, err)
	}
	s.store.meet(s.addr)
	return m, nil
}

// Close ends the stream. It may be called at any time and more than once.
func (s *SessionStream) Close() { s.cancel() }

// streamError is what ended a session's stream to the member at addr, or kept it from being opened.
func (s *Store) streamError(ctx context.Context, addr string, err error) error {
	err = s.client.callError(ctx, err)
	var broken *connectionError
	if errors.As(err, &broken) {
		return s.client.broken(addr, broken.err)
	}
	return err
}
