// Package mux carries every service of a node over one listener. A connection is TLS 1.3 from its first
// byte, says by ALPN which service it is for, and is handed to that service only after the handshake, when
// it is known who the peer is: no service decodes a byte from somebody who was not admitted.
//
// What a stranger can use up is bounded: the number of handshakes at once, and the time each may take.
// What a lost peer can use up is bounded too: connections are kept alive by the kernel, which closes them
// a few seconds after the other side has fallen silent, whether it was to send or to listen.
package mux

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// Options of New.
type Options struct {
	// Listener accepts the connections. The Mux closes it.
	Listener net.Listener
	// HandshakeTimeout bounds a handshake; 5 s when 0.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds how many are under way at once; 128 when 0. Further ones wait.
	MaxHandshakes int
	// MaxConns bounds how many connections are open at once; 16384 when 0. Further ones are closed.
	MaxConns int
	// Logger receives what an operator should know; nothing is logged when it is nil.
	Logger *slog.Logger
}

// Service is what a protocol is served with.
type Service struct {
	// TLS is the configuration of the handshake, with the protocol's name alone in NextProtos.
	TLS *tls.Config
	// Serve is called in a goroutine of its own for each connection. From then on the connection is the
	// service's, which closes it some time; Serve may return before.
	Serve func(*Conn)
}

// Conn is a connection whose handshake is done.
type Conn struct {
	*tls.Conn
	// Peer is who is at the other end; zero under a configuration that admits strangers.
	Peer identity.ID
	// Cert is the peer's certificate.
	Cert *x509.Certificate

	once  sync.Once
	onEnd func() // or nil
	done  chan struct{}
}

// Done is closed when Close is called.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close closes the connection. Closing it again does nothing.
func (c *Conn) Close() (err error) {
	c.once.Do(func() {
		// A peer that has fallen silent must not hold up the closing: no goodbye, which tls.Conn.Close
		// would send.
		err = c.NetConn().Close()
		close(c.done)
		if c.onEnd != nil {
			c.onEnd()
		}
	})
	return err
}

// Mux serves protocols on one listener. Safe for concurrent use.
type Mux struct {
	opts  Options
	slots chan struct{} // one for each handshake under way

	mu       sync.Mutex
	services map[string]Service
	conns    map[*Conn]struct{}
	raw      map[net.Conn]struct{} // in their handshake
	closed   bool
	work     sync.WaitGroup
	stop     chan struct{}
}

// New returns a Mux that serves nothing yet: see Handle and Run.
func New(o Options) *Mux {
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 5 * time.Second
	}
	if o.MaxHandshakes == 0 {
		o.MaxHandshakes = 128
	}
	if o.MaxConns == 0 {
		o.MaxConns = 16 << 10
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Mux{
		opts: o, slots: make(chan struct{}, o.MaxHandshakes), stop: make(chan struct{}),
		services: map[string]Service{}, conns: map[*Conn]struct{}{}, raw: map[net.Conn]struct{}{},
	}
}

// Handle sets the service of a protocol.
func (m *Mux) Handle(protocol string, s Service) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.services[protocol] = s
}

// Addr is where the Mux listens.
func (m *Mux) Addr() net.Addr { return m.opts.Listener.Addr() }

// Run accepts connections until Close.
func (m *Mux) Run() {
	for {
		select {
		case m.slots <- struct{}{}:
		case <-m.stop:
			return
		}
		c, err := m.opts.Listener.Accept()
		if err != nil {
			<-m.slots
			select {
			case <-m.stop:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: others will close theirs.
			m.opts.Logger.Error("cannot accept a connection", "cause", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-m.stop:
				return
			}
			continue
		}
		if !m.begin(c) {
			<-m.slots
			_ = c.Close()
			continue
		}
		go m.serve(c)
	}
}

func (m *Mux) begin(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || len(m.conns)+len(m.raw) >= m.opts.MaxConns {
		return false
	}
	m.raw[c] = struct{}{}
	m.work.Add(1)
	return true
}

// serve shakes hands and calls the service.
func (m *Mux) serve(raw net.Conn) {
	defer m.work.Done()
	conn, service, err := m.handshake(raw)
	<-m.slots
	m.mu.Lock()
	delete(m.raw, raw)
	admitted := err == nil && !m.closed
	if admitted {
		m.conns[conn] = struct{}{}
	}
	m.mu.Unlock()
	if !admitted {
		_ = raw.Close()
		if err != nil {
			m.opts.Logger.Debug("refused a connection", "from", raw.RemoteAddr(), "cause", err)
		}
		return
	}
	service.Serve(conn)
}

func (m *Mux) handshake(raw net.Conn) (*Conn, Service, error) {
	// A connection that is not TCP is a test's.
	_ = tune(raw)
	var service Service
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, p := range h.SupportedProtos {
				if s, ok := m.services[p]; ok {
					service = s
					return s.TLS, nil
				}
			}
			return nil, fmt.Errorf("no service for the protocols %q", h.SupportedProtos)
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.opts.HandshakeTimeout)
	defer cancel()
	t := tls.Server(raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, service, err
	}
	c := &Conn{Conn: t, done: make(chan struct{}), Cert: t.ConnectionState().PeerCertificates[0]}
	c.Peer, _ = identity.FromCertificate(c.Cert) // fails for strangers, who may only be admitted
	c.onEnd = func() {
		m.mu.Lock()
		delete(m.conns, c)
		m.mu.Unlock()
	}
	return c, service, nil
}

// Drop closes the connections that refused returns true for.
func (m *Mux) Drop(refused func(*Conn) bool) {
	m.mu.Lock()
	var out []*Conn
	for c := range m.conns {
		if refused(c) {
			out = append(out, c)
		}
	}
	m.mu.Unlock()
	for _, c := range out {
		_ = c.Close()
	}
}

// Conns returns how many connections are open.
func (m *Mux) Conns() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns)
}

// Close stops accepting, closes every connection and waits until no Serve is running.
func (m *Mux) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return net.ErrClosed
	}
	m.closed = true
	close(m.stop)
	for c := range m.raw {
		_ = c.Close()
	}
	m.mu.Unlock()
	err := m.opts.Listener.Close()
	m.Drop(func(*Conn) bool { return true })
	m.work.Wait()
	return err
}
