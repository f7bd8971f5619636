package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelp: every command explains itself with an example, on standard output, and refuses a flag that it does not
// have with one line and exit code 2.
func TestHelp(t *testing.T) {
	t.Parallel()
	call := func(args ...string) (code int, out, errs string) {
		var o, e bytes.Buffer
		code = run(context.Background(), &env{in: strings.NewReader(""), out: &o, err: &e, lookup: func(string) string { return "" }}, args)
		return code, o.String(), e.String()
	}
	n := 0
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		n++
		name := strings.Join(append([]string{"gabion"}, path...), " ")
		code, out, errs := call(append(path, "--help")...)
		if code != 0 || errs != "" {
			t.Errorf("%s --help: exit code %d, and on standard error: %s", name, code, errs)
		}
		for _, want := range []string{"Usage:", "\nExamples:\n" + cmd.Example + "\n", "--data"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s --help does not say %q:\n%s", name, want, out)
			}
		}
		if !strings.Contains(cmd.Example, "gabion") || !strings.Contains(cmd.Example, cmd.Name()) {
			t.Errorf("%s has the example %q", name, cmd.Example)
		}
		code, out, errs = call(append(path, "--no-such-flag")...)
		if code != 2 || out != "" || !strings.HasPrefix(errs, "gabion: unknown flag: --no-such-flag (see "+name) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s --no-such-flag: exit code %d\n%s%s", name, code, out, errs)
		}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" {
				walk(sub, append(path[:len(path):len(path)], sub.Name()))
			}
		}
	}
	walk(newRoot(&env{}), nil)
	if n < 80 {
		t.Errorf("only %d commands were found", n)
	}
}
