package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Nodes is a cluster of `gabion node` processes on this machine's loopback, on ports that the system
// chooses, so that a node that starts again has another address. Its methods end the test when something
// is not as it should be. To be used by the test's goroutine, but for Try.
type Nodes struct {
	t      testing.TB
	bin    string
	dir    string
	Bundle string // file of an administrator
	list   []*ClusterNode
}

// ClusterNode is one node: its directory, and the process that runs there, if any.
type ClusterNode struct {
	c       *Nodes
	ID, Dir string
	Addr    string // since the last start
	child   *Child
}

// StartNodes begins a cluster of n nodes, named n1, n2 and so on, and waits until all vote.
func StartNodes(t testing.TB, n int) *Nodes {
	t.Helper()
	dir := t.TempDir()
	c := &Nodes{t: t, bin: Binary(t), dir: dir, Bundle: filepath.Join(dir, "admin.pem")}
	t.Cleanup(func() {
		if t.Failed() {
			c.dump()
		}
	})
	first := &ClusterNode{c: c, ID: "n1", Dir: filepath.Join(dir, "n1")}
	c.list = append(c.list, first)
	c.run("cluster", "init", "--data", first.Dir, "--id", first.ID, "--listen", "127.0.0.1:0")
	first.Start()
	c.run("cluster", "client", "admin", c.Bundle, "--admin", "--data", first.Dir)
	for i := 1; i < n; i++ {
		c.Join(fmt.Sprintf("n%d", i+1))
	}
	WaitFor(t, startLimit, "all nodes to vote", func() bool {
		var s clusterStatus
		out, code := c.Try("cluster", "status", "--json")
		if json.Unmarshal([]byte(out), &s) != nil || code != 0 || len(s.Stores) == 0 {
			return false
		}
		voters := 0
		for _, m := range s.Stores[0].Members {
			if m.Voter {
				voters++
			}
		}
		return voters == n
	})
	// The first bundle has the address of the first node alone, which a test may kill.
	c.Bundle = filepath.Join(dir, "operator.pem")
	c.run("cluster", "client", "operator", c.Bundle, "--admin", "--data", first.Dir)
	return c
}

// clusterStatus is what is needed of `gabion cluster status --json`.
type clusterStatus struct {
	Stores []struct {
		Name, Leader string
		Members      []struct {
			Node  string
			Voter bool
		}
	}
}

// Join adds a node with a token, and runs it.
func (c *Nodes) Join(id string) *ClusterNode {
	c.t.Helper()
	token := filepath.Join(c.dir, id+".token")
	if err := os.WriteFile(token, []byte(c.Command("cluster", "token")), 0o600); err != nil {
		c.t.Fatal(err)
	}
	n := &ClusterNode{c: c, ID: id, Dir: filepath.Join(c.dir, id)}
	c.list = append(c.list, n)
	n.Start("--id", id, "--token-file", token)
	return n
}

// Node returns the node of that name.
func (c *Nodes) Node(id string) *ClusterNode {
	c.t.Helper()
	for _, n := range c.list {
		if n.ID == id {
			return n
		}
	}
	c.t.Fatalf("there is no node %q", id)
	return nil
}

// Leader waits until a running node leads the store, and returns it.
func (c *Nodes) Leader(store string) *ClusterNode {
	c.t.Helper()
	var leader string
	WaitFor(c.t, startLimit, "a leader of "+store, func() bool {
		var s clusterStatus
		out, _ := c.Try("cluster", "status", "--json")
		if json.Unmarshal([]byte(out), &s) != nil {
			return false
		}
		for _, st := range s.Stores {
			if st.Name == store {
				leader = st.Leader
			}
		}
		return leader != "" && c.Node(leader).Running()
	})
	return c.Node(leader)
}

var nodeReady = regexp.MustCompile(`(?m)^ready: node=(\S+) listen=(\S+) cluster=[0-9a-f]{32}$`)

// Start runs the node and waits for its ready line.
func (n *ClusterNode) Start(args ...string) {
	t := n.c.t
	t.Helper()
	cmd := exec.Command(n.c.bin, append([]string{"node", "--data", n.Dir, "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env, cmd.Dir = n.c.environment(), n.c.dir
	n.child = Go(t, "node "+n.ID, cmd)
	var m []string
	WaitFor(t, startLimit, "node "+n.ID+" to be ready", func() bool {
		if !n.Running() {
			t.Fatalf("node %s has ended: %s", n.ID, n.child.Output())
		}
		m = nodeReady.FindStringSubmatch(n.child.Output())
		return m != nil
	})
	if m[1] != n.ID {
		t.Fatalf("node %s calls itself %s", n.ID, m[1])
	}
	n.Addr = m[2]
}

// Running reports whether the process runs.
func (n *ClusterNode) Running() bool {
	select {
	case <-n.child.Ended():
		return false
	default:
		return true
	}
}

// Kill ends the process with SIGKILL.
func (n *ClusterNode) Kill() {
	n.child.Kill()
	<-n.child.Ended()
}

// Stop ends the process with SIGTERM and wants it to exit with 0.
func (n *ClusterNode) Stop() {
	n.c.t.Helper()
	n.child.Signal(syscall.SIGTERM)
	if _, err := n.child.Wait(stopLimit); err != nil {
		n.c.t.Fatal(err)
	}
}

// environment is ours, with the administrator's file for the commands.
func (c *Nodes) environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GABION_") {
			env = append(env, v)
		}
	}
	return append(env, "GABION_CLUSTER="+c.Bundle)
}

// Command runs a command of gabion as the cluster's administrator, wants it to succeed, and returns what
// it printed on standard output.
func (c *Nodes) Command(args ...string) string {
	c.t.Helper()
	return c.run(args...)
}

func (c *Nodes) run(args ...string) string {
	c.t.Helper()
	out, stderr, code := c.Full("", args...)
	if code != 0 {
		c.t.Fatalf("gabion %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, stderr)
	}
	return out
}

// Try runs a command and returns what it printed on standard output, and its exit code.
func (c *Nodes) Try(args ...string) (string, int) {
	out, _, code := c.Full("", args...)
	return out, code
}

// Full runs a command with standard input. Exit code -1 is one that was killed for taking too long.
func (c *Nodes) Full(in string, args ...string) (stdout, stderr string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience(CommandLimit))
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env, cmd.Dir = c.environment(), c.dir
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return out.String(), err.Error(), -1
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// dump writes what the nodes have printed to the test's log.
func (c *Nodes) dump() {
	for _, n := range c.list {
		if n.child != nil {
			c.t.Logf("node %s printed:\n%s", n.ID, n.child.Output())
		}
	}
}
