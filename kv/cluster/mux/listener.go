package mux

import (
	"net"
	"sync"
)

// Listener is a net.Listener of one protocol's connections, for servers that accept by themselves.
type Listener struct {
	addr  net.Addr
	conns chan *Conn
	stop  chan struct{}
	once  sync.Once
}

// NewListener returns a listener that Serve feeds.
func NewListener(addr net.Addr) *Listener {
	return &Listener{addr: addr, conns: make(chan *Conn), stop: make(chan struct{})}
}

// Serve is a Service's Serve: it hands the connection to Accept.
func (l *Listener) Serve(c *Conn) {
	select {
	case l.conns <- c:
	case <-l.stop:
		_ = c.Close()
	}
}

// Accept implements net.Listener. What it returns are *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.stop:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that were accepted stay open.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.stop) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }
