package main

import (
	"context"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/objstore/asd"
)

// isDiskID tells the number of a disk, as `gabion asd list` shows it, from a folder.
func isDiskID(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// oneDiskOrFolder is the check of commands that work on a disk of the running filesystem, or on the files of one.
func oneDiskOrFolder(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return exactArgs("one disk, as `gabion asd list` shows it, or folder", 1)(cmd, args)
	}
	return oneFolder(cmd, args)
}

func newASDCompact(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compact ID|FOLDER",
		Short: "Bring the space of what was deleted from a disk back, now",
		Long: `Compact a disk as far as it pays, most garbage first: one of the filesystem that runs
on the data directory, while it is used, or a folder that nothing uses. It needs no more
room than one segment. "gabion up --compaction" says when it is done without being asked.`,
		Example: "  gabion asd compact 3\n  gabion asd compact /disk7/asd",
		Args:    oneDiskOrFolder,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var c control.Compacted
			if isDiskID(args[0]) {
				err = e.withClient(cmd.Context(), func(cl *control.Client) error {
					c, err = cl.CompactDisk(cmd.Context(), control.DiskRequest{ID: args[0]})
					return err
				})
			} else {
				c, err = compactFolder(cmd.Context(), args[0])
			}
			if err != nil {
				return err
			}
			if asJSON {
				return e.printJSON(map[string]int64{"used_before": c.Before.Used, "used": c.After.Used,
					"garbage_before": c.Before.Garbage, "garbage": c.After.Garbage, "segments_compacted": c.After.Compactions - c.Before.Compactions})
			}
			_, err = fmt.Fprintf(e.out, "%s used, %s before; %s of it garbage, %s before\n",
				size(c.After.Used), size(c.Before.Used), size(c.After.Garbage), size(c.Before.Garbage))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// onFolder runs fn on the disk in a folder that nothing uses.
func onFolder(ctx context.Context, dir string, fn func(*asd.ASD) error) error {
	a, err := asd.Open(ctx, dir, asd.Options{Compaction: asd.Compaction{Mode: asd.CompactManual}})
	if err != nil {
		return err
	}
	if err := fn(a); err != nil {
		a.Close()
		return err
	}
	return a.Close()
}

func compactFolder(ctx context.Context, dir string) (c control.Compacted, err error) {
	err = onFolder(ctx, dir, func(a *asd.ASD) error {
		c.Before = folderStat(a)
		if err := a.Compact(ctx); err != nil {
			return err
		}
		c.After = folderStat(a)
		return nil
	})
	return c, err
}

func folderStat(a *asd.ASD) control.DiskStat {
	id := a.Identity()
	out := control.NewDiskStat(id.ASD.String(), a.Stat())
	out.Cluster = id.Cluster.String()
	return out
}

func newASDStat(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stat ID|FOLDER",
		Short: "Show what a disk holds, how much of it is garbage, and how fast it answers",
		Long: `Show what a disk holds and how much of it is garbage: one of the filesystem that runs on
the data directory, with what was done to it since it was opened and how long that took,
or a folder that nothing uses.`,
		Example: "  gabion asd stat 3\n  gabion asd stat /disk7/asd --json",
		Args:    oneDiskOrFolder,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var s control.DiskStat
			if isDiskID(args[0]) {
				err = e.withClient(cmd.Context(), func(c *control.Client) error {
					s, err = c.DiskStat(cmd.Context(), control.DiskRequest{ID: args[0]})
					return err
				})
			} else {
				err = onFolder(cmd.Context(), args[0], func(a *asd.ASD) error {
					s = folderStat(a)
					return nil
				})
			}
			if err != nil {
				return err
			}
			if asJSON {
				return e.printJSON(s)
			}
			return e.printDiskStat(s)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (e *env) printDiskStat(s control.DiskStat) error {
	fmt.Fprintf(e.out, "disk %s of cluster %s\n%d records, %s in %d segments; %s of garbage (%.0f%%)\n%s used, %s of it index; %s free\n",
		s.ASD, s.Cluster, s.Records, size(s.Live), s.Segments, size(s.Garbage), 100*s.GarbageRatio,
		size(s.Used), size(s.Index), size(s.Free))
	if s.Puts+s.Deletes+s.Reads+s.Compactions == 0 {
		return nil
	}
	fmt.Fprintf(e.out, "since it was opened: %s written, %s read; %d reads found damage, %d failed; %d segments compacted, %s copied for it\n",
		size(s.Written), size(s.Read), s.Corrupt, s.ReadErrors, s.Compactions, size(s.Compacted))
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tcount\tmean\tp50\tp99\tp99.9\tmax\t")
	for _, l := range []struct {
		what string
		control.Latency
	}{{"reads", s.ReadTime}, {"puts", s.PutTime}, {"deletions", s.DeleteTime}, {"syncs", s.SyncTime}} {
		fmt.Fprintf(w, "%s\t%d\t%v\t%v\t%v\t%v\t%v\t\n", l.what, l.Count, control.Duration(l.Mean), control.Duration(l.P50),
			control.Duration(l.P99), control.Duration(l.P999), control.Duration(l.Max))
	}
	return w.Flush()
}
