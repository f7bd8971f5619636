package kvbench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// A benchmark of several members runs each in a process of its own, which calls RunNode. They speak over
// loopback TCP with TLS, as the nodes of any cluster do.

// NodeConfig of RunNode. It travels as arguments of a command, see Args.
type NodeConfig struct {
	Dir, ID string
	Peer    string // address of a node to join by, or empty for the first one
	Token   string
}

// Args are what ParseNodeConfig understands.
func (c NodeConfig) Args() []string { return []string{c.Dir, c.ID, c.Peer, c.Token} }

// ParseNodeConfig is the reverse of Args.
func ParseNodeConfig(args []string) (NodeConfig, error) {
	if len(args) != 4 {
		return NodeConfig{}, fmt.Errorf("kvbench: %d arguments, want a directory, an ID, a peer and a token", len(args))
	}
	return NodeConfig{args[0], args[1], args[2], args[3]}, nil
}

// RunNode runs a node until in ends, which is when the process that started it is gone. It prints the
// node's address as one line.
func RunNode(ctx context.Context, c NodeConfig, in io.Reader, out io.Writer) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	var err error
	if c.Peer == "" {
		err = cluster.Init(ctx, cluster.InitOptions{Dir: c.Dir, ID: c.ID, Logger: log})
	} else {
		err = cluster.Join(ctx, cluster.JoinOptions{Dir: c.Dir, ID: c.ID, Peers: []string{c.Peer}, Token: c.Token, Logger: log})
	}
	if err != nil {
		return err
	}
	n, err := cluster.Open(ctx, cluster.Options{Dir: c.Dir, Listen: "127.0.0.1:0", Logger: log})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, n.Addr()); err != nil {
		return errors.Join(err, n.Close())
	}
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(over)
	}()
	select {
	case <-over:
	case <-ctx.Done():
	}
	return n.Close()
}

// Group is a cluster of processes with one store.
type Group struct {
	Addrs  []string
	PIDs   []int
	bundle *identity.Bundle
	procs  []*proc
}

type proc struct {
	cmd *exec.Cmd
	in  io.Closer
}

const groupStore = "bench"

// StartGroup starts n nodes below dir. command returns the command that calls RunNode with the
// configuration that ParseNodeConfig finds in args.
func StartGroup(ctx context.Context, dir string, n int, command func(ctx context.Context, args ...string) *exec.Cmd) (_ *Group, err error) {
	g := new(Group)
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	var ids []string
	c := NodeConfig{}
	for i := range n {
		c.ID = fmt.Sprint("n", i+1)
		c.Dir = filepath.Join(dir, c.ID)
		if err := g.start(command(ctx, c.Args()...)); err != nil {
			return g, err
		}
		ids = append(ids, c.ID)
		if i > 0 {
			continue
		}
		if g.bundle, err = cluster.LoadBundle(c.Dir); err != nil {
			return g, err
		}
		g.bundle.Addrs = g.Addrs
		if c.Token, err = g.admin(ctx, func(ctx context.Context, a *cluster.Client) (string, error) {
			return a.NewToken(ctx, cluster.TokenOptions{Uses: n})
		}); err != nil {
			return g, err
		}
		c.Peer = g.Addrs[0]
	}
	_, err = g.admin(ctx, func(ctx context.Context, a *cluster.Client) (string, error) {
		_, err := a.CreateStore(ctx, &clusterpb.CreateStoreRequest{Name: groupStore, Voters: ids})
		return "", err
	})
	if err != nil {
		return g, err
	}
	return g, g.waitReady(ctx)
}

// waitReady waits until a node that has heard of the store answers: the others follow the directory a
// little later.
func (g *Group) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	t, err := g.Target(ctx, 1)
	if err != nil {
		return err
	}
	defer t.Close()
	for {
		err := t.Put(ctx, []byte{0}, nil)
		if !errors.Is(err, kv.ErrNoStore) {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (g *Group) admin(ctx context.Context, fn func(context.Context, *cluster.Client) (string, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	a, err := cluster.Dial(&identity.Bundle{Credentials: g.bundle.Credentials, Addrs: g.Addrs})
	if err != nil {
		return "", err
	}
	defer a.Close()
	return fn(ctx, a)
}

func (g *Group) start(cmd *exec.Cmd) error {
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	g.procs = append(g.procs, &proc{cmd, in})
	g.PIDs = append(g.PIDs, cmd.Process.Pid)
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("kvbench: a node did not start: %w", err)
	}
	g.Addrs = append(g.Addrs, strings.TrimSpace(addr))
	return nil
}

// Close stops the processes.
func (g *Group) Close() error {
	var errs []error
	for _, p := range g.procs {
		_ = p.in.Close()
	}
	for _, p := range g.procs {
		late := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
		if err := p.cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("kvbench: node: %w", err))
		}
		late.Stop()
	}
	return errors.Join(errs...)
}

// Target returns a client of the group's store.
func (g *Group) Target(ctx context.Context, conns int) (Target, error) {
	c, err := kvrpc.Dial(ctx, kvrpc.ClientOptions{
		Addrs: g.Addrs, TLS: g.bundle.Credentials.ClientConfig("", "h2"), Conns: conns,
	})
	if err != nil {
		return nil, err
	}
	return &remote{c, c.Store(groupStore)}, nil
}

// remote is the Target of a store on a cluster.
type remote struct {
	client *kvrpc.Client
	store  *kvrpc.Store
}

func (r *remote) Put(ctx context.Context, key, value []byte) error {
	return r.store.Set(ctx, kv.Durable, keyspace, key, value)
}

func (r *remote) PutOrdered(ctx context.Context, key, value []byte) error {
	return r.store.Set(ctx, kv.Ordered, keyspace, key, value)
}

func (r *remote) Get(ctx context.Context, key []byte) ([]byte, error) {
	return r.store.Get(ctx, keyspace, key, kvrpc.ReadOptions{})
}

func (r *remote) Range(ctx context.Context, from, to []byte) (n int64, err error) {
	err = r.store.Scan(ctx, keyspace, kv.Range{From: from, To: to}, kvrpc.RangeOptions{}, func(k, v []byte) bool {
		n += int64(len(k) + len(v))
		return true
	})
	return n, err
}

func (r *remote) Close() error { return r.client.Close() }
