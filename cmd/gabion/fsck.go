package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
)

// exitTrouble is the exit code of a check that could not be carried out, since 1 says that it found
// problems.
const exitTrouble = 3

func newFsck(e *env) *cobra.Command {
	var asJSON bool
	var q control.FsckRequest
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check every reference, count and checksum",
		Long: `Check every reference and count, from directory entries to fragments on disks,
and with --data-checksums also every byte of content. It works while the filesystem is in
use. Nothing is changed without --repair.

Exit codes: 0 clean, 1 problems were found, 3 the check could not be finished.`,
		Example: "  gabion fsck\n  gabion fsck --data-checksums --json\n  gabion fsck --repair",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := fsckReport{Problems: []control.FsckProblem{}, seen: make(map[string]int)}
			err := e.withClient(cmd.Context(), func(c *control.Client) error {
				return c.Fsck(cmd.Context(), q, func(ev control.FsckEvent) { e.fsckEvent(ev, &r, asJSON) })
			})
			e.endProgress()
			if err != nil {
				return trouble{fmt.Errorf("fsck: %w", err)}
			}
			if asJSON {
				err = e.printJSON(r)
			} else {
				err = e.printFsck(r)
			}
			if err == nil && r.Summary.Problems > r.Summary.Repaired {
				return exitError(1)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&q.Repair, "repair", false, "mend what can be mended")
	cmd.Flags().BoolVar(&q.Data, "data-checksums", false, "also read and verify all content")
	return cmd
}

// fsckReport is what --json prints.
type fsckReport struct {
	Clean    bool                  `json:"clean"`
	Problems []control.FsckProblem `json:"problems"`
	Summary  control.FsckSummary   `json:"summary"`

	seen map[string]int // problems by layer and kind, without --json
}

// maxPrinted is how many problems of a kind are printed for a person; --json has all of them.
const maxPrinted = 20

func (e *env) fsckEvent(ev control.FsckEvent, r *fsckReport, asJSON bool) {
	switch {
	case ev.Progress != nil && ev.Progress.Total > 0:
		e.progress("%s: %d of %d", ev.Progress.Phase, ev.Progress.Done, ev.Progress.Total)
	case ev.Progress != nil:
		e.progress("%s: %d", ev.Progress.Phase, ev.Progress.Done)
	case ev.Problem != nil && asJSON:
		r.Problems = append(r.Problems, *ev.Problem)
	case ev.Problem != nil:
		e.endProgress()
		what := ev.Problem.Layer + " " + ev.Problem.Kind
		if r.seen[what]++; r.seen[what] > maxPrinted {
			return
		}
		mended := ""
		if ev.Problem.Repaired {
			mended = " (repaired)"
		}
		fmt.Fprintf(e.out, "%s: %s%s\n", what, ev.Problem.Text, mended)
	case ev.Done != nil:
		r.Summary = *ev.Done
		r.Clean = ev.Done.Problems == 0
	}
}

func (e *env) printFsck(r fsckReport) error {
	for _, what := range slices.Sorted(maps.Keys(r.seen)) {
		if more := r.seen[what] - maxPrinted; more > 0 {
			fmt.Fprintf(e.out, "%s: and %d more\n", what, more)
		}
	}
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(r.Summary.Checked)) {
		if n := r.Summary.Checked[k]; n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, k))
		}
	}
	head := "clean"
	if !r.Clean {
		head = fmt.Sprintf("%d problems, %d repaired", r.Summary.Problems, r.Summary.Repaired)
	}
	_, err := fmt.Fprintf(e.out, "%s: checked %s\n", head, strings.Join(kinds, ", "))
	return err
}
