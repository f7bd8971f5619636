package harness

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// SlowLink carries connections to a server, and can make everything on the way there late.
type SlowLink struct {
	Address string // to connect to

	to    string
	delay atomic.Int64
	work  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	over  bool
	conns map[net.Conn]bool
}

// NewSlowLink begins to carry connections to an address, until the end of the test.
func NewSlowLink(t testing.TB, to string) *SlowLink {
	t.Helper()
	l, err := net.Listen("tcp", Loopback()+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &SlowLink{Address: l.Addr().String(), to: to, conns: make(map[net.Conn]bool)}
	s.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			s.work.Go(func() { s.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		s.over = true
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.work.Wait()
	})
	return s
}

// Delay makes all that is sent from now on late by d.
func (s *SlowLink) Delay(d time.Duration) { s.delay.Store(int64(d)) }

// hold remembers a connection, to be closed at the end; without one it is closed now.
func (s *SlowLink) hold(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		c.Close()
		return false
	}
	s.conns[c] = true
	return true
}

func (s *SlowLink) drop(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	c.Close()
}

func (s *SlowLink) carry(client net.Conn) {
	if !s.hold(client) {
		return
	}
	defer s.drop(client)
	server, err := net.Dial("tcp", s.to)
	if err != nil || !s.hold(server) {
		return
	}
	defer s.drop(server)
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(client, server)
		client.Close() // ends the other direction, too
	}()
	late := make(chan piece, 64)
	go func() {
		defer close(late)
		for {
			buf := make([]byte, 64<<10)
			n, err := client.Read(buf)
			if n > 0 {
				late <- piece{buf[:n], time.Now().Add(time.Duration(s.delay.Load()))}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range late {
		time.Sleep(time.Until(p.due))
		if _, err := server.Write(p.bytes); err != nil {
			client.Close() // ends what fills the channel
		}
	}
	server.Close()
	<-back
}

// piece is what was sent, and when it is to arrive.
type piece struct {
	bytes []byte
	due   time.Time
}
