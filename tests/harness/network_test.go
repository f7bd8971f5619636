package harness

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// TestNetwork: hosts reach each other until the router drops what they send, in one direction or in both.
func TestNetwork(t *testing.T) {
	n, err := NewNetwork(t, 3)
	if err != nil {
		t.Skipf("network namespaces: %v", err)
	}
	conns := make([]net.PacketConn, 3)
	for i := range conns {
		if err := n.hosts[i].do(func() (err error) {
			conns[i], err = net.ListenPacket("udp4", n.IP(i)+":7")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	serial := byte(0)
	passes := func(from, to int) bool {
		t.Helper()
		serial++
		addr := &net.UDPAddr{IP: net.ParseIP(n.IP(to)), Port: 7}
		if _, err := conns[from].WriteTo([]byte{serial}, addr); err != nil {
			t.Fatal(err) // the loss must be silent
		}
		// Nothing is reordered or delayed between namespaces: what is not there now does not come.
		for {
			if err := conns[to].SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 1)
			_, _, err := conns[to].ReadFrom(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			}
			if err != nil {
				t.Fatal(err)
			}
			if b[0] == serial {
				return true
			}
		}
	}
	expect := func(lost ...[2]int) {
		t.Helper()
		for from := range 3 {
			for to := range 3 {
				want := from != to
				for _, l := range lost {
					want = want && l != [2]int{from, to}
				}
				if from == to {
					continue
				}
				if want {
					WaitFor(t, time.Minute, "a datagram", func() bool { return passes(from, to) })
				} else if passes(from, to) {
					t.Errorf("a datagram passed from %d to %d", from, to)
				}
			}
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect()
	check(n.Drop(0, 1, false))
	expect([2]int{0, 1})
	check(n.Drop(0, 1, true))
	check(n.Drop(1, 2, false))
	expect([2]int{0, 1}, [2]int{1, 0}, [2]int{1, 2})
	check(n.Heal())
	expect()

	// A second network with the same addresses, and a stream between two hosts.
	other, err := NewNetwork(t, 2)
	check(err)
	var l net.Listener
	check(other.hosts[1].do(func() (err error) {
		l, err = net.Listen("tcp4", other.IP(1)+":0")
		return err
	}))
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := other.DialContext(0)(ctx, "tcp", l.Addr().String())
	check(err)
	c.Close()
	if c, err := n.DialContext(0)(ctx, "tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("one network reaches the other")
	}
}
