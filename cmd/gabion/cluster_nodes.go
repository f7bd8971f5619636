package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/clusterview"
	"github.com/gabionfs/gabion/kv/cluster"
)

// until asks for the cluster's status until done, showing what it waits for on a terminal.
func (e *env) until(ctx context.Context, c *cluster.Client, what string, done func(clusterview.Status) (bool, string)) error {
	defer e.endProgress()
	last := ""
	for {
		r, err := c.Status(ctx)
		if err == nil {
			ok, left := done(clusterview.From(r))
			if ok {
				return nil
			}
			last = left
			e.progress("%s: %s", what, left)
		} else if ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			if last == "" {
				return err
			}
			return fmt.Errorf("%s goes on, but is not done yet: %s; `gabion cluster status` shows how far it is", what, last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func newClusterAdd(e *env, f *clusterFlags) *cobra.Command {
	var learner bool
	cmd := &cobra.Command{
		Use:   "add NODE",
		Short: "Let a node that has joined vote, or no longer",
		Long: `Say what part a node plays that has joined. A new machine is added with a token:
"gabion cluster token" here, and "gabion node --token TOKEN" there; it votes by
itself unless it joined with --learner. "add" makes a voter of such a learner, as
soon as it has caught up; "add --learner" makes a learner of a voter: it keeps a
copy of every store that follows the directory, and never votes.`,
		Example: "  gabion cluster add diana --data n1\n  gabion cluster add diana --learner --data n1",
		Args:    exactArgs("one node", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames("node", args[0]); err != nil {
				return err
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				if err := c.SetLearner(ctx, args[0], learner); err != nil {
					if errors.Is(err, cluster.ErrNoNode) {
						return fmt.Errorf("%w: a new machine joins with a token: `gabion cluster token` prints one, for `gabion node --token TOKEN` there", err)
					}
					return err
				}
				part := "a voter, as soon as it has caught up"
				if learner {
					part = "a learner"
				}
				return f.did(e, fmt.Sprintf("%s is %s", args[0], part))
			})
		},
	}
	cmd.Flags().BoolVar(&learner, "learner", false, "it never votes")
	return cmd
}

// did says what was done.
func (f *clusterFlags) did(e *env, what string) error {
	if f.json {
		return e.printJSON(map[string]string{"done": what})
	}
	_, err := fmt.Fprintln(e.out, what)
	return err
}

func newClusterRemove(e *env, f *clusterFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node out of the cluster",
		Long: `Take a node out of every store, and then refuse its certificate for ever. It
waits, up to --timeout, until that is done; clients work meanwhile. Give a dead node
to "gabion cluster replace" instead when a new one takes its place.

--force refuses the node at once, without moving away what it has: for a machine
that is not to be trusted any more.`,
		Example: "  gabion cluster remove anna --data n2",
		Args:    exactArgs("one node", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames("node", args[0]); err != nil {
				return err
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				if err := c.RemoveNode(ctx, args[0], force); err != nil {
					return err
				}
				if err := e.until(ctx, c, "removing "+args[0], gone(args[0])); err != nil {
					return err
				}
				return f.did(e, "removed "+args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "refuse it at once")
	return cmd
}

// gone is done when no store has a member on the node, and it is refused.
func gone(node string) func(clusterview.Status) (bool, string) {
	return func(s clusterview.Status) (bool, string) {
		var left []string
		for _, st := range s.Stores {
			for _, m := range st.Members {
				if m.Node == node {
					left = append(left, st.Name)
				}
			}
		}
		if len(left) > 0 {
			return false, fmt.Sprintf("%s is still a member of %s", node, strings.Join(left, ", "))
		}
		for _, n := range s.Nodes {
			if n.ID == node && n.State != "removed" {
				return false, fmt.Sprintf("%s is %s", node, n.State)
			}
		}
		return true, ""
	}
}

func newClusterReplace(e *env, f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "replace NODE NEW",
		Short: "Put a new node in the place of one that is lost",
		Long: `Put NEW, which has joined, in the place of NODE in every store, and remove NODE.
It waits, up to --timeout, until NEW has caught up and NODE is out; clients work
meanwhile. NODE may be dead, or alive.`,
		Example: "  gabion cluster token --data n1            on a node that lives\n  gabion node --data n4 --listen 10.0.0.4:7000 --token TOKEN --id diana\n  gabion cluster replace anna diana --data n1",
		Args:    exactArgs("a node and the one that takes its place", 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames("node", args...); err != nil {
				return err
			}
			if args[0] == args[1] {
				return usagef("%s cannot take its own place: a new node has another name", args[0])
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				before, err := c.Status(ctx)
				if err != nil {
					return err
				}
				if err := c.ReplaceNode(ctx, args[0], args[1]); err != nil {
					return err
				}
				if err := e.until(ctx, c, "replacing "+args[0], replaced(clusterview.From(before), args[0], args[1])); err != nil {
					return err
				}
				return f.did(e, fmt.Sprintf("%s has taken the place of %s", args[1], args[0]))
			})
		},
	}
}

// replaced is done when old is gone and next votes wherever old did before.
func replaced(before clusterview.Status, old, next string) func(clusterview.Status) (bool, string) {
	left := gone(old)
	voter := func(s clusterview.Status, store, node string) bool {
		st := s.Find(store)
		return st != nil && slices.ContainsFunc(st.Members, func(m clusterview.Member) bool { return m.Node == node && m.Voter })
	}
	return func(s clusterview.Status) (bool, string) {
		for _, st := range s.Stores {
			if voter(before, st.Name, old) && !voter(s, st.Name, next) {
				return false, fmt.Sprintf("%s does not vote in %s yet", next, st.Name)
			}
		}
		return left(s)
	}
}

func newClusterTransfer(e *env, f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "transfer-leader STORE [NODE]",
		Short: "Let another member lead a store",
		Long: `Hand the lead of a store to a node, or to the member that is furthest. A node that
"gabion cluster preferred" names takes the lead back as soon as it has caught up.`,
		Example: "  gabion cluster transfer-leader app --data n1\n  gabion cluster transfer-leader app bert --data n1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return fmt.Errorf("want a store, and perhaps a node, got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			to := ""
			if len(args) == 2 {
				if to = args[1]; checkNames("node", to) != nil {
					return checkNames("node", to)
				}
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				before, err := leaderOf(ctx, c, args[0])
				if err != nil {
					return err
				}
				if before != "" && before == to {
					return f.did(e, fmt.Sprintf("%s leads %s already", to, args[0]))
				}
				if err := c.TransferLeader(ctx, args[0], to); err != nil {
					return err
				}
				now := ""
				err = e.until(ctx, c, "handing over "+args[0], func(s clusterview.Status) (bool, string) {
					st := s.Find(args[0])
					if st == nil || st.Leader == "" {
						return false, "nobody leads at the moment"
					}
					now = st.Leader
					return to == "" && now != before || now == to, now + " leads"
				})
				if err != nil {
					return err
				}
				return f.did(e, fmt.Sprintf("%s leads %s", now, args[0]))
			})
		},
	}
}

// leaderOf returns the node that leads a store, or "".
func leaderOf(ctx context.Context, c *cluster.Client, name string) (string, error) {
	r, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	s := clusterview.From(r)
	if st := s.Find(name); st != nil {
		return st.Leader, nil
	}
	return "", noStore(name)
}

func newClusterPreferred(e *env, f *clusterFlags) *cobra.Command {
	var none bool
	cmd := &cobra.Command{
		Use:   "preferred STORE [NODE]...",
		Short: "Say which nodes shall lead a store",
		Long: `Say which nodes shall lead a store, the best first. Whenever another one leads, the
lead moves to the best of them that runs and has caught up. --none forgets them:
whoever leads goes on.`,
		Example: "  gabion cluster preferred app anna bert --data n1\n  gabion cluster preferred app --none --data n1",
		Args:    atLeast("a store and nodes", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			nodes := args[1:]
			if none == (len(nodes) > 0) {
				return usagef("give the nodes that shall lead %s, best first, or --none", args[0])
			}
			if err := checkNames("node", nodes...); err != nil {
				return err
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				if err := c.SetPreferred(ctx, args[0], nodes); err != nil {
					return err
				}
				if none {
					return f.did(e, args[0]+" is led by anyone")
				}
				return f.did(e, fmt.Sprintf("%s prefers to be led by %s", args[0], strings.Join(nodes, ", then ")))
			})
		},
	}
	cmd.Flags().BoolVar(&none, "none", false, "anyone may lead")
	return cmd
}
