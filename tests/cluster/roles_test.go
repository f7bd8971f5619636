package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"log/slog"

	kvcluster "github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/tests/harness"
)

// The roles of the test binary. Nodes are `gabion node`, but where snapshots and compaction shall happen all the
// time: then they are this binary, which opens the same node with smaller limits.
var roles = map[string]harness.Role{
	"clock": clock, "freeze": freeze, "init": initNode, "join": joinNode, "node": runNode, "bundle": bundle, "admin": administer,
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// command returns the command that runs the node.
func (n *node) command() (*exec.Cmd, error) {
	if n.c.o.flush == 0 {
		return exec.Command(n.c.binary, "node", "--data", n.dir, "--listen", n.addr), nil
	}
	return harness.RoleCommand("node", n.dir, n.addr, strconv.Itoa(n.c.o.flush))
}

func initNode(args []string) error {
	return kvcluster.Init(context.Background(), kvcluster.InitOptions{Dir: args[0], ID: args[1], Advertise: args[2], Logger: logger()})
}

func joinNode(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(patience))
	defer cancel()
	return kvcluster.Join(ctx, kvcluster.JoinOptions{
		Dir: args[0], ID: args[1], Advertise: args[2], Peers: strings.Split(args[3], ","), Token: args[4], Logger: logger()})
}

func runNode(args []string) error {
	flush, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := kvcluster.Open(ctx, kvcluster.Options{Dir: args[0], Listen: args[1], Logger: logger(),
		Tune: func(_ string, o *raftkv.Options) {
			if flush > 0 {
				o.FlushBytes, o.SegmentBytes = int64(flush), int64(max(4*flush, 64<<10))
				o.MinLog = int64(flush)
			}
		}})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return n.Close()
}

// bundle writes the credentials of an administrator to a file.
func bundle(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(patience))
	defer cancel()
	c, err := kvcluster.DialFile(args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := c.NewClient(ctx, "tester", true)
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], b, 0o600)
}

// administer runs one command of the administration.
func administer(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(patience))
	defer cancel()
	b, err := kvcluster.LoadBundle(args[0])
	if err != nil {
		return err
	}
	b.Addrs = strings.Split(args[1], ",")
	c, err := kvcluster.Dial(b)
	if err != nil {
		return err
	}
	defer c.Close()
	switch args = args[2:]; args[0] {
	case "create-store":
		_, err = c.CreateStore(ctx, &clusterpb.CreateStoreRequest{Name: args[1]})
	case "token":
		var token string
		if token, err = c.NewToken(ctx, kvcluster.TokenOptions{TTL: kvcluster.MaxTokenTTL}); err == nil {
			fmt.Println(token)
		}
	case "transfer":
		err = c.TransferLeader(ctx, args[1], args[2])
	case "remove":
		err = c.RemoveNode(ctx, args[1], false)
	case "status":
		st, err := c.Status(ctx)
		fmt.Println(st)
		return err
	case "voters": // of a store, as its members know them
		return printVoters(ctx, c, args[1])
	default:
		return fmt.Errorf("no command %q", args[0])
	}
	return err
}

func printVoters(ctx context.Context, c *kvcluster.Client, store string) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	for _, s := range st.Stores {
		if s.Store.GetName() != store {
			continue
		}
		for _, m := range s.Members {
			if m.Member.GetLeads() {
				fmt.Println(strings.Join(m.Member.Voters, " "))
			}
		}
	}
	return nil
}

// settle waits until the store has so many voters.
func (c *cluster) settle(ctx context.Context, voters int) error {
	last := ""
	for ctx.Err() == nil {
		out, err := c.adminOut(ctx, "voters", storeName)
		if err == nil && len(strings.Fields(out)) == voters {
			return nil
		}
		last = fmt.Sprint(out, err)
		time.Sleep(100 * time.Millisecond) // between two requests
	}
	return fmt.Errorf("waited in vain for %d voters: %s", voters, last)
}
