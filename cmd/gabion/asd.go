package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
)

func newASD(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "asd",
		Short: "List, add and remove disks",
		Long: `The disks (ASDs) of the filesystem: folders that hold fragments, best each on a
disk of its own.`,
		Example: "  gabion asd list\n  gabion asd add /disk7/asd\n  gabion asd disable 3",
	}
	cmd.AddCommand(newASDServe(e), newASDShow(e), newASDClaim(e), newASDRelease(e))
	cmd.AddCommand(newASDList(e), newASDAdd(e),
		newASDChange(e, control.Disable, "disabled", "Give a disk nothing new, and move away what it holds",
			`Give a disk nothing new. Maintenance moves what it holds to the others, as far
as they have room; until then it is still read from. The folder stays.`),
		newASDChange(e, control.Enable, "enabled", "Use a disk again that was disabled or drained", ""),
		newASDChange(e, control.Drain, "draining", "Empty a disk, and forget it when it is empty",
			`Give a disk nothing new, let maintenance move what it holds to the others, and
forget the disk when nothing refers to it any more. The folder stays.`),
		newASDChange(e, control.Purge, "purged", "Forget a disk for good",
			`Forget a disk, as after it was lost and what it held was made anew on others.
Refused while an object refers to it, unless --force is given. A folder that is
still there is left as it is, and never taken back.`),
		newASDVerify(e), newASDRecover(e), newASDCompact(e), newASDStat(e))
	return cmd
}

func newASDList(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the disks and their state",
		Example: "  gabion asd list\n  gabion asd list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				disks, err := c.ASDs(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return e.printJSON(disks)
				}
				return e.printDisks(disks)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newASDAdd(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "add FOLDER|ADDRESS",
		Short: "Claim an empty folder, or a disk of another process, as a new disk",
		Long: `Claim an empty folder, made when it is missing, as a new and empty disk, or a
disk that another process serves, asd://HOST:PORT/ID, which "gabion asd show"
shows. New content goes there at once; maintenance uses it to complete what lacks
redundancy.`,
		Example: "  gabion asd add /disk7/asd\n  gabion asd add asd://10.0.0.2:7100/0123456789abcdef0123456789abcdef",
		Args:    exactArgs("one folder", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := diskPlace(args[0])
			if err != nil {
				return usageError{err}
			}
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				d, err := c.AddASD(cmd.Context(), dir)
				if err != nil {
					return err
				}
				return e.printDisk(d, "added", asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// newASDChange makes the command that does change to a disk.
func newASDChange(e *env, change control.Change, done, short, long string) *cobra.Command {
	var asJSON, force bool
	cmd := &cobra.Command{
		Use:     string(change) + " ID",
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  gabion asd list\n  gabion asd %s 3", change),
		Args:    exactArgs("one disk, as `gabion asd list` shows it", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				d, err := c.ChangeASD(cmd.Context(), control.ChangeRequest{ID: args[0], Do: change, Force: force})
				if err != nil {
					return err
				}
				return e.printDisk(d, done, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	if change == control.Purge {
		cmd.Flags().BoolVar(&force, "force", false, "even when objects refer to the disk")
	}
	return cmd
}

// exactArgs refuses any other number of arguments than n, which are described by what.
func exactArgs(what string, n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("want %s, got %d arguments", what, len(args))
		}
		return nil
	}
}

func (e *env) printDisk(d control.Disk, verb string, asJSON bool) error {
	if asJSON {
		return e.printJSON(d)
	}
	_, err := fmt.Fprintf(e.out, "%s disk %s in %s\n", verb, d.ID, d.Dir)
	return err
}

// printDisks prints the table of disks.
func (e *env) printDisks(disks []control.Disk) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DISK\tSTATE\tUSED\tTOTAL\tFOLDER")
	for _, d := range disks {
		used, total := size(d.Used), size(d.Total)
		if d.Error != "" {
			used, total = "-", "-" // nobody can tell
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.ID, d.State, used, total, d.Dir)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, d := range disks {
		if d.Error != "" {
			fmt.Fprintf(e.out, "disk %s: %s\n", d.ID, d.Error)
		}
	}
	return nil
}
