package kvrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// ServerOptions of NewServer. Only Stores is required.
type ServerOptions struct {
	// Stores returns this process's member of a store, or an error that matches kv.ErrNoStore. It is asked
	// for every message and must be quick.
	Stores func(name string) (Member, error)
	// NodeID is told by Status.
	NodeID string
	// Addr returns the address at which clients reach a node, or "" when it is unknown. Node IDs are told
	// as they are when it is nil.
	Addr func(nodeID string) string
	// Procedures that clients may call, by name.
	Procedures map[string]Procedure
	// MaxStreams is how many streams one client connection may have open; 256 when 0.
	MaxStreams int
	// MaxWatches is how many watches one client connection may have open; 128 when 0.
	MaxWatches int
	// Version of the program, for Ping.
	Version string
	// Logger receives what an operator should know; nothing is logged when it is nil.
	Logger *slog.Logger
}

// Server serves the stores of this process. Safe for concurrent use.
type Server struct {
	o      ServerOptions
	log    *slog.Logger
	codec  codec
	pool   bufferPool
	ctx    context.Context // ends with the server
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	hosts   map[string]*host
	watches map[string]int // by client
	closed  bool

	leases leases // of exclusive sessions, see session_lease.go

	operations, failures, streams, watching atomic.Uint64
}

// NewServer returns a server. Register puts it on a grpc.Server that was made with its GRPCOptions.
func NewServer(o ServerOptions) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Addr == nil {
		o.Addr = func(id string) string { return id }
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 256
	}
	if o.MaxWatches == 0 {
		o.MaxWatches = 128
	}
	s := &Server{o: o, log: o.Logger, codec: newCodec(), hosts: map[string]*host{}, watches: map[string]int{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work.Go(s.forgetIdle)
	return s
}

// GRPCOptions are what the grpc.Server must be made with: the codec of this package, which leaves the
// messages of other services to the ordinary one, and limits on what clients may send.
func (s *Server) GRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(s.codec),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(uint32(s.o.MaxStreams)),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Register adds the KV service and the Session service to g.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	g.RegisterService(&serviceDesc, s)
	stores := func(name string) (SessionMember, error) { return s.o.Stores(name) }
	kvpb.RegisterSessionServer(g, &sessionServer{stores: stores, address: s.o.Addr, leases: &s.leases, ctx: s.ctx, log: s.log})
}

// Close ends what runs for clients: streams and watches end, writes that are under way are not waited
// for. The members stay open.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.work.Wait()
}

// spawn runs fn in a goroutine that Close waits for; false after Close.
func (s *Server) spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Go(fn)
	}
	return !s.closed
}

// host returns what serves the store's member.
func (s *Server) host(name string) (*host, error) {
	m, err := s.o.Stores(name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, kv.ErrClosed
	}
	if h := s.hosts[name]; h != nil && h.member == m {
		return h, nil
	}
	h := &host{server: s, member: m, eraBase: rand.Uint64() | 1<<63}
	s.hosts[name] = h
	return h, nil
}

// forgetIdle is the goroutine that removes what the stores remember of clients that are gone.
func (s *Server) forgetIdle() {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.mu.Lock()
			hosts := make(map[string]*host, len(s.hosts))
			for name, h := range s.hosts {
				hosts[name] = h
			}
			s.mu.Unlock()
			for name, h := range hosts {
				if err := h.forgetIdle(s.ctx, hour()); err != nil && !errors.Is(err, kv.ErrClosed) {
					s.log.Warn("could not forget idle clients", "store", name, "err", err)
				}
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// check refuses an operation before anything is done for it.
func (s *Server) check(r *request) error {
	switch r.op {
	case opGet:
		for i := range r.keys {
			// A key over its limit is not an error: it does not exist.
			if err := checkKeyspace(r.keys[i].Keyspace); err != nil {
				return err
			}
		}
	case opApply:
		for i := range r.steps {
			if err := checkKeyspace(r.steps[i].Keyspace); err != nil {
				return err
			}
		}
		if err := kv.CheckSteps(r.steps); err != nil {
			return err
		}
		return r.write.check()
	case opCall:
		return r.write.check()
	}
	return nil
}

func checkKeyspace(ks kv.Keyspace) error {
	if ks.Reserved() {
		return invalid("the keyspace %q is reserved", ks)
	}
	if len(ks) < 1 || len(ks) > kv.MaxKeyspace {
		return &kv.TooLargeError{What: "keyspace", Size: len(ks), Max: kv.MaxKeyspace}
	}
	return nil
}

func (s *Server) hostOf(r *request) (*host, error) {
	h, err := s.host(r.store)
	if err != nil {
		if errors.Is(err, kv.ErrNoStore) {
			return nil, fmt.Errorf("%w: %q", kv.ErrNoStore, r.store)
		}
		return nil, err
	}
	return h, nil
}
