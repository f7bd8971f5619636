// Bench measures a gabion cluster beside etcd and redis-server, on this machine, in the same run: each row
// on one system after the other, so that whatever else the machine does meets all of them.
//
//	cd contrib/bench && go run . --members 3 --dir DIR
//	cd contrib/bench && go run . --members 1 --rounds 3 --json
//
// The rules are the same for all: every member is a process of its own on loopback with its data below
// --dir, a durable write is on the disk of a quorum before it is acknowledged, and a number of clients
// shares as many connections. gabion and etcd speak TLS between the members and to the clients (--plain-etcd
// spares etcd both); etcd's client talks to the leader, which is the best case for it. redis-server
// (--members 1 only) has appendfsync always, a connection for each client, and no TLS.
//
// etcd's client is why this is a module of its own: its dependencies stay out of gabion's.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/gabionfs/gabion/kv/kvbench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type config struct {
	dir, systems, clients, kinds string
	members, rounds, conns       int
	duration                     time.Duration
	plainEtcd, json              bool
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "node" {
		c, err := kvbench.ParseNodeConfig(args[1:])
		if err != nil {
			return err
		}
		return kvbench.RunNode(ctx, c, os.Stdin, os.Stdout)
	}
	var c config
	fl := flag.NewFlagSet("bench", flag.ContinueOnError)
	fl.StringVar(&c.dir, "dir", "", "folder to work below; a temporary one when empty")
	fl.StringVar(&c.systems, "systems", "gabion,etcd,redis", "what to measure; redis only with one member")
	fl.StringVar(&c.clients, "clients", "1,16,256", "numbers of clients")
	fl.StringVar(&c.kinds, "kinds", "durable,ordered,reads,ranges", "what to measure of each")
	fl.IntVar(&c.members, "members", 3, "members of each system")
	fl.IntVar(&c.rounds, "rounds", 1, "how often; the medians are shown")
	fl.IntVar(&c.conns, "conns", 0, "connections that the clients share; 0: one for each 16 clients")
	fl.DurationVar(&c.duration, "duration", 2*time.Second, "time that a figure takes")
	fl.BoolVar(&c.plainEtcd, "plain-etcd", false, "run etcd without TLS")
	fl.BoolVar(&c.json, "json", false, "print every figure as a line of JSON")
	if err := fl.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(c.dir, "gabion-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return c.compare(ctx, dir)
}

// system is a kvbench.System with processes to stop.
type system struct {
	kvbench.System
	stop func() error
}

func (c *config) start(ctx context.Context, dir, name string) (*system, error) {
	dir = filepath.Join(dir, name)
	switch name {
	case "gabion":
		return startGabion(ctx, dir, c.members)
	case "etcd":
		return startEtcd(ctx, dir, c.members, !c.plainEtcd)
	case "redis":
		return startRedis(ctx, dir)
	}
	return nil, fmt.Errorf("no system %q", name)
}

func startGabion(ctx context.Context, dir string, members int) (*system, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g, err := kvbench.StartGroup(ctx, dir, members, func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, exe, append([]string{"node"}, args...)...)
	})
	if err != nil {
		return nil, err
	}
	return &system{
		System: kvbench.System{Name: "gabion", Dial: func(ctx context.Context, conns, _ int) (kvbench.Target, error) { return g.Target(ctx, conns) }},
		stop:   g.Close,
	}, nil
}

var kindNames = map[string]kvbench.Kind{
	"durable": kvbench.DurableWrites, "ordered": kvbench.OrderedWrites, "reads": kvbench.LatestReads, "ranges": kvbench.Ranges,
}

func (c *config) compareConfig() (out kvbench.CompareConfig, err error) {
	out.Duration = c.duration
	for _, s := range strings.Split(c.clients, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return out, fmt.Errorf("-clients %s: numbers above 0", c.clients)
		}
		out.Clients = append(out.Clients, n)
	}
	for _, s := range strings.Split(c.kinds, ",") {
		k, ok := kindNames[s]
		if !ok {
			return out, fmt.Errorf("-kinds %s: there is no %q", c.kinds, s)
		}
		out.Kinds = append(out.Kinds, k)
	}
	if c.conns > 0 {
		out.Conns = func(int) int { return c.conns }
	}
	return out, nil
}

func (c *config) compare(ctx context.Context, dir string) (err error) {
	cc, err := c.compareConfig()
	if err != nil {
		return err
	}
	var systems []kvbench.System
	for _, name := range strings.Split(c.systems, ",") {
		if name == "redis" && c.members != 1 {
			continue
		}
		s, serr := c.start(ctx, dir, name)
		if serr != nil {
			return fmt.Errorf("%s: %w", name, serr)
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		systems = append(systems, s.System)
	}
	var all []kvbench.Result
	for range c.rounds {
		if err := kvbench.Compare(ctx, systems, cc, func(r kvbench.Result) error {
			all = append(all, r)
			if c.json {
				return json.NewEncoder(os.Stdout).Encode(r)
			}
			fmt.Fprintf(os.Stderr, "\r\x1b[K%s, %d clients, %s: %.0f %s", r.Kind, r.Clients, r.System, r.Value, r.Unit)
			return nil
		}); err != nil {
			return err
		}
	}
	if c.json {
		return nil
	}
	fmt.Fprint(os.Stderr, "\r\x1b[K")
	return printMedians(all)
}

// printMedians prints the result of the middle of each row and system, with its latencies.
func printMedians(all []kvbench.Result) error {
	type row struct {
		kind    kvbench.Kind
		clients int
		system  string
	}
	var order []row
	by := map[row][]kvbench.Result{}
	for _, r := range all {
		k := row{r.Kind, r.Clients, r.System}
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], r)
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tclients\tsystem\t\t\tp50 ms\tp90\tp99\tmax\t")
	for _, k := range order {
		rs := by[k]
		slices.SortFunc(rs, func(a, b kvbench.Result) int { return cmp.Compare(a.Value, b.Value) })
		r := rs[len(rs)/2]
		fmt.Fprintf(t, "%s\t%d\t%s\t%.0f\t%s\t%.2f\t%.2f\t%.2f\t%.1f\t\n", r.Kind, r.Clients, r.System, r.Value, r.Unit, r.P50, r.P90, r.P99, r.Max)
	}
	return t.Flush()
}
