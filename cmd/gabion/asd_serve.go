package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/daemon"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/objstore/local"
	"github.com/gabionfs/gabion/objstore/remote"
)

// diskPlace makes the path of a folder absolute; the address of a disk stays, in its one form.
func diskPlace(s string) (string, error) {
	if s == "" {
		return "", errors.New("not a folder's name")
	}
	if remote.IsAddress(s) {
		a, err := remote.ParseAddress(s)
		return a.String(), err
	}
	return filepath.Abs(s)
}

type asdServeFlags struct {
	dirs              []string
	listen, advertise string
	identity          string
	clients           []string
	capacity          string
	compaction        compactionFlags
	level             string

	revoked revocations
}

func newASDServe(e *env) *cobra.Command {
	var f asdServeFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve disks to other processes, until interrupted",
		Long: `Serve folders as disks to filesystems that run elsewhere. It prints one line per
disk, and one when it serves:

  disk asd://HOST:PORT/ID in /disk1: unclaimed
  ready: asd=HOST:PORT node=NAME cluster=ID

A folder that is empty or missing becomes a new disk, for a filesystem to claim: give
its address to "gabion up --asd" or "gabion asd add". A disk belongs to one filesystem
until that releases it.

Everything goes over TLS with the certificates of a cluster, see "gabion cluster". The
server needs the identity of a node: its directory, or its file node.pem. Every node and
client of the cluster may connect, or with --client those alone. Clients that were revoked
are refused some seconds after a node of the cluster has said so, and for as long as it
runs; one that serves while no node can be reached does not hear of them. A node serves
disks by itself with "gabion node --asd".

SIGINT or SIGTERM finishes what is under way, closes the disks and exits 0.`,
		Example: `  gabion asd serve --dir /disk1 --dir /disk2 --listen 10.0.0.1:7100 --identity n1
  gabion up --data fs --asd asd://10.0.0.1:7100 --identity home.pem --mount /mnt`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), e, cmd.Flags().Changed) },
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringArrayVar(&f.dirs, "dir", nil, "`folder` to serve as a disk; repeat it")
	fl.StringVar(&f.listen, "listen", "", "`address` to listen on")
	fl.StringVar(&f.advertise, "advertise", "", "`address` at which others reach it (default: --listen)")
	fl.StringVar(&f.identity, "identity", "", "`directory` of a node, or its file node.pem")
	fl.StringArrayVar(&f.clients, "client", nil, "`name` of a client that may connect; repeat it (default: all)")
	fl.StringVar(&f.capacity, "capacity", "0", "`size` of each disk (default: that of its filesystem)")
	f.compaction.add(cmd)
	fl.StringVar(&f.level, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

// check refuses flags that make no sense by themselves.
func (f *asdServeFlags) check() (log slog.Level, capacity int64, err error) {
	switch {
	case len(f.dirs) == 0:
		return 0, 0, usagef("which disks? give --dir FOLDER")
	case f.listen == "":
		return 0, 0, usagef("where shall the disks be served? give --listen ADDR")
	case f.identity == "":
		return 0, 0, usagef("as whom? give the directory of a node with --identity; `gabion cluster init` makes the first one")
	}
	if err := checkListen(f.listen, f.advertise); err != nil {
		return 0, 0, err
	}
	if err := checkNames("--client", f.clients...); err != nil {
		return 0, 0, err
	}
	if f.dirs, err = folders("--dir", f.dirs); err != nil {
		return 0, 0, err
	}
	if capacity, err = parseSize(f.capacity); err != nil || capacity != 0 && capacity < 64<<20 {
		return 0, 0, usagef("--capacity %q: want a size of at least 64MiB, such as 400GiB", f.capacity)
	}
	if err := log.UnmarshalText([]byte(f.level)); err != nil {
		return 0, 0, usagef("--log-level %q: it is one of debug, info, warn, error", f.level)
	}
	return log, capacity, nil
}

// folders makes paths absolute, and refuses those that are given twice.
func folders(flag string, dirs []string) ([]string, error) {
	var out []string
	for _, d := range dirs {
		abs, err := filepath.Abs(d)
		if d == "" || err != nil {
			return nil, usagef("%s %q: not a folder's name", flag, d)
		}
		if slices.Contains(out, abs) {
			return nil, usagef("%s %s is given twice", flag, d)
		}
		out = append(out, abs)
	}
	return out, nil
}

func (f *asdServeFlags) run(ctx context.Context, e *env, changed func(string) bool) (err error) {
	level, capacity, err := f.check()
	if err != nil {
		return err
	}
	compaction, err := f.compaction.options(changed)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: level}))
	b, err := daemon.ReadIdentity(f.identity)
	if err != nil {
		return fmt.Errorf("--identity: %w", err)
	}
	if b.ID.Kind != identity.Node {
		return fmt.Errorf("--identity %s is that of %s: clients do not serve; give the directory of a node", f.identity, b.ID)
	}
	l, err := listen(f.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, stop := interruptible(ctx, e)
	defer stop()
	host, err := local.OpenHost(ctx, local.HostOptions{Dirs: f.dirs, Capacity: capacity, Compaction: compaction, Logger: log})
	if err != nil {
		return err
	}
	m := mux.New(mux.Options{Listener: l, Logger: log})
	m.Handle(remote.Protocol, mux.Service{
		TLS:   b.ServerConfig(f.admits, remote.Protocol),
		Serve: remote.NewServer(remote.ServerOptions{Host: host, Logger: log}).Serve,
	})
	following, leave := context.WithCancel(ctx)
	defer leave()
	var work sync.WaitGroup
	work.Go(m.Run)
	work.Go(func() {
		f.revoked.follow(following, b, log, func() {
			m.Drop(func(c *mux.Conn) bool { return f.revoked.admits(c.Peer, nil) != nil })
		})
	})
	advertise := advertised(f.listen, f.advertise, l.Addr())
	if err = e.printServed(advertise, host); err == nil {
		_, err = fmt.Fprintf(e.out, "ready: asd=%s node=%s cluster=%s\n", advertise, b.ID.Name, b.ID.Cluster)
	}
	if err == nil {
		<-ctx.Done()
	}
	leave()
	err = errors.Join(err, m.Close())
	work.Wait()
	return errors.Join(err, host.Close())
}

// admits is the identity.Checker of --client, and of what the cluster says.
func (f *asdServeFlags) admits(peer identity.ID, cert *x509.Certificate) error {
	if err := f.revoked.admits(peer, cert); err != nil {
		return err
	}
	if len(f.clients) == 0 || peer.Kind == identity.Node || slices.Contains(f.clients, peer.Name) {
		return nil
	}
	return fmt.Errorf("%w: %s is not among those that --client names", identity.ErrIdentity, peer)
}

// listen begins to listen at the address of --listen.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("--listen %s: the address is in use: stop what uses it, or give another", address)
	} else if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	return l, nil
}

// advertised is where others reach what listens at addr.
func advertised(listen, advertise string, addr net.Addr) string {
	if advertise != "" {
		return advertise
	}
	if host, port, _ := net.SplitHostPort(listen); port != "0" {
		return net.JoinHostPort(host, port) // a name stays a name
	}
	return addr.String()
}

// printServed prints a line for each disk that is served.
func (e *env) printServed(address string, host remote.Host) error {
	for _, d := range host.List(context.Background()) {
		what := d.State.String()
		if !d.Owner.IsZero() {
			what += ", of " + d.Owner.String()
		}
		if d.Err != "" {
			what += ": " + oneLine(errors.New(d.Err))
		}
		if _, err := fmt.Fprintf(e.out, "disk %s in %s: %s\n", remote.Address{Server: address, ASD: d.ASD}, d.Dir, what); err != nil {
			return err
		}
	}
	return nil
}
