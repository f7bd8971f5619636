package kvrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// ClientOptions of Dial. Only Addrs is required.
type ClientOptions struct {
	// Addrs of members to begin with, host:port. Others are learned from them.
	Addrs []string
	// TLS secures the connections and says who we are; nil is plaintext, for tests.
	TLS *tls.Config
	// Credentials replaces TLS, for those who check more than a tls.Config can.
	Credentials credentials.TransportCredentials
	// DialContext opens connections; TCP when nil.
	DialContext func(ctx context.Context, addr string) (net.Conn, error)
	// Conns is how many connections to a member are shared by the stores; 1 when 0.
	Conns int
	// Silence is after how long without a sign of life a member with requests under way is given up, and
	// the requests go elsewhere; 2 s when 0.
	Silence time.Duration
	// Logger receives what an operator should know; nothing is logged when it is nil.
	Logger *slog.Logger

	unchecked bool // leave checking limits to the server, for tests
}

// Client talks to the members of a cluster. Safe for concurrent use.
type Client struct {
	o     ClientOptions
	log   *slog.Logger
	codec codec
	pool  bufferPool
	turn  atomic.Uint32 // spreads the watches over the members
	began time.Time
	// ctx ends with the client.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	peers  map[string]*peer // by address
	known  []string         // addresses, in the order in which they are asked
	shut   map[string]bool  // addresses that failed since a member last admitted us; true: it refused to
	stores map[string]*Store
	closed bool
}

// maxKnown bounds the addresses that a client learns.
const maxKnown = 64

// peer is a member's address with the connections to it.
type peer struct {
	addr  string
	conns []*grpc.ClientConn
	turn  atomic.Uint32
	heard atomic.Int64 // when something was last received, nanoseconds since 1970
}

// heardConn notes when something arrives, be it a part of a large message.
type heardConn struct {
	net.Conn
	at *atomic.Int64
}

func (c heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.at.Store(time.Now().UnixNano())
	}
	return n, err
}

func (p *peer) conn() *grpc.ClientConn {
	return p.conns[int(p.turn.Add(1))%len(p.conns)]
}

// Dial returns a client of the cluster that has members at o.Addrs. It does not wait for a connection.
func Dial(ctx context.Context, o ClientOptions) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(o.Addrs) == 0 {
		return nil, errors.New("kvrpc: ClientOptions.Addrs is empty")
	}
	if o.Conns == 0 {
		o.Conns = 1
	}
	if o.Silence == 0 {
		o.Silence = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		o: o, log: o.Logger, codec: newCodec(), began: time.Now(),
		peers: map[string]*peer{}, stores: map[string]*Store{}, shut: map[string]bool{}, known: slices.Clone(o.Addrs),
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.work.Go(c.watchLinks)
	return c, nil
}

// Store returns the handle of a store; nothing is asked yet.
func (c *Client) Store(name string) *Store {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.stores[name]; ok {
		return s
	}
	s := newStore(c, name)
	c.stores[name] = s
	return s
}

// Close ends every call with ErrClientClosed and closes the connections.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClientClosed
	}
	c.closed = true
	peers := c.peers
	c.peers = nil
	c.mu.Unlock()
	c.cancel()
	var errs []error
	for _, p := range peers {
		for _, conn := range p.conns {
			errs = append(errs, conn.Close())
		}
	}
	c.work.Wait()
	return errors.Join(errs...)
}

// spawn runs fn in a goroutine that Close waits for; false after Close.
func (c *Client) spawn(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.work.Go(fn)
	}
	return !c.closed
}

// Ping measures the way to a member and back.
func (c *Client) Ping(ctx context.Context, addr string) (*kvpb.PingResponse, error) {
	api, err := c.api(addr)
	if err != nil {
		return nil, err
	}
	r, err := api.Ping(ctx, &kvpb.PingRequest{})
	return r, c.callError(ctx, err)
}

// Conn returns a connection to the member at addr, for other services on the same listener. It belongs
// to the client.
func (c *Client) Conn(addr string) (*grpc.ClientConn, error) {
	p, err := c.peer(addr)
	if err != nil {
		return nil, err
	}
	return p.conn(), nil
}

// Addrs returns the members' addresses that are known at present.
func (c *Client) Addrs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.known)
}

// api is the generated client of the member at addr.
func (c *Client) api(addr string) (kvpb.KVClient, error) {
	conn, err := c.Conn(addr)
	if err != nil {
		return nil, err
	}
	return kvpb.NewKVClient(conn), nil
}

// learn remembers the address of a member.
func (c *Client) learn(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if addr != "" && !slices.Contains(c.known, addr) && len(c.known) < maxKnown {
		c.known = append(c.known, addr)
	}
}

func (c *Client) peer(addr string) (*peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClientClosed
	}
	if p, ok := c.peers[addr]; ok {
		return p, nil
	}
	p := &peer{addr: addr}
	for range c.o.Conns {
		conn, err := grpc.NewClient("passthrough:///"+addr, c.dialOptions(p)...)
		if err != nil {
			return nil, err
		}
		p.conns = append(p.conns, conn)
	}
	c.peers[addr] = p
	return p, nil
}

func (c *Client) dialOptions(p *peer) []grpc.DialOption {
	creds := c.o.Credentials
	switch {
	case creds != nil:
	case c.o.TLS != nil:
		creds = credentials.NewTLS(c.o.TLS)
	default:
		creds = insecure.NewCredentials()
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * c.o.Silence,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(c.codec), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
	dial := c.o.DialContext
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	return append(opts, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		return heardConn{conn, &p.heard}, nil
	}))
}

// callError turns the error of a generated method into what it stands for.
func (c *Client) callError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	typed, ok := fromStatus(err)
	switch {
	case ok:
		return typed
	case c.ctx.Err() != nil:
		return ErrClientClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return &connectionError{err}
}

// connectionError is a connection that could not be made or broke.
type connectionError struct{ err error }

func (e *connectionError) Error() string { return "kvrpc: connection: " + e.err.Error() }
func (e *connectionError) Unwrap() error { return e.err }
