package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
)

// applied is what a write prints with --json.
type applied struct {
	Index   uint64       `json:"index,omitempty"`
	Results []stepResult `json:"results,omitempty"`
}

type stepResult struct {
	Found bool   `json:"found"`
	Value []byte `json:"value,omitempty"`
	Count uint64 `json:"count,omitempty"`
}

func toApplied(a kvaccess.Applied) applied {
	out := applied{Index: a.Index}
	for _, r := range a.Steps {
		out.Results = append(out.Results, stepResult{r.Found, r.Value, r.Count})
	}
	return out
}

// write runs one step and prints what it has to say: quiet says that this is nothing without --json.
func (f *kvFlags) write(e *env, cmd *cobra.Command, step kv.Step, show func(kv.StepResult) error) error {
	a, err := f.apply(e, cmd, []kv.Step{step})
	switch {
	case err != nil:
		return err
	case len(a.Steps) != 1:
		return fmt.Errorf("the store answered one step with %d results", len(a.Steps))
	case f.json:
		return e.printJSON(toApplied(a))
	case show == nil:
		return nil
	}
	return show(a.Steps[0])
}

// step makes a step of op on one key.
func (f *kvFlags) step(op kv.Op, key, value []byte) kv.Step {
	return kv.Step{Op: op, Keyspace: kv.Keyspace(f.keyspace), Key: key, Value: value}
}

// previous prints the value that a key had before, or that it had none.
func (f *kvFlags) previous(e *env) func(kv.StepResult) error {
	return func(r kv.StepResult) error {
		if !r.Found {
			_, err := fmt.Fprintln(e.err, "gabion: the key was absent")
			return err
		}
		_, err := e.out.Write(f.raw(r.Value))
		return err
	}
}

func newKVSet(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "set KEY VALUE",
		Short:   "Set a key, durably",
		Long:    "Set a key, durably. With --json it prints the log index at which the value can be\nread, for `gabion kv get --level session --index`.",
		Example: "  gabion kv set colour blue\n  gabion kv set --hex 00ff 616263",
		Args:    exactArgs("a key and a value", 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kv2, err := f.allBytes(args)
			if err != nil {
				return err
			}
			return f.write(e, cmd, f.step(kv.OpSet, kv2[0], kv2[1]), nil)
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
			a, err := f.apply(e, cmd, []kv.Step{f.step(kv.OpAssertExists, key, nil), f.step(kv.OpDelete, key, nil)})
			if err == nil && f.json {
				return e.printJSON(applied{Index: a.Index})
			}
			return err
		},
	}
}

func newKVReplace(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "replace KEY VALUE",
		Short:   "Set a key, and print the value that it had",
		Long:    "Set a key, durably, and print the value that it had before. When it had none,\nnothing is printed on standard output.",
		Example: "  gabion kv replace colour green",
		Args:    exactArgs("a key and a value", 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := f.allBytes(args)
			if err != nil {
				return err
			}
			return f.write(e, cmd, f.step(kv.OpReplace, b[0], b[1]), f.previous(e))
		},
	}
}

func newKVConfirm(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "confirm KEY VALUE",
		Short:   "Set a key only if it has another value",
		Long:    "Make sure that a key has a value. When it has it already, nothing is written.",
		Example: "  gabion kv confirm colour green",
		Args:    exactArgs("a key and a value", 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := f.allBytes(args)
			if err != nil {
				return err
			}
			return f.write(e, cmd, f.step(kv.OpConfirm, b[0], b[1]), nil)
		},
	}
}

func newKVTestAndSet(e *env, f *kvFlags) *cobra.Command {
	var absent, remove bool
	cmd := &cobra.Command{
		Use:   "test-and-set KEY OLD NEW",
		Short: "Set a key if it has a certain value",
		Long: `Set a key to NEW if it has the value OLD, and print the value that it had. With
--absent, OLD is left out and the key must not exist; with --remove, NEW is left
out and the key is deleted. Exit code 1 when it had another value: then nothing
has changed.`,
		Example: "  gabion kv test-and-set colour blue green\n  gabion kv test-and-set --absent lock me\n  gabion kv test-and-set --remove lock me",
	}
	cmd.Flags().BoolVar(&absent, "absent", false, "the key must not exist")
	cmd.Flags().BoolVar(&remove, "remove", false, "delete the key instead of setting it")
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case absent && remove:
			return errors.New("--absent and --remove exclude each other")
		case absent && len(args) != 2:
			return fmt.Errorf("want a key and a new value, got %d arguments", len(args))
		case remove && len(args) != 2:
			return fmt.Errorf("want a key and the value that it must have, got %d arguments", len(args))
		case !absent && !remove && len(args) != 3:
			return fmt.Errorf("want a key, the value that it must have, and a new one, got %d arguments", len(args))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, err := f.allBytes(args)
		if err != nil {
			return err
		}
		step := f.step(kv.OpTestAndSet, b[0], b[len(b)-1])
		if step.ExpectAbsent = absent; !absent {
			step.Expect = b[1]
		}
		if step.Remove = remove; remove {
			step.Value = nil
		}
		same := func(r kv.StepResult) bool {
			return r.Found == !absent && (absent || string(r.Value) == string(step.Expect))
		}
		ok := false
		err = f.write(e, cmd, step, func(r kv.StepResult) error {
			ok = same(r)
			return f.previous(e)(r)
		})
		if err == nil && !ok && !f.json {
			return fmt.Errorf("%s/%s: %w: it had another value, nothing was changed", f.keyspace, f.show(b[0]), kv.ErrConflict)
		}
		return err
	}
	return cmd
}

func newKVDeletePrefix(e *env, f *kvFlags) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "delete-prefix PREFIX",
		Short:   "Delete all keys with a prefix",
		Long:    "Delete all keys that begin with PREFIX, as one transaction, and print how many there\nwere. An empty prefix needs --all: it empties the keyspace.",
		Example: "  gabion kv delete-prefix tmp/\n  gabion kv delete-prefix --all \"\"",
		Args:    exactArgs("one prefix", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix, err := f.bytes(args[0])
			if err != nil {
				return err
			}
			if len(prefix) == 0 && !all {
				return usagef("an empty prefix means the whole keyspace %q: give --all as well", f.keyspace)
			}
			return f.write(e, cmd, f.step(kv.OpDeletePrefix, prefix, nil), func(r kv.StepResult) error {
				_, err := fmt.Fprintln(e.out, r.Count)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "allow an empty prefix")
	return cmd
}

func newKVCall(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "call PROCEDURE [ARGUMENT]",
		Short: "Run a procedure on the leader",
		Long: `Run a procedure that is registered with the cluster's nodes, on the leader and as
one transaction, durably, and print its result. The nodes of this program have:

  increment   ARGUMENT is KEY or KEY BY, in the keyspace "user": add BY, or 1, to a
              decimal number, 0 when the key is absent; the result is the sum

A program that embeds the nodes registers its own in Go.`,
		Example: "  gabion kv --cluster client.pem --store app call increment visits\n  gabion kv --cluster client.pem --store app call increment 'visits 10'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return fmt.Errorf("want the name of a procedure and at most one argument, got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var arg []byte
			if len(args) == 2 {
				var err error
				if arg, err = f.bytes(args[1]); err != nil {
					return err
				}
			}
			return f.run(e, cmd, func(ctx context.Context, s kvaccess.Store) error {
				out, err := s.Call(ctx, args[0], arg)
				if err != nil {
					return err
				}
				if f.json {
					return e.printJSON(map[string][]byte{"result": out})
				}
				_, err = e.out.Write(f.raw(out))
				return err
			})
		},
	}
}
