package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
)

func newNamespaceManagers(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "managers",
		Short: "List, add and remove namespace managers",
		Long: `A namespace manager keeps the manifests of some namespaces, in a key-value store of its
own. There is one, "main", in the store of the filesystem. With more, the load of
many namespaces is spread: a new namespace goes to the one with the fewest, and any
can be moved, see "gabion namespace move".`,
		Example: "  gabion namespace managers\n  gabion namespace managers add second\n  gabion namespace managers --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				all, err := c.Managers(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return e.printJSON(all)
				}
				w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "NAME\tSTORE\tNAMESPACES\tMESSAGES")
				for _, m := range all {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", m.Name, orDash(m.Store), m.Namespaces, m.Messages)
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(newManagerAdd(e), newManagerRemove(e))
	return cmd
}

func newManagerAdd(e *env) *cobra.Command {
	var store string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a namespace manager",
		Long: `Make a namespace manager with a key-value store of its own: a new one in the data
directory, or with --store one of the cluster that the filesystem's metadata is on,
which must be empty.

"gabion kv backup" does not hold what is in it; "gabion namespace recover" brings that
back from the disks.`,
		Example: "  gabion namespace managers add second\n  gabion namespace managers add second --store second",
		Args:    exactArgs("one name", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				m, err := c.AddManager(cmd.Context(), control.ManagerRequest{Name: args[0], Store: store})
				if err == nil {
					_, err = fmt.Fprintf(e.out, "namespace manager %s is there, with %d namespaces\n", m.Name, m.Namespaces)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&store, "store", "", "`name` of a store of the cluster")
	return cmd
}

func newManagerRemove(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a namespace manager that has no namespaces",
		Example: "  gabion namespace move photos --to main\n  gabion namespace managers remove second",
		Args:    exactArgs("one name", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				m, err := c.RemoveManager(cmd.Context(), control.ManagerRequest{Name: args[0]})
				if err == nil {
					_, err = fmt.Fprintf(e.out, "namespace manager %s is removed\n", m.Name)
				}
				return err
			})
		},
	}
}

func newNamespaceMove(e *env) *cobra.Command {
	var to string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "move NAME --to MANAGER",
		Short: "Move a namespace to another namespace manager, while it is used",
		Long: `Move the manifests of a namespace to another namespace manager, while it is used: its
rows are copied, what changed meanwhile is brought over, changes wait for a moment, and
it is there. Fragments on disks stay where they are. It goes on after an interrupt or a
crash; to call it off, move the namespace to the manager that it is at.`,
		Example: "  gabion namespace managers add second\n  gabion namespace move photos --to second\n  gabion namespace list",
		Args:    exactArgs("one namespace", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usagef("give --to, the namespace manager; there are: see gabion namespace managers")
			}
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				n, err := c.MoveNamespace(cmd.Context(), control.NamespaceRequest{Name: args[0], To: to}, func(rows int64) {
					e.progress("%s: %d rows copied", args[0], rows)
				})
				e.endProgress()
				if err != nil {
					return err
				}
				if asJSON {
					return e.printJSON(n)
				}
				_, err = fmt.Fprintf(e.out, "namespace %s is at %s: %d objects\n", n.Name, n.Manager, n.Objects)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "`name` of the namespace manager")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newNamespaceDelete(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a namespace with all its objects",
		Long: `Delete a namespace with all its objects, for ever. Its name is free at once. What disks
hold of it is deleted, from those that are away when they are back. One with objects in
it needs --force.`,
		Example: "  gabion namespace delete scratch\n  gabion namespace delete photos --force",
		Args:    exactArgs("one namespace", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				if !force {
					all, err := c.Namespaces(cmd.Context())
					if err != nil {
						return err
					}
					for _, n := range all {
						if n.Name == args[0] && n.Objects > 0 {
							return fmt.Errorf("namespace %s has %d objects, %s: give --force to delete them", n.Name, n.Objects, size(n.Bytes))
						}
					}
				}
				n, err := c.DeleteNamespace(cmd.Context(), control.NamespaceRequest{Name: args[0]})
				if err == nil {
					_, err = fmt.Fprintf(e.out, "namespace %s is deleted: %d objects, %s\n", n.Name, n.Objects, size(n.Bytes))
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also when there are objects in it")
	return cmd
}
