package mux

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv/cluster/identity"
)

const (
	// connectTimeout bounds the making of a connection: what is lost silently is noticed by it.
	connectTimeout = time.Second
	// DialTimeout bounds the making of a connection together with its handshake.
	DialTimeout = 3 * time.Second
	// silence is how long a peer may leave what was sent to it unacknowledged.
	silence = 4 * time.Second
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3}

// tune makes the kernel close the connection when the peer has fallen silent.
func tune(c net.Conn) error {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := t.SetKeepAliveConfig(keepAlive); err != nil {
		return err
	}
	rc, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence/time.Millisecond))
	})
	if err != nil {
		return err
	}
	return serr
}

// DialTCP connects to address with the same watch over silent peers that accepted connections have.
func DialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout, KeepAliveConfig: keepAlive}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if err := tune(c); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Dial connects to address with the protocol that stands in the configuration, whose handshake says who
// the peer is. It takes at most DialTimeout.
func Dial(ctx context.Context, address string, config *tls.Config) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	raw, err := DialTCP(ctx, address)
	if err != nil {
		return nil, err
	}
	t := tls.Client(raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	s := t.ConnectionState()
	if len(config.NextProtos) == 1 && s.NegotiatedProtocol != config.NextProtos[0] {
		_ = raw.Close()
		return nil, fmt.Errorf("%s: it does not speak %s", address, config.NextProtos[0])
	}
	peer, err := identity.Peer(s)
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return &Conn{Conn: t, done: make(chan struct{}), Peer: peer, Cert: s.PeerCertificates[0]}, nil
}
