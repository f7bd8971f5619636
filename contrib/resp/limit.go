package main

import (
	"errors"
	"net"
)

// maxRequest is how many bytes a client may send for the commands that are answered together.
const maxRequest = 64 << 20

var errRequest = errors.New("resp: a request over the limit")

// boundedListener bounds what each of its connections gathers before a command is complete.
type boundedListener struct{ net.Listener }

func (l boundedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &boundedConn{Conn: c}, nil
}

// boundedConn is used by one goroutine.
type boundedConn struct {
	net.Conn
	got int // bytes since the last commands were complete
}

func (c *boundedConn) Read(p []byte) (int, error) {
	if c.got > maxRequest {
		return 0, errRequest
	}
	n, err := c.Conn.Read(p)
	c.got += n
	return n, err
}

func (c *boundedConn) complete() { c.got = 0 }
