// Command gabion is the filesystem: `gabion up` runs it, the other commands look after it. Each command
// stands in a file of its own and turns flags into options for the packages below.
//
// Exit codes: 0 success, 1 failure, 2 bad usage; status and fsck say more with codes of their own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker; see Makefile.
var version = ""

// env is what a command may use of its surroundings.
type env struct {
	in          io.Reader
	out, err    io.Writer
	lookup      func(string) string // environment variables
	data        string              // --data
	defaultData bool                // --data was not given
}

func main() {
	e := &env{in: os.Stdin, out: os.Stdout, err: os.Stderr, lookup: os.Getenv}
	os.Exit(run(context.Background(), e, os.Args[1:]))
}

// usageError is a mistake in the command line: one clear line, exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError ends a command with a code and no further message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// run executes one command line and returns its exit code.
func run(ctx context.Context, e *env, args []string) int {
	root := newRoot(e)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var code exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(e.err, "gabion: %s (see %s --help)\n", oneLine(err), cmd.CommandPath())
		return 2
	default:
		fmt.Fprintf(e.err, "gabion: %s\n", oneLine(e.advise(cmd, err)))
		if errors.As(err, new(trouble)) {
			return exitTrouble
		}
		return 1
	}
}

// oneLine folds an error's text into one line.
func oneLine(err error) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
}

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "gabion",
		Short: "A filesystem whose content is erasure-coded over disks, over FUSE and WebDAV",
		Long: `gabion is a filesystem. File content is cut into content-hashed blobs, blobs are
erasure-coded into fragments, and fragments are spread over disks, so that some
disks may be lost and the files are still whole. It is mounted with FUSE and
served over WebDAV.

Every command works on one data directory: --data, or GABION_DATA, or
./gabion-data. While "gabion up" runs there, the others talk to it; otherwise
they open the directory themselves.

Exit codes: 0 success, 1 failure, 2 bad usage.`,
		Example: `  gabion up --mount /mnt/gabion     run it, until Ctrl-C
  gabion status                     how it is
  gabion asd list                   its disks
  gabion cluster --help             several machines`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return e.resolveData(cmd) },
	}
	root.SetIn(e.in)
	root.SetOut(e.out)
	root.SetErr(e.err)
	root.PersistentFlags().StringVar(&e.data, "data", "", "data directory (default $GABION_DATA or ./gabion-data)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newUp(e), newStatus(e), newFsck(e), newASD(e), newKV(e), newObject(e), newNamespace(e), newPreset(e), newKey(e), newNode(e), newCluster(e), newBench(e), newVersion(e))
	strict(root)
	return root
}

// resolveData applies the defaults of --data.
func (e *env) resolveData(cmd *cobra.Command) error {
	if f := cmd.Flags().Lookup("data"); f != nil && f.Changed { // a command may have a --data of its own
		if f.Value.String() == "" {
			return usagef("--data is empty")
		}
		return nil
	}
	e.defaultData = true
	if e.data = e.lookup("GABION_DATA"); e.data == "" {
		e.data = "gabion-data"
	}
	return nil
}

// strict makes every command of the tree answer bad arguments as usage errors, with a suggestion where a
// subcommand was misspelt.
func strict(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{err}
			}
			return nil
		}
		return
	}
	if cmd.HasSubCommands() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(c *cobra.Command, args []string) error { return noSuchCommand(c, args) }
		return
	}
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("unexpected argument %q", args[0])
		}
		return nil
	}
}

func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		var names []string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" {
				names = append(names, sub.Name())
			}
		}
		return usagef("no command given; there are: %s", strings.Join(names, ", "))
	}
	c.SuggestionsMinimumDistance = 2
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		return usagef("unknown command %q; did you mean %q?", args[0], like[0])
	}
	return usagef("unknown command %q", args[0])
}
