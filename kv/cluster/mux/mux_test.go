package mux_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rig struct {
	*mux.Mux
	node, client *identity.Credentials
	refused      atomic.Bool
	served       atomic.Int64
}

// start serves "echo" to everybody of the cluster and "nodes" to nodes.
func start(t *testing.T, o mux.Options) *rig {
	t.Helper()
	ca, err := identity.NewCA(identity.NewClusterID())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{}
	if r.node, err = ca.New(identity.ID{Cluster: ca.Cluster, Kind: identity.Node, Name: "a"}); err != nil {
		t.Fatal(err)
	}
	if r.client, err = ca.New(identity.ID{Cluster: ca.Cluster, Kind: identity.Client, Name: "joe"}); err != nil {
		t.Fatal(err)
	}
	if o.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	r.Mux = mux.New(o)
	echo := func(c *mux.Conn) {
		r.served.Add(1)
		defer c.Close()
		_, _ = io.Copy(c, c)
	}
	check := func(identity.ID, *x509.Certificate) error {
		if r.refused.Load() {
			return identity.ErrIdentity
		}
		return nil
	}
	r.Handle("echo", mux.Service{TLS: r.node.ServerConfig(check, "echo"), Serve: echo})
	r.Handle("nodes", mux.Service{TLS: r.node.ServerConfig(func(id identity.ID, _ *x509.Certificate) error {
		if id.Kind != identity.Node {
			return identity.ErrIdentity
		}
		return nil
	}, "nodes"), Serve: echo})
	var work sync.WaitGroup
	work.Go(r.Run)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		work.Wait()
	})
	return r
}

func (r *rig) say(c *identity.Credentials, protocol, line string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := mux.Dial(ctx, r.Addr().String(), c.ClientConfig("", protocol))
	if err != nil {
		return err
	}
	defer conn.Close()
	return echo(conn, line)
}

func echo(c *mux.Conn, line string) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, line); err != nil {
		return err
	}
	got, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && got != line+"\n" {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

func TestProtocols(t *testing.T) {
	r := start(t, mux.Options{})
	for _, test := range []struct {
		who      *identity.Credentials
		protocol string
		ok       bool
	}{
		{r.node, "echo", true}, {r.client, "echo", true},
		{r.node, "nodes", true}, {r.client, "nodes", false},
		{r.node, "unknown", false},
	} {
		if err := r.say(test.who, test.protocol, "hello"); (err == nil) != test.ok {
			t.Errorf("%s with %s: %v", test.who.ID, test.protocol, err)
		}
	}
	if n := r.served.Load(); n != 3 {
		t.Errorf("%d connections reached a service, want 3", n)
	}
	// Without ALPN nothing is served.
	if _, err := mux.Dial(t.Context(), r.Addr().String(), r.node.ClientConfig("")); err == nil {
		t.Error("a connection without a protocol was admitted")
	}
}

// TestRefusedLater: a peer that is no longer admitted loses its connections.
func TestRefusedLater(t *testing.T) {
	r := start(t, mux.Options{})
	c, err := mux.Dial(t.Context(), r.Addr().String(), r.client.ClientConfig("a", "echo"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := echo(c, "one"); err != nil {
		t.Fatal(err)
	}
	r.refused.Store(true)
	r.Drop(func(c *mux.Conn) bool { return c.Peer.Kind == identity.Client })
	if err := echo(c, "two"); err == nil {
		t.Error("the connection is still open")
	}
	if err := r.say(r.client, "echo", "three"); err == nil {
		t.Error("a refused peer was admitted")
	}
}

// TestSlowStrangers: those who never finish their handshake do not keep others out for longer than the
// handshake may take, and are closed.
func TestSlowStrangers(t *testing.T) {
	r := start(t, mux.Options{MaxHandshakes: 4, HandshakeTimeout: time.Second})
	var strangers []net.Conn
	for range 8 {
		c, err := net.Dial("tcp", r.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		strangers = append(strangers, c)
	}
	for end := time.Now().Add(time.Minute); r.say(r.client, "echo", "hello") != nil; {
		if time.Now().After(end) {
			t.Fatal("slow strangers keep everybody out")
		}
	}
	for _, c := range strangers {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a stranger is still connected: %v", err)
		}
	}
	// Rubbish is no handshake.
	c, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, net.ErrClosed) {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("rubbish keeps the connection open: %v", err)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	r := start(t, mux.Options{MaxConns: 2})
	var open []*mux.Conn
	for range 2 {
		c, err := mux.Dial(t.Context(), r.Addr().String(), r.client.ClientConfig("", "echo"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := echo(c, "hello"); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if err := r.say(r.client, "echo", "hello"); err == nil {
		t.Error("one connection too many was admitted")
	}
	open[0].Close()
	end := time.Now().Add(time.Minute)
	for r.say(r.client, "echo", "hello") != nil {
		if time.Now().After(end) {
			t.Fatal("no connection is admitted although one has ended")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestListener(t *testing.T) {
	r := start(t, mux.Options{})
	l := mux.NewListener(r.Addr())
	r.Handle("late", mux.Service{TLS: r.node.ServerConfig(nil, "late"), Serve: l.Serve})
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			err = c.Close()
		}
		done <- err
	}()
	if err := r.say(r.client, "late", "hello"); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	if err := r.say(r.client, "late", "hello"); err == nil {
		t.Error("a closed listener serves")
	}
}
