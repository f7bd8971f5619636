package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

// The client's host on the network. Node i is on host i.
const clientHost = 0

// storeName is the store that histories are about.
const storeName = "registers"

// options of a cluster under test.
type options struct {
	nodes   int
	spares  int  // hosts for nodes that come later
	loops   bool // each node's directory is on a filesystem of its own
	network bool // faults of the network are wanted
	flush   int  // bytes that a member gathers before it writes its state file; 0 is the default
	clocks  bool // the nodes' wall clocks can be made to jump
}

// cluster is a number of nodes that run, or do not, on hosts of a network.
type cluster struct {
	t      testing.TB
	o      options
	net    *harness.Network // nil where there can be none
	dir    string
	binary string // gabion

	mu     sync.Mutex
	nodes  []*node // node i at i-1; those that came later behind them
	bundle string  // file with an administrator's credentials
}

// node is one node: a directory, an address, and a process if it runs.
type node struct {
	c     *cluster
	id    string
	host  int
	addr  string
	dir   string
	loop  *harness.Loop
	clock *wallClock

	mu      sync.Mutex
	child   *harness.Child // the last one that was started
	joined  bool           // the cluster
	removed bool           // from it
	logs    []string       // of the children before
}

// startCluster makes a cluster with the store. It waits until the store can be written to.
func startCluster(t testing.TB, o options) *cluster {
	c := &cluster{t: t, o: o, dir: t.TempDir(), binary: harness.Binary(t)}
	var err error
	if c.net, err = harness.NewNetwork(t, 1+o.nodes+o.spares); err != nil {
		t.Logf("no network namespaces, so no partitions: %v", err)
		c.net = nil
	}
	t.Cleanup(c.showLogs)
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(patience))
	defer cancel()
	first := c.newNode(1)
	c.must(c.role(ctx, first, "init", first.dir, first.id, first.addr))
	first.begin()
	c.bundle = filepath.Join(c.dir, "admin.pem")
	c.must(c.role(ctx, first, "bundle", first.dir, c.bundle))
	for i := 2; i <= o.nodes; i++ {
		c.must2(c.join(ctx, i))
	}
	c.must(c.admin(ctx, "create-store", storeName))
	c.must(c.settle(ctx, o.nodes))
	return c
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) must2(_ *node, err error) {
	c.t.Helper()
	c.must(err)
}

// newNode prepares the node on a host, which does not run yet.
func (c *cluster) newNode(host int) *node {
	n := &node{c: c, id: fmt.Sprintf("n%d", host), host: host}
	if c.net != nil {
		n.addr = c.net.IP(host) + ":7000"
	} else {
		// Any address of the loopback net will do; nobody else draws the same.
		n.addr = fmt.Sprintf("127.%d.%d.%d:%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250), 10000+rand.IntN(20000))
	}
	n.dir = filepath.Join(c.dir, n.id)
	if c.o.loops {
		n.loop = harness.NewLoop(c.t, "ext4", 256<<20)
		n.dir = filepath.Join(n.loop.Dir, n.id)
	}
	if c.o.clocks {
		n.clock = new(wallClock)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
	return n
}

// join makes a node that joins and runs.
func (c *cluster) join(ctx context.Context, host int) (*node, error) {
	peers := c.addrs()
	n := c.newNode(host)
	token, err := c.adminOut(ctx, "token")
	if err != nil {
		return n, err
	}
	if err := c.role(ctx, n, "join", n.dir, n.id, n.addr, strings.Join(peers, ","), strings.TrimSpace(token)); err != nil {
		return n, err
	}
	n.begin()
	return n, nil
}

// all returns the nodes, removed ones too.
func (c *cluster) all() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*node(nil), c.nodes...)
}

// members returns the nodes that have not been removed.
func (c *cluster) members() []*node {
	var out []*node
	for _, n := range c.all() {
		n.mu.Lock()
		if !n.removed {
			out = append(out, n)
		}
		n.mu.Unlock()
	}
	return out
}

// addrs returns the addresses of the members.
func (c *cluster) addrs() (out []string) {
	for _, n := range c.members() {
		out = append(out, n.addr)
	}
	return out
}

// role runs one of the test binary's roles on a node's host until it ends.
func (c *cluster) role(ctx context.Context, n *node, name string, args ...string) error {
	_, err := c.run(ctx, n.host, name, args...)
	return err
}

// admin runs a command of the administration on the client's host.
func (c *cluster) admin(ctx context.Context, args ...string) error {
	_, err := c.adminOut(ctx, args...)
	return err
}

func (c *cluster) adminOut(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, clientHost, "admin", append([]string{c.bundle, strings.Join(c.addrs(), ",")}, args...)...)
}

func (c *cluster) run(ctx context.Context, host int, name string, args ...string) (string, error) {
	cmd, err := harness.RoleCommand(name, args...)
	if err != nil {
		return "", err
	}
	child := harness.GoBy(c.t, "role "+name, cmd, c.starter(host, (*exec.Cmd).Start))
	limit := harness.Patience(patience)
	if d, ok := ctx.Deadline(); ok {
		limit = time.Until(d)
	}
	return child.Wait(limit)
}

// starter returns what starts a command on a host.
func (c *cluster) starter(host int, start func(*exec.Cmd) error) func(*exec.Cmd) error {
	if c.net == nil {
		return start
	}
	return func(cmd *exec.Cmd) error { return c.net.On(host, func() error { return start(cmd) }) }
}

// begin starts the node for the first time. Until then no fault starts it.
func (n *node) begin() {
	n.mu.Lock()
	n.joined = true
	n.mu.Unlock()
	n.start()
}

// start starts the node's process, unless it runs.
func (n *node) start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.joined || n.removed || n.running() {
		return
	}
	if n.child != nil {
		n.logs = append(n.logs, n.child.Output())
	}
	cmd, err := n.command()
	if err != nil {
		n.c.t.Error(err)
		return
	}
	start := (*exec.Cmd).Start
	if n.clock != nil {
		start = n.clock.start
	}
	n.child = harness.GoBy(n.c.t, "node "+n.id, cmd, n.c.starter(n.host, start))
}

// running reports whether the process is there. The caller holds mu.
func (n *node) running() bool {
	if n.child == nil {
		return false
	}
	select {
	case <-n.child.Ended():
		return false
	default:
		return true
	}
}

// kill ends the process as a crash does.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child != nil {
		n.child.Kill()
		<-n.child.Ended()
	}
}

// signal stops the process or lets it go on.
func (n *node) signal(s syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running() {
		n.child.Signal(s)
	}
}

// remove notes that the cluster goes on without the node.
func (n *node) remove() {
	n.kill()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed = true
}

// output returns what the node has printed in all its lives.
func (n *node) output() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b strings.Builder
	for i, l := range n.logs {
		fmt.Fprintf(&b, "--- life %d\n%s", i+1, l)
	}
	if n.child != nil {
		fmt.Fprintf(&b, "--- life %d\n%s", len(n.logs)+1, n.child.Output())
	}
	return b.String()
}

// maxLog bounds what is shown of a node's log.
const maxLog = 24 << 10

// showLogs writes the logs to files when the test fails, and shows their ends.
func (c *cluster) showLogs() {
	if !c.t.Failed() {
		return
	}
	for _, n := range c.all() {
		out := n.output()
		path := filepath.Join(os.TempDir(), fmt.Sprintf("gabion-%s-%s.log", strings.ReplaceAll(c.t.Name(), "/", "-"), n.id))
		if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
			c.t.Log(err)
		}
		c.t.Logf("log of %s, all of it in %s:\n%s", n.id, path, out[max(0, len(out)-maxLog):])
	}
}
