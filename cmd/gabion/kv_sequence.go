package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
)

func newKVSequence(e *env, f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "sequence [FILE]",
		Short: "Apply asserts and updates as one transaction",
		Long: `Read steps from FILE or standard input, one on a line, and apply them all or
none, durably, as one transaction:

  assert KEY VALUE              the key has this value
  assert-exists KEY
  assert-absent KEY
  assert-range FROM TO SHA256   kv.DigestRange of the keys is this, in hexadecimal
  get KEY                       prints the value
  set KEY VALUE
  delete KEY
  delete-prefix PREFIX          prints how many there were
  test-and-set KEY OLD NEW      sets the key if it is OLD; prints what it was
  replace KEY VALUE             sets the key; prints what it was
  confirm KEY VALUE             sets the key if it is another

Words with spaces or special characters are quoted as Go strings; empty lines
and lines that begin with # are skipped. Steps run in order: each sees what those
before it wrote. When an assert does not hold nothing is written, and the error
says which.

What a step prints is preceded by its number, from 0: "2 blue", or "2 -" when the
key was absent.`,
		Example: `  printf 'assert-absent lock\nset lock me\n' | gabion kv sequence
  gabion kv sequence steps.txt --json`,
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
			a, err := f.apply(e, cmd, steps)
			if err != nil {
				return err
			}
			return f.printSteps(e, steps, a)
		},
	}
}

// printSteps prints what the steps that have something to say found.
func (f *kvFlags) printSteps(e *env, steps []kv.Step, a kvaccess.Applied) error {
	if f.json {
		return e.printJSON(toApplied(a))
	}
	for i, r := range a.Steps {
		text := ""
		switch op := steps[i].Op; {
		case op == kv.OpDeletePrefix:
			text = strconv.FormatUint(r.Count, 10)
		case op != kv.OpGet && op != kv.OpTestAndSet && op != kv.OpReplace:
			continue
		case r.Found:
			text = f.show(r.Value)
		default:
			text = "-"
		}
		if _, err := fmt.Fprintf(e.out, "%d %s\n", i, text); err != nil {
			return err
		}
	}
	return nil
}

// sequenceOps are the steps that a line may name, with the number of their arguments.
var sequenceOps = map[string]struct {
	op    kv.Op
	arity int
}{
	"assert":        {kv.OpAssert, 2},
	"assert-exists": {kv.OpAssertExists, 1},
	"assert-absent": {kv.OpAssertAbsent, 1},
	"assert-range":  {kv.OpAssertRange, 3},
	"get":           {kv.OpGet, 1},
	"set":           {kv.OpSet, 2},
	"delete":        {kv.OpDelete, 1},
	"delete-prefix": {kv.OpDeletePrefix, 1},
	"test-and-set":  {kv.OpTestAndSet, 3},
	"replace":       {kv.OpReplace, 2},
	"confirm":       {kv.OpConfirm, 2},
}

// parseSequence reads the steps of a sequence.
func (f *kvFlags) parseSequence(in io.Reader) ([]kv.Step, error) {
	var steps []kv.Step
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 4*kv.MaxValue)
	for line := 1; sc.Scan(); line++ {
		words, err := splitWords(sc.Text())
		if err == nil && len(words) == 0 {
			continue
		}
		if err == nil {
			var step kv.Step
			step, err = f.parseStep(words[0], words[1:])
			steps = append(steps, step)
		}
		if err != nil {
			return nil, usagef("line %d: %w", line, err)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if len(steps) == 0 {
		return nil, usagef("the sequence has no steps")
	}
	return steps, nil
}

func (f *kvFlags) parseStep(name string, words []string) (step kv.Step, err error) {
	known, ok := sequenceOps[name]
	if !ok {
		return step, fmt.Errorf("unknown step %q", name)
	}
	if len(words) != known.arity {
		return step, fmt.Errorf("%s takes %d arguments, got %d", name, known.arity, len(words))
	}
	digest := ""
	if known.op == kv.OpAssertRange {
		digest, words = words[2], words[:2]
	}
	args, err := f.allBytes(words)
	if err != nil {
		return step, err
	}
	step = f.step(known.op, args[0], nil)
	switch {
	case known.op == kv.OpAssertRange:
		if step.To = args[1]; len(step.To) == 0 {
			step.To = nil // no bound
		}
		n, err := hex.Decode(step.Digest[:], []byte(digest[:min(len(digest), 2*len(step.Digest))]))
		if err != nil || n != len(step.Digest) || len(digest) != 2*n {
			return step, fmt.Errorf("%q is not a SHA-256 in hexadecimal", digest)
		}
	case known.arity == 3:
		step.Expect, step.Value = args[1], args[2]
	case known.arity == 2:
		step.Value = args[1]
	}
	return step, nil
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
