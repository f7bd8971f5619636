package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/kv"
)

// kvFlags are those of every kv command.
type kvFlags struct {
	keyspace string
	hex      bool
	json     bool
	unsafe   bool
}

func newKV(e *env) *cobra.Command {
	var f kvFlags
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Read and write the key-value store",
		Long: `Read and write the replicated key-value store under the filesystem.

Keys and values are taken as they are typed, or as hexadecimal digits with
--hex. The keyspaces of the filesystem itself can be read; writing to a keyspace
whose name does not begin with "user" needs --unsafe, since it can destroy the
filesystem.`,
		Example: `  gabion kv set colour blue
  gabion kv get colour
  gabion kv range --prefix co
  printf 'assert colour blue\nset colour green\n' | gabion kv sequence`,
	}
	fl := cmd.PersistentFlags()
	fl.StringVarP(&f.keyspace, "keyspace", "s", "user", "`name` of the keyspace")
	fl.BoolVar(&f.hex, "hex", false, "keys and values are hexadecimal digits")
	fl.BoolVar(&f.json, "json", false, "print JSON, with keys and values in base64")
	fl.BoolVar(&f.unsafe, "unsafe", false, "write to any keyspace")
	cmd.AddCommand(newKVGet(e, &f), newKVSet(e, &f), newKVDelete(e, &f), newKVRange(e, &f), newKVSequence(e, &f))
	return cmd
}

func (f *kvFlags) bytes(s string) ([]byte, error) {
	if !f.hex {
		return []byte(s), nil
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, usagef("%q is not hexadecimal", s)
	}
	return b, nil
}

// show is the inverse of bytes; without --hex what does not print is escaped as in Go.
func (f *kvFlags) show(b []byte) string {
	if f.hex {
		return hex.EncodeToString(b)
	}
	q := strconv.Quote(string(b))
	if q[1:len(q)-1] == string(b) && !strings.ContainsAny(string(b), " \t") && len(b) > 0 {
		return string(b)
	}
	return q
}

func (f *kvFlags) mayWrite() error {
	if f.unsafe || strings.HasPrefix(f.keyspace, "user") {
		return nil
	}
	return usagef("keyspace %q may belong to the filesystem: to write to it all the same, give --unsafe", f.keyspace)
}

func newKVGet(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "get KEY",
		Short:   "Print the value of a key",
		Long:    "Print the value of a key, as it is, followed by a newline. Exit code 1 when there is none.",
		Example: "  gabion kv get colour\n  gabion kv get -s inode --hex 0000000000000001",
		Args:    exactArgs("one key", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := f.bytes(args[0])
			if err != nil {
				return err
			}
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				v, err := c.KVGet(cmd.Context(), kv.Keyspace(f.keyspace), key)
				if err != nil {
					return err
				}
				if f.json {
					return e.printJSON(control.Pair{Key: key, Value: v})
				}
				if f.hex {
					v = []byte(hex.EncodeToString(v))
				}
				_, err = e.out.Write(append(v, '\n'))
				return err
			})
		},
	}
}

func newKVSet(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "set KEY VALUE",
		Short:   "Set a key, durably",
		Example: "  gabion kv set colour blue",
		Args:    exactArgs("a key and a value", 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := f.bytes(args[0])
			if err != nil {
				return err
			}
			value, err := f.bytes(args[1])
			if err != nil {
				return err
			}
			return f.apply(e, cmd, []kv.Step{{Op: kv.OpSet, Keyspace: kv.Keyspace(f.keyspace), Key: key, Value: value}})
		},
	}
}

func newKVDelete(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "delete KEY",
		Short:   "Delete a key, durably",
		Long:    "Delete a key, durably. Exit code 1 when there is none.",
		Example: "  gabion kv delete colour",
		Args:    exactArgs("one key", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := f.bytes(args[0])
			if err != nil {
				return err
			}
			ks := kv.Keyspace(f.keyspace)
			return f.apply(e, cmd, []kv.Step{
				{Op: kv.OpAssertExists, Keyspace: ks, Key: key},
				{Op: kv.OpDelete, Keyspace: ks, Key: key},
			})
		},
	}
}

func (f *kvFlags) apply(e *env, cmd *cobra.Command, steps []kv.Step) error {
	if err := f.mayWrite(); err != nil {
		return err
	}
	return e.withClient(cmd.Context(), func(c *control.Client) error { return c.KVSequence(cmd.Context(), steps) })
}

func newKVRange(e *env, f *kvFlags) *cobra.Command {
	var from, to, prefix string
	q := control.RangeRequest{}
	cmd := &cobra.Command{
		Use:   "range",
		Short: "List keys and values in order",
		Long: `List the keys from <= key < to, one on a line with its value. What does not print
is quoted. With --json, one object on a line.`,
		Example: "  gabion kv range\n  gabion kv range --prefix co --limit 10 --reverse\n  gabion kv range -s dirent --keys --hex",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if prefix != "" && (from != "" || to != "") {
				return usagef("--prefix excludes --from and --to")
			}
			if q.Limit < 0 {
				return usagef("--limit %d: it must not be negative", q.Limit)
			}
			q.Keyspace = kv.Keyspace(f.keyspace)
			for _, b := range []struct {
				flag string
				to   *[]byte
			}{{from, &q.From}, {to, &q.To}} {
				if b.flag != "" {
					if *b.to, err = f.bytes(b.flag); err != nil {
						return err
					}
				}
			}
			if prefix != "" {
				p, err := f.bytes(prefix)
				if err != nil {
					return err
				}
				r := kv.Prefix(p)
				q.From, q.To = r.From, r.To
			}
			w := bufio.NewWriter(e.out)
			err = e.withClient(cmd.Context(), func(c *control.Client) error {
				return c.KVRange(cmd.Context(), q, func(p control.Pair) error { return f.printPair(w, p, q.KeysOnly) })
			})
			return errors.Join(err, w.Flush())
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "first `key`")
	cmd.Flags().StringVar(&to, "to", "", "`key` to stop before")
	cmd.Flags().StringVar(&prefix, "prefix", "", "only keys that begin with this `prefix`")
	cmd.Flags().BoolVar(&q.Reverse, "reverse", false, "last key first")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "at most this `number` of keys")
	cmd.Flags().BoolVar(&q.KeysOnly, "keys", false, "print keys only")
	return cmd
}

func (f *kvFlags) printPair(w io.Writer, p control.Pair, keysOnly bool) (err error) {
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

func newKVSequence(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "sequence [FILE]",
		Short: "Apply asserts and updates as one transaction",
		Long: `Read steps from FILE or standard input, one on a line, and apply them all or
none, durably:

  assert KEY VALUE     the key has this value
  assert-exists KEY
  assert-absent KEY
  set KEY VALUE
  delete KEY

Words with spaces or special characters are quoted as Go strings; empty lines
and lines that begin with # are skipped. Steps run in order: each sees what those
before it wrote.`,
		Example: `  printf 'assert-absent lock\nset lock me\n' | gabion kv sequence`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("want at most one file, got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in := e.in
			if len(args) == 1 && args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer file.Close()
				in = file
			}
			steps, err := f.parseSequence(in)
			if err != nil {
				return err
			}
			return f.apply(e, cmd, steps)
		},
	}
}

// sequenceOps are the steps that a line may name, with the number of their arguments.
var sequenceOps = map[string]struct {
	op    kv.Op
	arity int
}{
	"assert":        {kv.OpAssert, 2},
	"assert-exists": {kv.OpAssertExists, 1},
	"assert-absent": {kv.OpAssertAbsent, 1},
	"set":           {kv.OpSet, 2},
	"delete":        {kv.OpDelete, 1},
}

// parseSequence reads the steps of a sequence.
func (f *kvFlags) parseSequence(in io.Reader) ([]kv.Step, error) {
	var steps []kv.Step
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 4*kv.MaxValue)
	for line := 1; sc.Scan(); line++ {
		words, err := splitWords(sc.Text())
		if err != nil {
			return nil, usagef("line %d: %w", line, err)
		}
		if len(words) == 0 {
			continue
		}
		known, ok := sequenceOps[words[0]]
		if !ok {
			return nil, usagef("line %d: unknown step %q", line, words[0])
		}
		if len(words)-1 != known.arity {
			return nil, usagef("line %d: %s takes %d arguments, got %d", line, words[0], known.arity, len(words)-1)
		}
		var args [2][]byte
		for i, w := range words[1:] {
			if args[i], err = f.bytes(w); err != nil {
				return nil, usagef("line %d: %w", line, err)
			}
		}
		steps = append(steps, kv.Step{Op: known.op, Keyspace: kv.Keyspace(f.keyspace), Key: args[0], Value: args[1]})
	}
	return steps, sc.Err()
}

// splitWords splits a line at blanks; words in double or back quotes are Go strings.
func splitWords(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t\r")
		if line == "" || line[0] == '#' && words == nil {
			return words, nil
		}
		if line[0] == '"' || line[0] == '`' {
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("unfinished quote in %.40s", line)
			}
			w, err := strconv.Unquote(q)
			if err != nil {
				return nil, err
			}
			words, line = append(words, w), line[len(q):]
			continue
		}
		w := line
		if i := strings.IndexAny(line, " \t\r"); i >= 0 {
			w = line[:i]
		}
		words, line = append(words, w), line[len(w):]
	}
}
