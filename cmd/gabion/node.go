package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/interrupt"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/objstore/local"
	"github.com/gabionfs/gabion/objstore/remote"
)

// exitRemoved is the exit code of a node that the cluster has removed.
const exitRemoved = 5

type nodeFlags struct {
	listen, advertise, id string
	join, asds            []string
	token, tokenFile      string
	learner               bool
	level                 string
}

func newNode(e *env) *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run a node of a cluster, until interrupted",
		Long: `Run a node: a process that keeps members of replicated stores, behind one TLS
listener. It prints one line when it serves:

  ready: node=ID listen=HOST:PORT cluster=ID

When the directory is missing or empty, it joins first: that needs a token, which
"gabion cluster token" prints on a machine that is in. The token names nodes to
join through; --join adds others. Once it has joined, the same command starts it
again, and token and --join are not used. "gabion cluster init" makes the directory
of the first node.

With --asd it also serves folders as disks to filesystems on other machines, as "gabion
asd serve" does, behind the same listener, and prints a line for each before the other:

  disk asd://HOST:PORT/ID in /disk1: unclaimed

SIGINT or SIGTERM hands over what it leads, stops and exits 0; a second one exits
at once, which loses nothing that was acknowledged. Messages go to standard error.

A node that the cluster has removed says so, stops and exits 5, now and whenever it
is started again; its directory stays as it is. A service unit should not restart it
then (systemd: RestartPreventExitStatus=5).

Exit codes: 0 stopped, 1 failure, 2 bad usage, 5 removed from the cluster.`,
		Example: `  gabion node --data n1 --listen 10.0.0.1:7000
  gabion node --data n2 --listen 10.0.0.2:7000 --token-file token --id bert
  gabion node --data n2 --listen 10.0.0.2:7000 --asd /disk1 --asd /disk2
  gabion node --data n3 --listen :7000 --advertise carl.example.org:7000 --join anna.example.org:7000 --token gabion1...`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), e) },
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.listen, "listen", "", "`address` to listen on")
	fl.StringVar(&f.advertise, "advertise", "", "`address` at which others reach it (default: --listen)")
	fl.StringArrayVar(&f.join, "join", nil, "`address` of a node of the cluster to join; repeat it")
	fl.StringVar(&f.token, "token", "", "the `token` to join with; others can see it in the list of processes: --token-file is better")
	fl.StringVar(&f.tokenFile, "token-file", "", "`file` whose first line is the token")
	fl.StringVar(&f.id, "id", "", "`name` of the node, which never changes (default: the machine's name and four random digits)")
	fl.StringArrayVar(&f.asds, "asd", nil, "`folder` to serve as a disk; repeat it")
	fl.BoolVar(&f.learner, "learner", false, "join as a node that never votes")
	fl.StringVar(&f.level, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

// check refuses flags that make no sense by themselves.
func (f *nodeFlags) check() error {
	if f.listen == "" {
		return usagef("where shall the node listen? give --listen ADDR")
	}
	if err := checkListen(f.listen, f.advertise); err != nil {
		return err
	}
	for _, a := range f.join {
		if err := identity.CheckAddr(a); err != nil {
			return usagef("--join %q: want an address such as 10.0.0.1:7000", a)
		}
	}
	if f.token != "" && f.tokenFile != "" {
		return usagef("--token and --token-file exclude each other")
	}
	if f.id != "" {
		if err := checkNames("--id", f.id); err != nil {
			return err
		}
	}
	var err error
	f.asds, err = folders("--asd", f.asds)
	return err
}

// joined reports whether dir is the directory of a node, and of which one.
func (f *nodeFlags) joined(dir string) (id identity.ID, yes bool, err error) {
	b, err := cluster.LoadBundle(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return id, false, emptyDir(dir)
	case errors.Is(err, fs.ErrPermission):
		return id, false, err
	case err != nil:
		return id, false, fmt.Errorf("the node's identity cannot be read: %w: if this machine's files are lost, join with an empty --data and a new token, then `gabion cluster replace OLD NEW` on another node", err)
	case b.ID.Kind != identity.Node:
		return id, false, fmt.Errorf("%s is the file of %s, not of a node: give a node's directory", dir, b.ID)
	case f.id != "" && f.id != b.ID.Name:
		return id, false, fmt.Errorf("%s is the directory of node %s, not of %s: leave --id out, or give another --data", dir, b.ID.Name, f.id)
	}
	return b.ID, true, nil
}

func (f *nodeFlags) run(ctx context.Context, e *env) error {
	if err := f.check(); err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return usagef("--log-level %q: it is one of debug, info, warn, error", f.level)
	}
	log := slog.New(quietHandler{slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: level})})
	_, in, err := f.joined(e.data)
	if err != nil {
		return err
	}
	// Before joining, which uses up the token: whether the address can be had.
	l, err := listen(f.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, stop := interruptible(ctx, e)
	defer stop()
	advertise := advertised(f.listen, f.advertise, l.Addr())
	if !in {
		if err := f.joinCluster(ctx, e, advertise, log); err != nil {
			return f.explain(e, err)
		}
	} else if f.token != "" || f.tokenFile != "" {
		log.Info("the directory is that of a node already: the token is not used", "data", e.data)
	}
	o := cluster.Options{
		Dir: e.data, Listener: l, Advertise: advertise, Peers: f.join, Procedures: procedures(), Version: buildVersion(), Logger: log,
	}
	if len(f.asds) > 0 {
		host, err := f.serveDisks(ctx, e, &o)
		if err != nil {
			return err
		}
		defer func() { // after the node, which serves them
			if err := host.Close(); err != nil {
				log.Error("closing the disks", "cause", err)
			}
		}()
	}
	n, err := cluster.Open(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil // interrupted while starting
		}
		return f.explain(e, err)
	}
	awaitAddress(ctx, e.data)
	if _, err = fmt.Fprintf(e.out, "ready: node=%s listen=%s cluster=%s\n", n.ID(), n.Addr(), n.ClusterID()); err != nil {
		return errors.Join(err, n.Close())
	}
	select {
	case <-ctx.Done():
		return n.Close()
	case <-n.Done():
	}
	fmt.Fprintf(e.err, "gabion: node %s was removed from cluster %s, which refuses it from now on: it stops, and leaves %s as it is. "+
		"The stores go on without it: delete %s when you miss nothing. To use this machine again, join as a new node: `gabion cluster token` on a node that runs, "+
		"then `gabion node` here with an empty --data and another --id\n", n.ID(), n.ClusterID(), e.data, e.data)
	if err := n.Close(); err != nil {
		log.Warn("closing the node", "cause", err)
	}
	return exitError(exitRemoved)
}

// serveDisks opens the folders of --asd, says so, and makes them a service of the node.
func (f *nodeFlags) serveDisks(ctx context.Context, e *env, o *cluster.Options) (*local.Host, error) {
	host, err := local.OpenHost(ctx, local.HostOptions{Dirs: f.asds, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	if err := e.printServed(o.Advertise, host); err != nil {
		return nil, errors.Join(err, host.Close())
	}
	server := remote.NewServer(remote.ServerOptions{Host: host, Logger: o.Logger})
	o.Services = map[string]func(*mux.Conn){remote.Protocol: server.Serve}
	return host, nil
}

// awaitAddress waits until the directory says where the node can be reached, so that commands can use it.
// Only that of a new cluster does not say so from the start.
func awaitAddress(ctx context.Context, dir string) {
	for ctx.Err() == nil {
		if b, err := cluster.LoadBundle(dir); err != nil || len(b.Addrs) > 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// interruptible returns a context that the first SIGINT or SIGTERM ends; a later one ends the process.
func interruptible(ctx context.Context, e *env) (context.Context, func()) {
	return interrupt.Context(ctx, nil, func() {
		fmt.Fprintln(e.err, "gabion: forced")
		os.Exit(1)
	})
}

// joinCluster makes e.data the directory of a new node.
func (f *nodeFlags) joinCluster(ctx context.Context, e *env, advertise string, log *slog.Logger) error {
	token, err := f.readToken()
	if err != nil {
		return err
	}
	if token == "" {
		return fmt.Errorf("%s holds no node yet, and a new one needs a token to join a cluster: run `gabion cluster token --data DIR` on a node, and give its output with --token-file; `gabion cluster init` begins a new cluster instead", e.data)
	}
	if _, err := identity.ParseToken(token); err != nil {
		return fmt.Errorf("the token does not make sense: %w: give the whole line that `gabion cluster token` printed", err)
	}
	return cluster.Join(ctx, cluster.JoinOptions{
		Dir: e.data, ID: f.id, Advertise: advertise, Peers: f.join, Token: token, Learner: f.learner, Logger: log,
	})
}

func (f *nodeFlags) readToken() (string, error) {
	if f.tokenFile == "" {
		return strings.TrimSpace(f.token), nil
	}
	raw, err := os.ReadFile(f.tokenFile)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", fmt.Errorf("--token-file %s: its first line is empty", f.tokenFile)
	}
	return line, nil
}

// explain adds to an error of starting or joining what to do about it.
func (f *nodeFlags) explain(e *env, err error) error {
	var damage *kv.CorruptError
	switch {
	case errors.As(err, &damage) && !strings.Contains(err.Error(), "cluster replace"):
		id := "NODE"
		if b, berr := cluster.LoadBundle(e.data); berr == nil {
			id = b.ID.Name
		}
		return fmt.Errorf("%w: what this node has acknowledged cannot be trusted any more, so it does not start. Make a new one with an empty --data and a new token, then run `gabion cluster replace %s NEW` on a node that runs", err, id)
	case errors.Is(err, cluster.ErrExists):
		return fmt.Errorf("%w: give another --id, or an empty --data", err)
	case errors.Is(err, cluster.ErrToken):
		return fmt.Errorf("%w. Make another token on a node that runs: `gabion cluster token --data DIR`; with --ttl 24h it holds for a day instead of an hour, with --uses 3 three nodes can join", err)
	case errors.Is(err, identity.ErrIdentity):
		return fmt.Errorf("%w: the token is for another cluster than the nodes at these addresses, or they have changed: make a token with `gabion cluster token --data DIR` on a node of the right cluster, or say with --join where that one runs", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, kv.ErrNoQuorum):
		return fmt.Errorf("%w: are the other nodes running, and reachable from here?", err)
	}
	return err
}
