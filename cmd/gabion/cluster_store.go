package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/clusterview"
	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

func newClusterStore(e *env, f *clusterFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Create and delete stores, and say where they live",
		Long: `A cluster hosts any number of stores. Each has keyspaces and a log of its own, and
lives on nodes that are chosen for it, or on those of the directory.`,
		Example: "  gabion cluster store create app --data n1\n  gabion cluster store list --data n1\n  gabion kv --cluster app.pem --store app set colour blue",
	}
	cmd.AddCommand(newStoreCreate(e, f), newStoreDelete(e, f), newStoreList(e, f), newStoreMembers(e, f))
	return cmd
}

func newStoreCreate(e *env, f *clusterFlags) *cobra.Command {
	var q clusterpb.CreateStoreRequest
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a store",
		Long: `Create a store, and return when it can be written to. Without --voter it lives on
the nodes that vote in the directory, at most five, and follows when those change.`,
		Example: "  gabion cluster store create app --data n1\n  gabion cluster store create app --voter anna,bert,carl --learner diana --preferred anna --data n1",
		Args:    exactArgs("one name", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Name = args[0]
			if err := checkMembers(q.Voters, q.Learners); err != nil {
				return err
			}
			if err := checkNames("--preferred", q.Preferred...); err != nil {
				return err
			}
			return f.runAs(e, cmd, func(ctx context.Context, c *cluster.Client, bundle *identity.Bundle) error {
				if _, err := c.CreateStore(ctx, &q); err != nil {
					if errors.Is(err, cluster.ErrExists) {
						return fmt.Errorf("%w: give another name, or --if-absent to take it as it is", err)
					}
					return err
				}
				if err := serves(ctx, bundle, q.Name); err != nil {
					return err
				}
				return f.did(e, "created store "+q.Name)
			})
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&q.Voters, "voter", nil, "`nodes` that vote in it")
	fl.StringSliceVar(&q.Learners, "learner", nil, "`nodes` that have a copy and never vote; with --voter")
	fl.StringSliceVar(&q.Preferred, "preferred", nil, "`nodes` that shall lead it, best first")
	fl.BoolVar(&q.IfAbsent, "if-absent", false, "a store of that name is no error")
	return cmd
}

// serves waits until every member of a new store that runs knows the store, so that whoever is asked next
// does not say that there is none.
func serves(ctx context.Context, b *identity.Bundle, name string) error {
	conn, err := kvrpc.Dial(ctx, kvrpc.ClientOptions{Addrs: b.Addrs, TLS: b.ClientConfig("", protoKV)})
	if err != nil {
		return err
	}
	defer conn.Close()
	s := kvaccess.Remote(conn, name)
	for {
		members, err := s.Members(ctx)
		waits := err
		for _, m := range members {
			if strings.Contains(m.Error, kv.ErrNoStore.Error()) {
				waits = fmt.Errorf("node %s: %s", m.Node, m.Error)
			}
		}
		if waits == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("store %s is made, but cannot be used yet: %w", name, waits)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// checkMembers refuses members that make no sense.
func checkMembers(voters, learners []string) error {
	if len(learners) > 0 && len(voters) == 0 {
		return usagef("--learner needs --voter: without it the members are those of the directory")
	}
	if err := checkNames("--voter", voters...); err != nil {
		return err
	}
	return checkNames("--learner", learners...)
}

func newStoreDelete(e *env, f *clusterFlags) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a store with everything in it",
		Long:    "Delete a store with everything in it, on all nodes, for ever. It needs --yes.",
		Example: "  gabion cluster store delete app --yes --data n1",
		Args:    exactArgs("one store", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return usagef("this deletes store %s with everything in it, for ever: give --yes as well", args[0])
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				if err := c.DeleteStore(ctx, args[0]); err != nil {
					return err
				}
				return f.did(e, "deleted store "+args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "really")
	return cmd
}

func newStoreList(e *env, f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the stores and their members",
		Example: "  gabion cluster store list --data n1\n  gabion cluster store list --data n1 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				r, err := c.Status(ctx)
				if err != nil {
					return err
				}
				stores := []clusterview.Store{}
				for _, st := range clusterview.From(r).Stores {
					if st.Name != cluster.Directory {
						stores = append(stores, st)
					}
				}
				if f.json {
					return e.printJSON(stores)
				}
				if len(stores) == 0 {
					fmt.Fprintln(e.err, "gabion: there are no stores yet: `gabion cluster store create NAME` makes one")
					return nil
				}
				return e.printStores(stores)
			})
		},
	}
}

func newStoreMembers(e *env, f *clusterFlags) *cobra.Command {
	var voters, learners []string
	var all bool
	cmd := &cobra.Command{
		Use:   "members NAME",
		Short: "Show where a store lives, or move it",
		Long: `Show the members of a store. With --voter, say where it shall live instead: it
moves there while it is used, first each new member as a learner until it has
caught up, then as a voter, and at last the old ones go. With --all it lives on the
nodes of the directory again.`,
		Example: "  gabion cluster store members app --data n1\n  gabion cluster store members app --voter anna,bert,diana --data n1",
		Args:    exactArgs("one store", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all && len(voters) > 0 {
				return usagef("--all and --voter exclude each other")
			}
			if err := checkMembers(voters, learners); err != nil {
				return err
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				if all || len(voters) > 0 {
					if err := c.SetMembers(ctx, args[0], voters, learners); err != nil {
						return err
					}
					if err := e.until(ctx, c, "moving "+args[0], moved(args[0], voters, learners)); err != nil {
						return err
					}
				}
				r, err := c.Status(ctx)
				if err != nil {
					return err
				}
				s := clusterview.From(r)
				st := s.Find(args[0])
				switch {
				case st == nil:
					return noStore(args[0])
				case f.json:
					return e.printJSON(st)
				}
				return e.printStores([]clusterview.Store{*st})
			})
		},
	}
	cmd.Flags().StringSliceVar(&voters, "voter", nil, "`nodes` that shall vote in it")
	cmd.Flags().StringSliceVar(&learners, "learner", nil, "`nodes` that shall have a copy and never vote; with --voter")
	cmd.Flags().BoolVar(&all, "all", false, "the nodes of the directory")
	return cmd
}

func noStore(name string) error { return fmt.Errorf("%s: %w", name, kv.ErrNoStore) }

// moved is done when a store has the members that it shall have. Which they are is not known when voters
// is empty.
func moved(name string, voters, learners []string) func(clusterview.Status) (bool, string) {
	return func(s clusterview.Status) (bool, string) {
		st := s.Find(name)
		if st == nil {
			return false, "the store is not known yet"
		}
		if len(voters) == 0 {
			return true, ""
		}
		want := make(map[string]bool) // node to whether it votes
		for _, n := range learners {
			want[n] = false
		}
		for _, n := range voters {
			want[n] = true
		}
		for _, m := range st.Members {
			votes, ok := want[m.Node]
			switch {
			case !ok:
				return false, m.Node + " has not left yet"
			case votes != m.Voter:
				return false, m.Node + " is catching up"
			}
			delete(want, m.Node)
		}
		for n := range want {
			return false, n + " is not a member yet"
		}
		return true, ""
	}
}
