package harness

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Network is a network of its own: hosts 0 to n-1, each in a network namespace, which reach each other only
// through a router, a namespace too. The router can drop what one host sends to another, without a word to
// either: a blackhole rule of its routing policy. The namespaces have no names. They end with the test,
// however it ends, and any number of networks use the same addresses side by side.
//
// Safe for concurrent use.
type Network struct {
	router *netns
	hosts  []*netns

	mu      sync.Mutex
	dropped map[[2]int]bool
}

// NewNetwork makes a network. The error says why that is not possible here.
func NewNetwork(t testing.TB, hosts int) (*Network, error) {
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, err
	}
	n := &Network{dropped: map[[2]int]bool{}}
	t.Cleanup(n.close)
	var err error
	if n.router, err = newNetns(); err != nil {
		return nil, err
	}
	for range hosts {
		h, err := newNetns()
		if err != nil {
			return nil, err
		}
		n.hosts = append(n.hosts, h)
	}
	// A strict reverse path filter would turn a loss in one direction into one in both.
	if err := n.router.sysctl("ip_forward", "1"); err != nil {
		return nil, err
	}
	for _, conf := range []string{"all", "default"} {
		if err := n.router.sysctl("conf/"+conf+"/rp_filter", "0"); err != nil {
			return nil, err
		}
	}
	for i, h := range n.hosts {
		if err := n.router.ip(
			fmt.Sprintf("link add h%d type veth peer name eth0 netns /proc/%d/fd/%d", i, os.Getpid(), h.file.Fd()),
			fmt.Sprintf("addr add 10.77.%d.1/24 dev h%d", i, i),
			fmt.Sprintf("link set h%d up", i),
		); err != nil {
			return nil, err
		}
		if err := h.ip(
			"link set lo up",
			fmt.Sprintf("addr add %s/24 dev eth0", n.IP(i)),
			"link set eth0 up",
			fmt.Sprintf("route add default via 10.77.%d.1", i),
		); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// IP returns the address of a host.
func (n *Network) IP(host int) string { return fmt.Sprintf("10.77.%d.2", host) }

// On runs fn on a host: in its namespace, on a thread of its own. What fn starts is on the host too.
func (n *Network) On(host int, fn func() error) error { return n.hosts[host].do(fn) }

// DialContext returns a function that opens connections from a host. Addresses are literal.
func (n *Network) DialContext(host int) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		// A socket belongs to the namespace that it was made in, and stays there.
		derr := n.hosts[host].do(func() error {
			c, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		})
		return c, derr
	}
}

// Drop loses, from now on, what a host sends to another. With both, also the other way.
func (n *Network) Drop(from, to int, both bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var lines []string
	pairs := [][2]int{{from, to}}
	if both {
		pairs = append(pairs, [2]int{to, from})
	}
	for _, p := range pairs {
		if p[0] == p[1] || n.dropped[p] {
			continue
		}
		n.dropped[p] = true
		lines = append(lines, "rule add "+n.rule(p))
	}
	return n.router.ip(lines...)
}

// Heal makes the network whole again.
func (n *Network) Heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var lines []string
	for p := range n.dropped {
		lines = append(lines, "rule del "+n.rule(p))
	}
	clear(n.dropped)
	return n.router.ip(lines...)
}

func (n *Network) rule(p [2]int) string {
	return fmt.Sprintf("from %s to %s blackhole", n.IP(p[0]), n.IP(p[1]))
}

func (n *Network) close() {
	for _, h := range append(n.hosts, n.router) {
		if h != nil {
			h.file.Close()
		}
	}
}

// netns is a network namespace. It lives as long as the file is open or a process is in it.
type netns struct{ file *os.File }

func ownNetns() (*netns, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	return &netns{f}, err
}

func newNetns() (ns *netns, err error) {
	home, err := ownNetns()
	if err != nil {
		return nil, err
	}
	defer home.file.Close()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, os.NewSyscallError("unshare", err)
	}
	ns, err = ownNetns()
	return ns, home.back(err)
}

// do runs fn in the namespace.
func (ns *netns) do(fn func() error) error {
	home, err := ownNetns()
	if err != nil {
		return err
	}
	defer home.file.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("setns", err)
	}
	return home.back(fn())
}

// back returns the thread to its namespace, with the error of what it did elsewhere.
func (ns *netns) back(err error) error {
	if e := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); e != nil {
		panic("a thread is stuck in a network namespace: " + e.Error())
	}
	runtime.UnlockOSThread()
	return err
}

func (ns *netns) sysctl(name, value string) error {
	return ns.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
}

// ip runs commands of ip(8).
func (ns *netns) ip(lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.do(cmd.Start); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("ip -batch: %w\n%s\n%s", err, strings.Join(lines, "\n"), out.String())
	}
	return nil
}
