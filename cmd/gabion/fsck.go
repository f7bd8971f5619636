package main

import (
	"fmt"
	"sort"
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
			r := fsckReport{Problems: []control.FsckProblem{}}
			err := e.withClient(cmd.Context(), func(c *control.Client) error {
				return c.Fsck(cmd.Context(), q, func(ev control.FsckEvent) { e.fsckEvent(ev, &r, asJSON) })
			})
			e.endProgress()
			if err != nil {
				fmt.Fprintf(e.err, "gabion: fsck: %s\n", oneLine(err))
				return exitError(exitTrouble)
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
}

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
		mended := ""
		if ev.Problem.Repaired {
			mended = " (repaired)"
		}
		fmt.Fprintf(e.out, "%s %s: %s%s\n", ev.Problem.Layer, ev.Problem.Kind, ev.Problem.Text, mended)
	case ev.Done != nil:
		r.Summary = *ev.Done
		r.Clean = ev.Done.Problems == 0
	}
}

func (e *env) printFsck(r fsckReport) error {
	var kinds []string
	for k, n := range r.Summary.Checked {
		kinds = append(kinds, fmt.Sprintf("%d %s", n, k))
	}
	sort.Slice(kinds, func(i, j int) bool {
		return kinds[i][strings.Index(kinds[i], " "):] < kinds[j][strings.Index(kinds[j], " "):]
	})
	head := "clean"
	if !r.Clean {
		head = fmt.Sprintf("%d problems, %d repaired", r.Summary.Problems, r.Summary.Repaired)
	}
	_, err := fmt.Fprintf(e.out, "%s: checked %s\n", head, strings.Join(kinds, ", "))
	return err
}
