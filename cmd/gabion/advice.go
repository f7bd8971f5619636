package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/remote"
)

// trouble ends a command with exitTrouble: its check could not be carried out, since 1 says that it found problems.
type trouble struct{ err error }

func (t trouble) Error() string { return t.err.Error() }
func (t trouble) Unwrap() error { return t.err }

// advise adds to an error what to do about it, as far as that depends on the command rather than on what failed.
func (e *env) advise(cmd *cobra.Command, err error) error {
	if strings.Contains(err.Error(), "`gabion ") || strings.Contains(err.Error(), "--help") { // says it already
		return err
	}
	advice := ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		advice = "do it as root, or as the user to whom it belongs"
	case errors.Is(err, remote.ErrUnreachable):
		advice = "does `gabion asd serve`, or a node with --asd, run there, and can it be reached from here?"
	case errors.Is(err, objstore.ErrNotFound):
		advice = whatThereIs(cmd)
	case errors.Is(err, datadir.ErrDamaged):
		advice = "put a copy of that file back; nothing else is wrong because of it"
	case errors.As(err, new(*kv.CorruptError)) && exists(filepath.Join(e.data, "format")):
		advice = fmt.Sprintf("put a backup of %s back; without one, move it away and run `gabion namespace recover`, which brings back the content of files, without their names", filepath.Join(e.data, "kv"))
	}
	if advice == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, advice)
}

// whatThereIs says how to find out what a command could have been given.
func whatThereIs(cmd *cobra.Command) string {
	for ; cmd.HasParent(); cmd = cmd.Parent() {
		switch cmd.Name() {
		case "asd":
			return "`gabion asd list` shows the disks"
		case "object":
			return "`gabion object ls` shows what there is"
		case "preset":
			return "`gabion preset list` shows the presets, and which namespaces use them"
		case "namespace":
			return "`gabion preset list` shows the namespaces"
		}
	}
	return ""
}
