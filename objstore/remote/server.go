package remote

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
)

// Host has the disks that a Server serves. Safe for concurrent use. Errors are those of package asd.
type Host interface {
	// List announces the disks, up to 256.
	List(ctx context.Context) []Announcement
	// Open returns the disk of that id, for owner. The host closes it. It is asked again for every connection, so
	// that a disk that was lost is found again.
	Open(ctx context.Context, id, owner asd.ID) (objstore.Disk, error)
	// Claim claims the disk for owner, see asd.Claim.
	Claim(ctx context.Context, id, owner asd.ID) error
	// Release takes the claim back, see asd.Release.
	Release(ctx context.Context, id, owner asd.ID, wipe bool) error
}

// ServerOptions of NewServer. Host is required.
type ServerOptions struct {
	Host Host
	// Memory bounds the bytes of fragments that are on their way through the server; 256 MiB when 0, and at
	// least one fragment of the largest size.
	Memory int64
	// MaxConns bounds how many connections are open at once; 1024 when 0. Further ones are closed.
	MaxConns int
	// Idle is how long a connection may wait for its next request; 5 min when 0.
	Idle time.Duration
	// Patience is how long the sending or taking of one MiB may take; 30 s when 0.
	Patience time.Duration
	// Logger gets what an operator should know; nil discards it.
	Logger *slog.Logger
}

// Server serves disks. Its Serve is the service of Protocol on a mux.Mux, whose Close waits for what is under
// way. Safe for concurrent use.
type Server struct {
	o      ServerOptions
	memory *semaphore.Weighted
	pool   *bufpool.Pool
	conns  atomic.Int64
}

// NewServer returns a server.
func NewServer(o ServerOptions) *Server {
	if o.Memory == 0 {
		o.Memory = 256 << 20
	}
	o.Memory = max(o.Memory, MaxFragment)
	if o.MaxConns == 0 {
		o.MaxConns = 1024
	}
	if o.Idle == 0 {
		o.Idle = 5 * time.Minute
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, memory: semaphore.NewWeighted(o.Memory), pool: bufpool.New(int(min(o.Memory/4, 64<<20)))}
}

// Serve answers the requests of a connection until it ends.
func (s *Server) Serve(c *mux.Conn) {
	defer c.Close()
	defer s.conns.Add(-1)
	if s.conns.Add(1) > int64(s.o.MaxConns) {
		s.o.Logger.Warn("a client of the disks was turned away: too many connections", "peer", c.Peer, "allowed", s.o.MaxConns)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-c.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	v := &visit{s: s, c: c, ctx: ctx}
	err := v.run()
	var timeout net.Error
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
	case errors.Is(err, errProtocol), errors.As(err, &timeout) && timeout.Timeout() && v.within:
		s.o.Logger.Warn("a client of the disks was cut off", "peer", c.Peer, "from", c.RemoteAddr(), "cause", err)
	default:
		s.o.Logger.Debug("a client of the disks has gone", "peer", c.Peer, "cause", err)
	}
}

// visit is one connection.
type visit struct {
	s      *Server
	c      *mux.Conn
	ctx    context.Context
	hello  hello
	disk   objstore.Disk // nil before a hello with an asd
	met    bool          // hello was said
	within bool          // a request has begun and is not answered
	over   bool          // hang up after the answer
	out    []byte        // header and meta of the answer
}

// grace is how long n bytes may take.
func grace(patience time.Duration, n int) time.Duration {
	return patience * time.Duration(1+n>>20)
}

func (v *visit) run() error {
	for !v.over {
		v.within = false
		if err := v.c.SetReadDeadline(time.Now().Add(v.s.o.Idle)); err != nil {
			return err
		}
		var head [headerLen]byte
		if _, err := io.ReadFull(v.c, head[:]); err != nil {
			return err
		}
		v.within = true
		r, err := parseRequest(head)
		if err != nil {
			return err
		}
		if v.met == (r.op == opHello) {
			return violated("%v out of turn", r.op)
		}
		if err := v.c.SetReadDeadline(time.Now().Add(grace(v.s.o.Patience, r.meta+r.data))); err != nil {
			return err
		}
		meta, err := readFull(v.c, r.meta)
		if err != nil {
			return err
		}
		ctx, cancel := v.ctx, context.CancelFunc(func() {})
		if r.limit > 0 {
			ctx, cancel = context.WithTimeout(ctx, r.limit)
		}
		err = v.answer(ctx, r, meta)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// reserve takes n bytes of the server's memory for fragments, and a buffer.
func (v *visit) reserve(n int) (*bufpool.Buf, func(), error) {
	if err := v.s.memory.Acquire(v.ctx, int64(n)); err != nil {
		return nil, nil, err
	}
	b := v.s.pool.Get(n)
	return b, func() {
		b.Release()
		v.s.memory.Release(int64(n))
	}, nil
}

// small is up to how many bytes data is copied behind its header, to be sent in one piece.
const small = 12 << 10

// reply sends an answer. meta may lie in v.out beyond its first headerLen bytes.
func (v *visit) reply(err error, meta, data []byte) error {
	st, text := statusOf(err)
	if err != nil {
		meta, data = []byte(text), nil
		v.over = v.over || st == statusClosed // the next connection gets the disk that took its place
	}
	out := answer{st, len(meta), len(data)}.append(v.out[:0])
	out = append(out, meta...)
	if len(data) <= small {
		out, data = append(out, data...), nil
	}
	v.out = out[:0]
	if cap(v.out) > maxPut {
		v.out = nil
	}
	if err := v.c.SetWriteDeadline(time.Now().Add(grace(v.s.o.Patience, len(out)+len(data)))); err != nil {
		return err
	}
	if _, err := v.c.Write(out); err != nil || len(data) == 0 {
		return err
	}
	_, err = v.c.Write(data)
	return err
}
