package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
)

// readFlags say how fresh a read has to be.
type readFlags struct {
	level  string
	index  uint64
	maxAge time.Duration
}

func addReadFlags(cmd *cobra.Command) *readFlags {
	r := &readFlags{}
	fl := cmd.Flags()
	fl.StringVar(&r.level, "level", "linearizable", "linearizable: all that was acknowledged; session: at least --index; stale: whatever the next member has")
	fl.Uint64Var(&r.index, "index", 0, "with --level session: the log `index` that must be seen")
	fl.DurationVar(&r.maxAge, "max-age", 0, "with --level stale or session: refuse what is older than this `time`")
	return r
}

func (r *readFlags) read(changed func(string) bool) (kvaccess.Read, error) {
	var q kvaccess.Read
	switch r.level {
	case "linearizable":
		if changed("index") || changed("max-age") {
			return q, usagef("--index and --max-age make no sense with --level linearizable: it shows all that was acknowledged")
		}
	case "session":
		if !changed("index") {
			return q, usagef("--level session: give the log index that must be seen with --index; writes print theirs with --json")
		}
		q = kvaccess.Read{Level: kv.Stale, Index: r.index, MaxAge: r.maxAge}
	case "stale":
		if changed("index") {
			return q, usagef("--index makes no sense with --level stale: use --level session")
		}
		q = kvaccess.Read{Level: kv.Stale, MaxAge: r.maxAge}
	default:
		return q, usagef("--level %q: it is one of linearizable, session, stale", r.level)
	}
	if r.maxAge < 0 {
		return q, usagef("--max-age %v: it must not be negative", r.maxAge)
	}
	return q, nil
}

// found is one line of get --json and exists --json.
type found struct {
	Key   []byte  `json:"key"`
	Found bool    `json:"found"`
	Value *[]byte `json:"value,omitempty"`
}

func newKVGet(e *env, f *kvFlags) *cobra.Command {
	var level *readFlags
	cmd := &cobra.Command{
		Use:   "get KEY...",
		Short: "Print the value of a key, or of several",
		Long: `Print the value of a key, as it is, followed by a newline. With several keys,
which are read at one moment: each key with its value on a line. Exit code 1 when
one is absent; the others are printed all the same.`,
		Example: "  gabion kv get colour\n  gabion kv get colour shape size\n  gabion kv get -s inode --hex 0000000000000001\n  gabion kv get --cluster client.pem --store app --level stale colour",
		Args:    atLeast("a key", 1),
	}
	level = addReadFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := level.read(cmd.Flags().Changed)
		if err != nil {
			return err
		}
		keys, err := f.allBytes(args)
		if err != nil {
			return err
		}
		return f.run(e, cmd, func(ctx context.Context, s kvaccess.Store) error {
			values, err := s.Get(ctx, r, kv.Keyspace(f.keyspace), keys)
			if err != nil {
				return err
			}
			return f.printValues(e, keys, values)
		})
	}
	return cmd
}

func (f *kvFlags) printValues(e *env, keys [][]byte, values []kvaccess.Value) error {
	var absent []error
	w := bufio.NewWriter(e.out)
	for i, v := range values {
		var err error
		switch {
		case f.json && len(keys) > 1:
			row := found{Key: keys[i], Found: v.Found}
			if v.Found {
				row.Value = &v.Value
			}
			err = writeJSONLine(w, row)
		case !v.Found: // told below
		case f.json:
			err = e.printJSON(kvaccess.Pair{Key: keys[i], Value: v.Value})
		case len(keys) == 1:
			_, err = w.Write(f.raw(v.Value))
		default:
			err = f.printPair(w, kvaccess.Pair{Key: keys[i], Value: v.Value}, false)
		}
		if err != nil {
			return err
		}
		if !v.Found {
			absent = append(absent, fmt.Errorf("%s/%s: %w", f.keyspace, f.show(keys[i]), kv.ErrNotFound))
		}
	}
	return errors.Join(w.Flush(), errors.Join(absent...))
}

func newKVExists(e *env, f *kvFlags) *cobra.Command {
	var level *readFlags
	cmd := &cobra.Command{
		Use:     "exists KEY...",
		Short:   "Say whether keys exist",
		Long:    "Print each key with true or false. Exit code 1 when one does not exist.",
		Example: "  gabion kv exists colour && echo yes\n  gabion kv exists colour shape",
		Args:    atLeast("a key", 1),
	}
	level = addReadFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := level.read(cmd.Flags().Changed)
		if err != nil {
			return err
		}
		keys, err := f.allBytes(args)
		if err != nil {
			return err
		}
		return f.run(e, cmd, func(ctx context.Context, s kvaccess.Store) error {
			there, err := s.Exists(ctx, r, kv.Keyspace(f.keyspace), keys)
			if err != nil {
				return err
			}
			all := true
			for i, ok := range there {
				all = all && ok
				if f.json {
					err = writeJSONLine(e.out, found{Key: keys[i], Found: ok})
				} else {
					_, err = fmt.Fprintf(e.out, "%s %v\n", f.show(keys[i]), ok)
				}
				if err != nil {
					return err
				}
			}
			if !all {
				return exitError(1)
			}
			return nil
		})
	}
	return cmd
}

// rangeFlags select keys.
type rangeFlags struct{ from, to, prefix, after string }

func addRangeFlags(cmd *cobra.Command) *rangeFlags {
	r := &rangeFlags{}
	cmd.Flags().StringVar(&r.from, "from", "", "first `key`")
	cmd.Flags().StringVar(&r.to, "to", "", "`key` to stop before")
	cmd.Flags().StringVar(&r.prefix, "prefix", "", "only keys that begin with this `prefix`")
	return r
}

// query turns the flags into a range.
func (r *rangeFlags) query(f *kvFlags, reverse bool) (q kvaccess.Query, err error) {
	if r.prefix != "" && (r.from != "" || r.to != "") {
		return q, usagef("--prefix excludes --from and --to")
	}
	q.Keyspace = kv.Keyspace(f.keyspace)
	if r.prefix != "" {
		p, err := f.bytes(r.prefix)
		if err != nil {
			return q, err
		}
		q.Range = kv.Prefix(p)
	}
	q.Reverse = reverse
	after := &q.From
	if reverse {
		after = &q.To
	}
	for _, b := range []struct {
		flag string
		to   *[]byte
	}{{r.from, &q.From}, {r.to, &q.To}, {r.after, after}} {
		if b.flag != "" {
			if *b.to, err = f.bytes(b.flag); err != nil {
				return q, err
			}
		}
	}
	if r.after != "" && !reverse {
		q.From = append(q.From, 0)
	}
	return q, nil
}

func newKVRange(e *env, f *kvFlags) *cobra.Command {
	var level *readFlags
	var keys *rangeFlags
	var reverse, keysOnly bool
	var limit int
	cmd := &cobra.Command{
		Use:     "range",
		Aliases: []string{"list", "scan"},
		Short:   "List keys and values in order",
		Long: `List the keys from <= key < to, one on a line with its value. What does not print
is quoted. With --json, one object on a line.

When --limit ends the list before its end, the last line on standard error says
how to go on: with --after and the last key.`,
		Example: "  gabion kv range\n  gabion kv range --prefix co --limit 10 --reverse\n  gabion kv range --limit 10 --after colour\n  gabion kv range -s dirent --keys --hex",
	}
	level, keys = addReadFlags(cmd), addRangeFlags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&keys.after, "after", "", "go on behind this `key`, in the order of the list")
	fl.BoolVar(&reverse, "reverse", false, "last key first")
	fl.IntVar(&limit, "limit", 0, "at most this `number` of keys")
	fl.BoolVar(&keysOnly, "keys", false, "print keys only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := level.read(cmd.Flags().Changed)
		if err != nil {
			return err
		}
		if limit < 0 {
			return usagef("--limit %d: it must not be negative", limit)
		}
		if keys.after != "" && (reverse && keys.to != "" || !reverse && keys.from != "") {
			return usagef("--after says where the list begins, and so does --%s", map[bool]string{true: "to", false: "from"}[reverse])
		}
		q, err := keys.query(f, reverse)
		if err != nil {
			return err
		}
		q.Limit, q.KeysOnly = limit, keysOnly
		var last []byte
		w := bufio.NewWriter(e.out)
		more := false
		err = f.with(e, cmd.Context(), func(ctx context.Context, s kvaccess.Store) error {
			more, err = s.Range(ctx, r, q, func(p kvaccess.Pair) error {
				last = p.Key
				return f.printPair(w, p, keysOnly)
			})
			return err
		})
		if err := errors.Join(err, w.Flush()); err != nil || !more || last == nil {
			return err
		}
		fmt.Fprintf(e.err, "gabion: there are more: go on with --after %s\n", f.show(last))
		return nil
	}
	return cmd
}

func (f *kvFlags) printPair(w io.Writer, p kvaccess.Pair, keysOnly bool) (err error) {
	switch {
	case f.json:
		err = writeJSONLine(w, p)
	case keysOnly:
		_, err = fmt.Fprintln(w, f.show(p.Key))
	default:
		_, err = fmt.Fprintf(w, "%s %s\n", f.show(p.Key), f.show(p.Value))
	}
	return err
}

func newKVCount(e *env, f *kvFlags) *cobra.Command {
	var level *readFlags
	var keys *rangeFlags
	cmd := &cobra.Command{
		Use:     "count",
		Short:   "Print the number of keys",
		Example: "  gabion kv count\n  gabion kv count --prefix co\n  gabion kv count --from a --to b",
	}
	level, keys = addReadFlags(cmd), addRangeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := level.read(cmd.Flags().Changed)
		if err != nil {
			return err
		}
		q, err := keys.query(f, false)
		if err != nil {
			return err
		}
		return f.run(e, cmd, func(ctx context.Context, s kvaccess.Store) error {
			n, err := s.Count(ctx, r, q)
			if err != nil {
				return err
			}
			if f.json {
				return e.printJSON(map[string]uint64{"keys": n})
			}
			_, err = fmt.Fprintln(e.out, n)
			return err
		})
	}
	return cmd
}

// atLeast refuses fewer arguments than n, which are described by what.
func atLeast(what string, n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < n {
			return fmt.Errorf("want %s, got %d arguments", what, len(args))
		}
		return nil
	}
}
