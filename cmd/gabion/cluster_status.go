package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/clusterview"
	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/kv/cluster"
)

func newClusterStatus(e *env, f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the nodes, and the members of every store",
		Long: `Show all nodes, and for each store its members: which vote, which one leads, the
log index that each has applied, and how far it is behind the leader. The first
line says whether the cluster is ok, degraded (it survives the loss of fewer nodes
than it is made for) or lost (some store cannot be written to), and why.

Exit codes: 0 ok, 3 degraded, 4 lost, 1 the state could not be found out.`,
		Example: "  gabion cluster status --data n1\n  gabion cluster status --cluster anna.pem --json | jq .health",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				r, err := c.Status(ctx)
				if err != nil {
					return err
				}
				s := clusterview.From(r)
				if f.json {
					err = e.printJSON(s)
				} else {
					err = e.printCluster(s)
				}
				if err != nil {
					return err
				}
				return exitHealth(s.Health)
			})
		},
	}
}

// exitHealth turns health into an exit code.
func exitHealth(h control.Health) error {
	switch h {
	case control.OK:
		return nil
	case control.Degraded:
		return exitError(exitDegraded)
	}
	return exitError(exitLost)
}

func (e *env) printCluster(s clusterview.Status) error {
	head := string(s.Health)
	if len(s.Reasons) > 0 {
		head += ": " + strings.Join(s.Reasons, "; ")
	}
	fmt.Fprintf(e.out, "%s\n\ncluster %s\n\n", head, s.Cluster)
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tADDRESS\tSTATE\tVOTES\tUP\tVERSION")
	for _, n := range s.Nodes {
		votes, up := "yes", short(n.Uptime)
		if n.Learner {
			votes = "no"
		}
		if !n.Reachable {
			up = "down"
		}
		if n.State == "removed" {
			votes, up = "-", "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.ID, orDash(n.Address), n.State, votes, up, orDash(n.Version))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(e.out)
	return e.printStores(s.Stores)
}

// printStores prints the members of stores as a table.
func (e *env) printStores(stores []clusterview.Store) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STORE\tMEMBER\tROLE\tAPPLIED\tLAG\tHEALTH\tADDRESS")
	for _, st := range stores {
		name := st.Name
		for _, m := range st.Members {
			role, applied, lag := "voter", fmt.Sprint(m.Applied), fmt.Sprint(m.Lag)
			if !m.Voter {
				role = "learner"
			}
			if m.Leads {
				role = "leader"
			}
			if !m.Reachable {
				applied, lag = "-", "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, m.Node, role, applied, lag, m.Health, orDash(m.Address))
			name = "" // once
		}
		if len(st.Members) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t%s\t-\n", name, st.State)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, st := range stores {
		if len(st.Preferred) > 0 {
			fmt.Fprintf(e.out, "store %s prefers to be led by %s\n", st.Name, strings.Join(st.Preferred, ", then "))
		}
		for _, m := range st.Members {
			if m.Error != "" {
				fmt.Fprintf(e.out, "store %s on %s: %s\n", st.Name, m.Node, m.Error)
			}
		}
	}
	return nil
}
