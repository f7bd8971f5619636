package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/cmd/internal/daemon"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/maint"
)

// exitIncomplete is the exit code of a recovery that is done, and found uploads that it could not make whole.
const exitIncomplete = 3

func newNamespace(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "namespace",
		Short:   "List, move, delete, recover, scrub and rewrite namespaces",
		Example: "  gabion namespace list\n  gabion namespace managers add second\n  gabion namespace move user --to second\n  gabion namespace recover\n  gabion namespace scrub user",
	}
	cmd.AddCommand(newNamespaceList(e), newNamespaceManagers(e), newNamespaceMove(e), newNamespaceDelete(e), newNamespaceRecover(e),
		newNamespaceWalk(e, "scrub", "Verify all objects of a namespace",
			`Begin to read and verify every fragment of a namespace in the background; what is bad
is repaired. It is also done on a schedule. A scrub that is under way begins again.`),
		newNamespaceWalk(e, "rewrite", "Code the objects of a namespace anew, by its preset",
			`Begin to write those objects of a namespace anew, in the background, that are not laid
out as its preset has it now: by the first policy that the disks meet in full, with its
compression and fragment size.`))
	return cmd
}

func newNamespaceList(e *env) *cobra.Command {
	var asds []string
	var asJSON, onDisks bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the namespaces, and which namespace manager each is at",
		Long: `List the namespaces, and which namespace manager each is at. With --on-disks, list those
of which the disks hold something, whatever the key-value store knows of; for that,
nothing may run on the data directory.`,
		Example: "  gabion namespace list\n  gabion namespace list --json\n  gabion namespace list --on-disks --asd /disk7/asd",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !onDisks && len(asds) == 0 {
				return e.listNamespaces(cmd.Context(), asJSON)
			}
			r, err := e.recover(cmd.Context(), node.RecoverOptions{ASDs: asds, List: true}, nil)
			if err != nil {
				return err
			}
			return e.printTable(asJSON, r.Found, "NUMBER\tNAME", func(w io.Writer) {
				for _, n := range r.Found {
					fmt.Fprintf(w, "%d\t%s\n", n.Number, orDash(n.Name))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&onDisks, "on-disks", false, "what the disks hold, not what the key-value store knows")
	cmd.Flags().StringArrayVar(&asds, "asd", nil, "`folder` or address of a disk that the key-value store does not know of (repeat)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// listNamespaces lists the namespaces that the key-value store knows.
func (e *env) listNamespaces(ctx context.Context, asJSON bool) error {
	return e.withClient(ctx, func(c *control.Client) error {
		all, err := c.Namespaces(ctx)
		if err != nil {
			return err
		}
		return e.printTable(asJSON, all, "NUMBER\tNAME\tMANAGER\tPRESET\tOBJECTS\tSIZE", func(w io.Writer) {
			for _, n := range all {
				at := n.Manager
				if n.To != "" {
					at += ", moving to " + n.To
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\n", n.Number, n.Name, at, n.Preset, n.Objects, size(n.Bytes))
			}
		})
	})
}

func newNamespaceRecover(e *env) *cobra.Command {
	var o node.RecoverOptions
	var f claimFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "recover [NAME...]",
		Short: "Rebuild what the key-value store has lost of namespaces, from the disks",
		Long: `Rebuild the manifests of the objects of namespaces from what lies beside their
fragments on the disks, when rows of the key-value store, or all of it, are lost, or
when it was restored from a backup that is older than the disks. Every fragment that
counts is read and verified; objects that lack some are repaired by the next
"gabion up". Without names, all namespaces of which the disks hold something. Nothing
may run on the data directory.

Objects come back as their last acknowledged put left them. Of two objects of one name
the later one wins. What was deleted stays deleted, once its fragments were deleted from
the disks, which happens within a second of the deletion while they are up. What the
store still knows to be deleted stays so, unless --everything is given. Empty objects
are lost: there is nothing of them on disks.

A filesystem's directories and files are rows of the key-value store: keep backups of it
("gabion kv backup"), restore the latest, and run this. Without one, the content of its
files comes back in namespace fs.lost, and "gabion up" makes a new filesystem.

When the data directory itself is lost, a new one is made around the disks: give all of
them with --asd. What is encrypted needs nothing but its key file or passphrase then,
at the next "gabion up": the disks have copies of the keyring, which that opens.

Exit codes: 0 done, 3 done, and of some uploads too few fragments are left, 1 failed.`,
		Example: "  gabion namespace recover\n  gabion namespace recover user --json\n  gabion namespace recover --asd /disk7/asd --asd /disk8/asd\n  gabion namespace recover --data new --asd asd://10.0.0.1:7100/0123456789abcdef0123456789abcdef --identity home.pem",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = args
			o.Progress = func(r maint.Recovered) {
				e.progress("%s: %d uploads, %d objects back, %s read", r.Namespace, r.Uploads, r.Adopted+r.Corrected, size(r.Bytes))
			}
			if !asJSON {
				o.Done = e.printRecovered
			}
			r, err := e.recover(cmd.Context(), o, &f)
			e.endProgress()
			if asJSON && len(r.Namespaces)+len(r.Found) > 0 {
				err = errors.Join(err, e.printJSON(r))
			}
			if err != nil {
				return err
			}
			if !asJSON {
				err = e.printRecovery(r)
			}
			for _, n := range r.Namespaces {
				if n.Incomplete > 0 && err == nil {
					err = exitError(exitIncomplete)
				}
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&o.ASDs, "asd", nil, "`folder` or address of a disk that the key-value store does not know of (repeat)")
	f.add(cmd)
	cmd.Flags().BoolVar(&o.Everything, "everything", false, "also what the store knows to be deleted, as far as it is still on the disks")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// newNamespaceWalk makes the command that begins a walk of a kind.
func newNamespaceWalk(e *env, kind, short, long string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     kind + " NAME",
		Short:   short,
		Long:    long + " It goes on\nwhere it was after a restart; \"gabion status\" shows how far it is.",
		Example: fmt.Sprintf("  gabion namespace %s user\n  gabion status", kind),
		Args:    exactArgs("one namespace", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				w, err := c.BeginWalk(cmd.Context(), control.WalkRequest{Namespace: args[0], Kind: kind})
				if err != nil {
					return err
				}
				if asJSON {
					return e.printJSON(w)
				}
				_, err = fmt.Fprintf(e.out, "%s of namespace %s began: %d objects\n", kind, w.Namespace, w.Total)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// recover runs node.Recover on the data directory, on which nothing may run. With f, which says how servers of disks are
// reached, one is made when there is none.
func (e *env) recover(ctx context.Context, o node.RecoverOptions, f *claimFlags) (_ node.Recovery, err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for i, dir := range o.ASDs {
		if o.ASDs[i], err = diskPlace(dir); err != nil {
			return node.Recovery{}, usagef("--asd %q: %v", dir, err)
		}
	}
	c, err := control.Dial(ctx, e.data)
	if err == nil {
		return node.Recovery{}, errors.Join(fmt.Errorf("gabion runs on %s: stop it first", e.data), c.Close())
	}
	if !errors.Is(err, control.ErrNotRunning) {
		return node.Recovery{}, err
	}
	d, err := datadir.Open(e.data)
	if errors.Is(err, datadir.ErrAbsent) && f != nil && len(o.ASDs) > 0 {
		d, err = f.makeAround(ctx, e, o.ASDs)
	}
	if err != nil {
		return node.Recovery{}, e.explain(err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	o.Logger = slog.New(slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return node.Recover(ctx, d, o)
}

// makeAround makes a data directory for disks whose own is lost. They must all belong to one filesystem.
func (f *claimFlags) makeAround(ctx context.Context, e *env, disks []string) (*datadir.Dir, error) {
	c := datadir.NewConfig()
	c.ASDs, c.Policies, c.Cluster = disks, objstore.DefaultPolicies(len(disks)), ""
	for _, place := range disks {
		list, err := f.show(ctx, e, place)
		if err != nil {
			return nil, err
		}
		if len(list) != 1 || list[0].Owner == "" {
			return nil, fmt.Errorf("%s: it belongs to no filesystem", place)
		}
		if c.Cluster != "" && c.Cluster != list[0].Owner {
			return nil, fmt.Errorf("%s belongs to filesystem %s, and %s to %s: give the disks of one", disks[0], c.Cluster, place, list[0].Owner)
		}
		c.Cluster = list[0].Owner
	}
	d, err := datadir.Create(e.data, c)
	if err != nil {
		return nil, err
	}
	if f.identity != "" {
		b, err := daemon.ReadIdentity(f.identity)
		if err == nil {
			var raw []byte
			if raw, err = b.Marshal(); err == nil {
				err = d.WriteIdentity(raw)
			}
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("--identity: %w", err), d.Abandon())
		}
	}
	if err := d.Finish(); err != nil {
		return nil, errors.Join(err, d.Abandon())
	}
	return d, nil
}

func (e *env) printRecovered(r maint.Recovered) {
	e.endProgress()
	fmt.Fprintf(e.out, "%s: %d objects back", r.Namespace, r.Adopted)
	for _, part := range []struct {
		n    int64
		what string
	}{{r.Corrected, "corrected"}, {r.Unchanged, "as they were"}, {r.Degraded, "to be repaired"}, {r.Superseded, "older ones left out"}, {r.Incomplete, "uploads incomplete"}} {
		if part.n > 0 {
			fmt.Fprintf(e.out, ", %d %s", part.n, part.what)
		}
	}
	fmt.Fprintf(e.out, "; %d fragments read (%s), %d damaged\n", r.Fragments, size(r.Bytes), r.Damaged)
	for i, l := range r.Lost {
		if i == maxPrinted {
			fmt.Fprintf(e.out, "  and %d more\n", r.Incomplete-maxPrinted)
			break
		}
		fmt.Fprintf(e.out, "  incomplete: upload %d of %q: %s\n", l.ID, l.Name, l.Reason)
	}
}

// printRecovery says what belongs to no namespace.
func (e *env) printRecovery(r node.Recovery) error {
	for _, dir := range r.Absent {
		fmt.Fprintf(e.out, "no disk to be used in %s\n", dir)
	}
	if len(r.Namespaces) == 0 {
		fmt.Fprintln(e.out, "nothing to recover")
	}
	if r.StoreLost {
		fmt.Fprintln(e.out, "the key-value store was made anew; the filesystem's directories and files were in the old one")
	}
	return nil
}
