package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// clusterFlags are those of every cluster command.
type clusterFlags struct {
	cluster string
	timeout time.Duration
	json    bool
}

func newCluster(e *env) *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Make and look after a cluster of several machines",
		Long: `A cluster is a number of nodes ("gabion node"), each on a machine of its own, that
keep replicated stores: key-value stores that survive the loss of any minority of
the nodes that vote in them. A filesystem can keep its metadata in one: see
"gabion up --cluster".

The first machine begins the cluster, each further one joins with a token:

  first$  gabion cluster init --data n1 --listen 10.0.0.1:7000
  first$  gabion node --data n1 --listen 10.0.0.1:7000
  first$  gabion cluster token --data n1
  second$ gabion node --data n2 --listen 10.0.0.2:7000 --token TOKEN

These commands speak as the node whose directory --data names, or as a client or
administrator with the file that --cluster names (default $GABION_CLUSTER).`,
		Example: `  gabion cluster status --data n1
  gabion cluster client anna anna.pem --admin --data n1
  gabion cluster store create app --cluster anna.pem`,
	}
	fl := cmd.PersistentFlags()
	fl.StringVar(&f.cluster, "cluster", "", "`file` of a client, or directory of a node (default $GABION_CLUSTER, or --data)")
	fl.DurationVar(&f.timeout, "timeout", 30*time.Second, "give up after this `time`, with the reason")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	cmd.AddCommand(newClusterInit(e, &f), newClusterToken(e, &f), newClusterStatus(e, &f), newClusterAdd(e, &f), newClusterRemove(e, &f),
		newClusterReplace(e, &f), newClusterTransfer(e, &f), newClusterPreferred(e, &f), newClusterStore(e, &f), newClusterClient(e, &f), newClusterClients(e, &f), newClusterRevoke(e, &f))
	return cmd
}

// path is the file or directory that says how to reach the cluster.
func (f *clusterFlags) path(e *env) (string, error) {
	if f.timeout <= 0 {
		return "", usagef("--timeout %v: it must be above 0", f.timeout)
	}
	given := !e.defaultData
	switch {
	case f.cluster != "" && given:
		return "", usagef("--cluster and --data exclude each other: the file of a client, or the directory of a node")
	case f.cluster != "":
		return f.cluster, nil
	case given:
		return e.data, nil
	}
	if s := e.lookup("GABION_CLUSTER"); s != "" {
		return s, nil
	}
	return e.data, nil
}

// run calls fn with a client of the cluster that the flags name, for at most --timeout.
func (f *clusterFlags) run(e *env, cmd *cobra.Command, fn func(context.Context, *cluster.Client) error) error {
	return f.runAs(e, cmd, func(ctx context.Context, c *cluster.Client, _ *identity.Bundle) error { return fn(ctx, c) })
}

// runAs is run for those who need to know how the cluster is reached.
func (f *clusterFlags) runAs(e *env, cmd *cobra.Command, fn func(context.Context, *cluster.Client, *identity.Bundle) error) error {
	path, err := f.path(e)
	if err != nil {
		return err
	}
	bundle, err := loadBundle(path)
	if err != nil {
		return err
	}
	c, err := cluster.Dial(bundle)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	defer e.endProgress()
	silent := time.AfterFunc(2*time.Second, func() { e.progress("no answer yet, asking %s", strings.Join(bundle.Addrs, ", ")) })
	defer silent.Stop()
	return errors.Join(explainCluster(fn(ctx, c, bundle), bundle), c.Close())
}

// loadBundle reads what is needed to reach a cluster, from a client's file or a node's directory.
func loadBundle(path string) (*identity.Bundle, error) {
	b, err := cluster.LoadBundle(path)
	if err == nil {
		if len(b.Addrs) == 0 {
			return nil, fmt.Errorf("%s names no address of a node yet: start the node once, with `gabion node`", path)
		}
		return b, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(path); serr != nil {
			return nil, fmt.Errorf("%s does not exist: give the file of a client with --cluster, or the directory of a node with --data; `gabion cluster init` begins a new cluster", path)
		}
		if bundle := filepath.Join(path, "cluster.pem"); exists(bundle) {
			return nil, fmt.Errorf("%s is the data directory of a filesystem, not of a node: give %s with --cluster", path, bundle)
		}
		return nil, fmt.Errorf("%s is not the directory of a node: `gabion cluster init` begins a cluster there, `gabion node --join ADDR --token TOKEN` joins one", path)
	}
	return nil, fmt.Errorf("%w: give the file that `gabion cluster client` made, or the directory of a node", err)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// explainCluster adds to an error what to do about it.
func explainCluster(err error, b *identity.Bundle) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "`gabion "): // says it already
	case errors.Is(err, cluster.ErrDenied) && strings.Contains(err.Error(), cluster.NotAccepted), errors.Is(err, kvrpc.ErrDenied):
		return refusedBy(b)
	case errors.Is(err, cluster.ErrDenied):
		return fmt.Errorf("%w: you speak as %s; use --data with a node's directory, or a file made with `gabion cluster client NAME FILE --admin`", err, b.ID)
	case errors.Is(err, kv.ErrNoStore):
		return fmt.Errorf("%w: `gabion cluster store list` shows them", err)
	case errors.Is(err, cluster.ErrNoClient):
		return fmt.Errorf("%w: `gabion cluster clients` shows them", err)
	case errors.Is(err, cluster.ErrNoNode):
		return fmt.Errorf("%w: `gabion cluster status` shows them", err)
	case errors.Is(err, kv.ErrNoQuorum):
		return fmt.Errorf("%w; asked %s: are the nodes running, and is the majority of them reachable from here?", err, strings.Join(b.Addrs, ", "))
	}
	return err
}

// refusedBy says that the cluster does not admit the holder of a bundle.
func refusedBy(b *identity.Bundle) error {
	if b.ID.Kind == identity.Node {
		return fmt.Errorf("the cluster refuses node %s, which was removed: use the directory of another node, or the file of a client", b.ID.Name)
	}
	return fmt.Errorf("the cluster refuses client %s, which was revoked: use another file; `gabion cluster client NAME FILE --data DIR` makes one on a node", b.ID.Name)
}

// checkListen refuses an address that cannot be listened on, and one that others could not use although
// nothing else is advertised.
func checkListen(listen, advertise string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "" {
		return usagef("--listen %q: want an address such as 10.0.0.1:7000 or :7000", listen)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return usagef("--listen %q: %q is not a port", listen, port)
	}
	if advertise == "" {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			return usagef("--listen %s does not say where others reach this machine: give --advertise HOST:PORT as well", listen)
		}
		return nil
	}
	if err := identity.CheckAddr(advertise); err != nil {
		return usagef("--advertise %q: want an address such as 10.0.0.1:7000", advertise)
	}
	return nil
}

// checkNames refuses what cannot be the name of a node.
func checkNames(flag string, names ...string) error {
	for _, n := range names {
		if err := identity.CheckName(n); err != nil {
			return usagef("%s %q: %w", flag, n, err)
		}
	}
	return nil
}

func newClusterInit(e *env, f *clusterFlags) *cobra.Command {
	var id, listen, advertise string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Begin a new cluster, with this machine as its first node",
		Long: `Begin a new cluster in an empty directory: make its certificate authority, the
certificate of its first node, and the directory store that knows all nodes and
stores. Then start the node there with "gabion node".`,
		Example: "  gabion cluster init --data /srv/gabion --listen 10.0.0.1:7000\n  gabion cluster init --data n1 --listen 0.0.0.0:7000 --advertise anna.example.org:7000 --id anna",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.cluster != "" {
				return usagef("--cluster names a cluster that exists: leave it out to begin a new one")
			}
			if listen == "" {
				return usagef("where will the node listen? give --listen ADDR")
			}
			if err := checkListen(listen, advertise); err != nil {
				return err
			}
			if id != "" {
				if err := checkNames("--id", id); err != nil {
					return err
				}
			}
			if advertise == "" {
				if _, port, _ := net.SplitHostPort(listen); port != "0" {
					advertise = listen
				}
			}
			if err := emptyDir(e.data); err != nil {
				return err
			}
			if err := cluster.Init(cmd.Context(), cluster.InitOptions{Dir: e.data, ID: id, Advertise: advertise}); err != nil {
				return err
			}
			return f.printInit(e, listen)
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "`name` of the node, which never changes (default: the machine's name and four random digits)")
	cmd.Flags().StringVar(&listen, "listen", "", "`address` that the node is going to listen on")
	cmd.Flags().StringVar(&advertise, "advertise", "", "`address` at which others reach it (default: --listen)")
	return cmd
}

func (f *clusterFlags) printInit(e *env, listen string) error {
	b, err := cluster.LoadBundle(e.data)
	if err != nil {
		return err
	}
	if f.json {
		return e.printJSON(map[string]string{"cluster": b.ID.Cluster, "node": b.ID.Name, "data": e.data})
	}
	_, err = fmt.Fprintf(e.out, "made cluster %s with node %s; start it: gabion node --data %s --listen %s\n", b.ID.Cluster, b.ID.Name, e.data, listen)
	return err
}

// emptyDir refuses a directory that holds something.
func emptyDir(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range list {
		if entry.Name() == "node.pem" {
			return fmt.Errorf("%s holds a node already: start it with `gabion node --data %s`, or give another --data", dir, dir)
		}
	}
	for _, entry := range list {
		if n := entry.Name(); n != "lost+found" && !cluster.Unfinished(n) {
			return fmt.Errorf("%s is not empty, it holds %q: give an empty directory, or one that does not exist, with --data", dir, n)
		}
	}
	return nil
}

func nodes(n int) string {
	if n == 1 {
		return "one node"
	}
	return fmt.Sprintf("%d nodes", n)
}

func newClusterToken(e *env, f *clusterFlags) *cobra.Command {
	var o cluster.TokenOptions
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which a new machine joins",
		Long: `Print a token. Whoever has it can make a node of this cluster out of a machine,
once and within its time: it proves to the newcomer that it talks to this
cluster, and to the cluster that the newcomer may join.`,
		Example: "  gabion cluster token --data n1\n  gabion cluster token --data n1 --ttl 24h --uses 5\n  gabion cluster token --data n1 > token; gabion node --data n2 --listen 10.0.0.2:7000 --token-file token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.TTL < time.Second || o.TTL > cluster.MaxTokenTTL {
				return usagef("--ttl %v: it must lie between 1s and a year", o.TTL)
			}
			if o.Uses < 1 || o.Uses > 1000 {
				return usagef("--uses %d: it must lie between 1 and 1000", o.Uses)
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				token, err := c.NewToken(ctx, o)
				if err != nil {
					return err
				}
				if f.json {
					return e.printJSON(map[string]any{"token": token, "expires": time.Now().Add(o.TTL).UTC().Format(time.RFC3339), "uses": o.Uses})
				}
				if _, err = fmt.Fprintln(e.out, token); err == nil {
					_, err = fmt.Fprintf(e.err, "gabion: it holds for %s and %s: gabion node --data DIR --listen HOST:PORT --token-file FILE\n", short(o.TTL), nodes(o.Uses))
				}
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&o.TTL, "ttl", time.Hour, "how long it can be used")
	cmd.Flags().IntVar(&o.Uses, "uses", 1, "how many nodes may join with it")
	cmd.Flags().BoolVar(&o.Learner, "learner", false, "whoever joins with it never votes")
	return cmd
}
