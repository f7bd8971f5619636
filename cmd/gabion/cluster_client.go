package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

func newClusterClient(e *env, f *clusterFlags) *cobra.Command {
	var admin bool
	cmd := &cobra.Command{
		Use:   "client NAME FILE",
		Short: "Make the file with which a client reaches the cluster",
		Long: `Make a file that lets whoever has it use the stores of the cluster: addresses of
nodes, the certificate of the cluster, and a certificate with its private key.
With --admin it may also do what the commands of "gabion cluster" do. "-" prints
it.`,
		Example: "  gabion cluster client app app.pem --data n1\n  gabion cluster client anna anna.pem --admin --data n1\n  gabion kv --cluster app.pem --store app ping",
		Args:    exactArgs("a name and a file", 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames("client", args[0]); err != nil {
				return err
			}
			if args[1] != "-" && exists(args[1]) {
				return fmt.Errorf("%s exists: remove it, or give another name", args[1])
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				raw, err := c.NewClient(ctx, args[0], admin)
				if err != nil {
					return err
				}
				if args[1] == "-" {
					_, err = e.out.Write(raw)
					return err
				}
				if err := identity.WriteFile(args[1], raw); err != nil {
					return err
				}
				if f.json {
					return e.printJSON(map[string]any{"file": args[1], "client": args[0], "admin": admin})
				}
				_, err = fmt.Fprintf(e.out, "wrote %s\n", args[1])
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&admin, "admin", false, "it may also administer the cluster")
	return cmd
}

// clientRow is a client as scripts see it.
type clientRow struct {
	Name    string     `json:"name"`
	Admin   bool       `json:"admin"`
	Files   uint32     `json:"files"`
	Issued  *time.Time `json:"issued,omitempty"`
	Revoked *time.Time `json:"revoked,omitempty"`
}

func rowOf(c *clusterpb.Client) clientRow {
	when := func(unix int64) *time.Time {
		if unix == 0 {
			return nil
		}
		t := time.Unix(unix, 0).UTC()
		return &t
	}
	return clientRow{Name: c.Name, Admin: c.Admin, Files: c.Issued, Issued: when(c.IssuedUnix), Revoked: when(c.RevokedUnix)}
}

func newClusterClients(e *env, f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "clients",
		Short: "List the clients that were made, and which are revoked",
		Long: `List the names that "gabion cluster client" has made files for: whether one of them
may administer the cluster, how many there are, when the last one was made, and since
when they are refused.`,
		Example: "  gabion cluster clients --data n1\n  gabion cluster clients --cluster anna.pem --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				list, err := c.Clients(ctx)
				if err != nil {
					return err
				}
				rows := []clientRow{}
				for _, x := range list {
					rows = append(rows, rowOf(x))
				}
				if f.json {
					return e.printJSON(rows)
				}
				if len(rows) == 0 {
					fmt.Fprintln(e.err, "gabion: there are no clients yet: `gabion cluster client NAME FILE` makes one")
					return nil
				}
				w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "CLIENT\tADMIN\tFILES\tLAST MADE\tREVOKED")
				for _, r := range rows {
					admin := "no"
					if r.Admin {
						admin = "yes"
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", r.Name, admin, r.Files, minute(r.Issued), minute(r.Revoked))
				}
				return w.Flush()
			})
		},
	}
}

func minute(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format("2006-01-02 15:04 UTC")
}

func newClusterRevoke(e *env, f *clusterFlags) *cobra.Command {
	var unknown bool
	cmd := &cobra.Command{
		Use:   "revoke CLIENT",
		Short: "Refuse a client for ever",
		Long: `Refuse a client for ever, with every file that was made under its name: each node
does so as soon as it hears of it, and ends the connections that are open. The name
is not given again. What the client has stored stays. A filesystem ("gabion up
--cluster") that used the file stops being able to write: give it another file
first, with "gabion up --cluster FILE".

A client that was made by an early release is not on the list of "gabion cluster
clients"; --unknown revokes it all the same.`,
		Example: "  gabion cluster revoke app --data n1",
		Args:    exactArgs("one client", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames("client", args[0]); err != nil {
				return err
			}
			return f.run(e, cmd, func(ctx context.Context, c *cluster.Client) error {
				unheard, err := c.RevokeClient(ctx, args[0], unknown)
				if err != nil {
					return err
				}
				if len(unheard) > 0 {
					fmt.Fprintf(e.err, "gabion: %s did not answer: whether %s is refused there is not known; it will be as soon as they hear of the cluster\n", strings.Join(unheard, ", "), args[0])
				}
				return f.did(e, "revoked client "+args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&unknown, "unknown", false, "also a name that is not on the list")
	return cmd
}
