package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
)

// errEnough ends a watch that has shown what was asked for.
var errEnough = errors.New("enough")

func newKVWatch(e *env, f *kvFlags) *cobra.Command {
	var from uint64
	var limit int
	cmd := &cobra.Command{
		Use:   "watch [PREFIX]",
		Short: "Print the changes of keys as they happen",
		Long: `Print every change of the keys that begin with PREFIX, in order, one on a line,
until interrupted:

  INDEX set KEY VALUE
  INDEX delete KEY

INDEX is that of the log. After a break, --from with the last index plus one goes
on without a gap; when the log has been compacted beyond it, that is an error,
which says which index is the first that is left.`,
		Example: "  gabion kv watch\n  gabion kv watch co --from 1042\n  gabion kv watch --limit 1 lock && echo changed",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("want at most one prefix, got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit %d: it must not be negative", limit)
			}
			q := kvaccess.WatchQuery{Keyspace: kv.Keyspace(f.keyspace), From: from}
			if len(args) == 1 {
				var err error
				if q.Prefix, err = f.bytes(args[0]); err != nil {
					return err
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			n := 0
			err := f.with(e, ctx, func(ctx context.Context, s kvaccess.Store) error {
				return s.Watch(ctx, q, func(ev kvaccess.Event) error {
					if err := f.printEvent(e.out, ev); err != nil {
						return err
					}
					if n++; n == limit {
						return errEnough
					}
					return nil
				})
			})
			if errors.Is(err, errEnough) || ctx.Err() != nil {
				return nil // as asked
			}
			return err
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "first log `index` of interest (default: from now on)")
	cmd.Flags().IntVar(&limit, "limit", 0, "end after this `number` of changes")
	return cmd
}

func (f *kvFlags) printEvent(w io.Writer, ev kvaccess.Event) (err error) {
	switch {
	case f.json:
		err = writeJSONLine(w, ev)
	case ev.Deleted:
		_, err = fmt.Fprintf(w, "%d delete %s\n", ev.Index, f.show(ev.Key))
	default:
		_, err = fmt.Fprintf(w, "%d set %s %s\n", ev.Index, f.show(ev.Key), f.show(ev.Value))
	}
	return err
}

func newKVState(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "state",
		Short:   "Show which member leads, and how far the others are",
		Long:    "Show what part each member of the store plays, the log index that it has applied,\nand how far it is behind the leader. Exit code 1 when no member leads.",
		Example: "  gabion kv state\n  gabion kv state --cluster client.pem --store app --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(e, cmd, func(ctx context.Context, s kvaccess.Store) error {
				members, err := s.Members(ctx)
				if err != nil {
					return err
				}
				leads := false
				for _, m := range members {
					leads = leads || m.Role == kvaccess.Leader
				}
				if f.json {
					err = e.printJSON(members)
				} else {
					err = e.printMembers(members)
				}
				if err == nil && !leads {
					return errors.New("no member leads: the store can be read with --level stale only, until a majority of its voters is back")
				}
				return err
			})
		},
	}
}

// behind says how far a member is behind the furthest, in words.
func behind(applied, furthest uint64, dead bool) string {
	if dead {
		return "-"
	}
	return fmt.Sprint(furthest - min(applied, furthest))
}

func furthest(members []kvaccess.Member) (index uint64) {
	for _, m := range members {
		index = max(index, m.Applied)
	}
	return index
}

func (e *env) printMembers(members []kvaccess.Member) error {
	last := furthest(members)
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tROLE\tTERM\tAPPLIED\tLAG\tADDRESS")
	for _, m := range members {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", m.Node, orDash(m.Role), m.Term, m.Applied, behind(m.Applied, last, m.Role == ""), orDash(m.Address))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return e.printMemberErrors(members)
}

func (e *env) printMemberErrors(members []kvaccess.Member) error {
	for _, m := range members {
		if m.Error != "" {
			if _, err := fmt.Fprintf(e.out, "%s: %s\n", m.Node, m.Error); err != nil {
				return err
			}
		}
	}
	return nil
}

func newKVStats(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "stats",
		Short:   "Show the figures of each member",
		Long:    "Show how many transactions each member has sequenced since it was opened, in how\nmany log entries, and what it holds in memory and on its disk.",
		Example: "  gabion kv stats\n  gabion kv stats --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(e, cmd, func(ctx context.Context, s kvaccess.Store) error {
				members, err := s.Members(ctx)
				if err != nil {
					return err
				}
				if f.json {
					return e.printJSON(members)
				}
				w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "MEMBER\tTRANSACTIONS\tENTRIES\tAPPLIED\tSAVED\tPENDING\tRECENT\tSTATE\tLOG")
				for _, m := range members {
					fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", m.Node, m.Transactions, m.Batches, m.Applied, m.StateIndex,
						size(m.PendingBytes), size(m.RecentBytes), size(m.StateBytes), size(m.LogBytes))
				}
				if err := w.Flush(); err != nil {
					return err
				}
				return e.printMemberErrors(members)
			})
		},
	}
}

func newKVPing(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "ping",
		Short:   "Ask every member for an answer",
		Long:    "Ask every member of the store for an answer, and print how long it took. Exit code\n1 when one does not answer.",
		Example: "  gabion kv ping\n  gabion kv ping --cluster client.pem --store app",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(e, cmd, func(ctx context.Context, s kvaccess.Store) error {
				pongs, err := s.Ping(ctx)
				if err != nil {
					return err
				}
				silent := 0
				for _, p := range pongs {
					if p.Error != "" {
						silent++
					}
				}
				if f.json {
					err = e.printJSON(pongs)
				} else {
					err = e.printPongs(pongs)
				}
				if err == nil && silent > 0 {
					return fmt.Errorf("%d of %d members do not answer", silent, len(pongs))
				}
				return err
			})
		},
	}
}

func (e *env) printPongs(pongs []kvaccess.Pong) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	for _, p := range pongs {
		answer := p.Took.Round(time.Microsecond).String()
		if p.Error != "" {
			answer = p.Error
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Node, orDash(p.Address), answer)
	}
	return w.Flush()
}

func newKVVerify(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Compare what the members hold",
		Long: `Make every member compute a SHA-256 over all its keys and values at one index of
the log, while the store is in use, and compare. Of the store of a data directory,
which has one member, every page and value is read and compared with its checksum.

Exit codes: 0 the same everywhere, 1 they differ, 3 not all could be compared.`,
		Example: "  gabion kv verify --cluster client.pem --store app",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(e, cmd.Context(), func(ctx context.Context, s kvaccess.Store) error {
				sums, err := s.Verify(ctx)
				if err != nil {
					return trouble{fmt.Errorf("kv verify: %w", err)}
				}
				if f.json {
					err = e.printJSON(sums)
				} else {
					err = e.printSums(sums)
				}
				if err != nil {
					return err
				}
				return judgeSums(e.err, sums)
			})
		},
	}
}

func (e *env) printSums(sums []kvaccess.Sum) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tINDEX\tKEYS\tSHA-256")
	for _, s := range sums {
		what := s.SHA256
		if s.Error != "" {
			what = s.Error
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", s.Node, s.Index, s.Keys, what)
	}
	return w.Flush()
}

// judgeSums says whether all members hold the same.
func judgeSums(w io.Writer, sums []kvaccess.Sum) error {
	missing := 0
	var first *kvaccess.Sum
	for i, s := range sums {
		switch {
		case s.Error != "":
			missing++
		case first == nil:
			first = &sums[i]
		case s.Index != first.Index:
			return fmt.Errorf("%s was looked at at index %d and %s at %d: try again", s.Node, s.Index, first.Node, first.Index)
		case s.SHA256 != first.SHA256 || s.Keys != first.Keys:
			return fmt.Errorf("%s and %s hold different content at index %d: replace the member whose disk you trust less, with `gabion cluster replace`", first.Node, s.Node, s.Index)
		}
	}
	if missing > 0 {
		fmt.Fprintf(w, "gabion: kv verify: %d of %d members could not be asked\n", missing, len(sums))
		return exitError(exitTrouble)
	}
	return nil
}

func newKVBackup(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the store to one file, while it is in use",
		Long: `Write all keyspaces of the store, as they are at one moment, to a new file, or with
"-" to standard output. Writes go on meanwhile. The file carries a checksum; it
appears under its name when it is complete.`,
		Example: "  gabion kv backup --cluster client.pem --store app app.backup\n  gabion kv backup - | zstd > kv.backup.zst",
		Args:    exactArgs("one file", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(e, cmd.Context(), func(ctx context.Context, s kvaccess.Store) error {
				if args[0] == "-" {
					_, err := s.Backup(ctx, e.out)
					return err
				}
				var index uint64
				n, err := newFile(args[0], func(w io.Writer) (err error) {
					index, err = s.Backup(ctx, w)
					return err
				})
				if err != nil {
					return err
				}
				if f.json {
					return e.printJSON(map[string]any{"file": args[0], "bytes": n, "index": index})
				}
				_, err = fmt.Fprintf(e.out, "wrote %s: %s, at index %d\n", args[0], size(n), index)
				return err
			})
		},
	}
}

// newFile makes the file path durably with what write writes, or nothing; one that is there is refused.
func newFile(path string, write func(io.Writer) error) (int64, error) {
	if _, err := os.Lstat(path); err == nil {
		return 0, fmt.Errorf("%s exists: remove it, or give another name", path)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	err = write(file)
	if err == nil {
		err = file.Sync()
	}
	info, serr := file.Stat()
	if err = errors.Join(err, serr, file.Close()); err != nil {
		return 0, err
	}
	if err := os.Link(file.Name(), path); err != nil { // unlike a rename it never replaces
		return 0, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	return info.Size(), errors.Join(dir.Sync(), dir.Close())
}

func newKVRestore(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Fill an empty store of a cluster from a backup",
		Long: `Fill a store of a cluster, which must be empty, from a backup, or with "-" from
standard input. The backup is checked on the way: when it is damaged or cut
off, the command fails, and what was filled in so far stays until the store is
deleted.`,
		Example: "  gabion cluster store create app2 --cluster client.pem\n  gabion kv restore --cluster client.pem --store app2 app.backup",
		Args:    exactArgs("one file", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := e.in
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer file.Close()
				in = file
			}
			return f.with(e, cmd.Context(), func(ctx context.Context, s kvaccess.Store) error {
				n, err := s.Restore(ctx, in)
				if err != nil {
					return err
				}
				if f.json {
					return e.printJSON(map[string]uint64{"keys": n})
				}
				_, err = fmt.Fprintf(e.out, "restored %d keys\n", n)
				return err
			})
		},
	}
}
