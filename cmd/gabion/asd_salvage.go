package main

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/remote"
)

// salvageFlags are those of verify and of recover.
type salvageFlags struct {
	json    bool
	cluster string
	scratch string
}

func (f *salvageFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	cmd.Flags().StringVar(&f.cluster, "cluster", "", "`id` of the disk's cluster, where its format file is lost or damaged")
	cmd.Flags().StringVar(&f.scratch, "scratch", "", "`folder` for a copy of the index")
}

func newASDVerify(e *env) *cobra.Command {
	var f salvageFlags
	cmd := &cobra.Command{
		Use:   "verify FOLDER",
		Short: "Read all of a stopped disk and compare it with its checksums",
		Long: `Read everything on a disk that nothing uses and compare it with its checksums, and
its index with its content. Nothing is changed. Of a disk that is in use, the
process that uses it is named; there, scrubbing does this.

Exit codes: 0 all is intact, 1 damage was found, 3 the check could not be finished.`,
		Example: "  gabion asd verify /disk7/asd\n  gabion asd verify /disk7/asd --json",
		Args:    oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.salvage(f, "verify", func(o asd.SalvageOptions) (asd.Report, error) {
				return asd.Verify(cmd.Context(), args[0], o)
			})
		},
	}
	f.register(cmd)
	return cmd
}

func newASDRecover(e *env) *cobra.Command {
	var f salvageFlags
	var to string
	cmd := &cobra.Command{
		Use:   "recover FOLDER --to FOLDER",
		Short: "Save what is intact on a damaged disk to a new one",
		Long: `Copy every record of a stopped, damaged disk that is intact to a new folder, which
becomes the same disk and may take the place of the old one. What is not intact is
named. Nothing in the old folder is changed.

Exit codes: 0 all was intact and is saved, 1 what is intact is saved, 3 it could not be
finished, and the new folder holds no disk.`,
		Example: "  gabion asd recover /disk7/asd --to /disk8/asd",
		Args:    oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usagef("--to is missing: the folder that becomes the new disk")
			}
			return e.salvage(f, "recover", func(o asd.SalvageOptions) (asd.Report, error) {
				return asd.Recover(cmd.Context(), args[0], to, o)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&to, "to", "", "`folder` that becomes the new disk; empty, or made")
	return cmd
}

// salvageProblem is a problem as --json prints it.
type salvageProblem struct {
	Key      string `json:"key,omitempty"`      // in hexadecimal
	Fragment string `json:"fragment,omitempty"` // the key, where it is one of a fragment
	Segment  uint64 `json:"segment"`
	File     string `json:"file,omitempty"`
	Offset   int64  `json:"offset"`
	Cause    string `json:"cause"`
	Lost     bool   `json:"lost"` // the content is
}

func newSalvageProblem(p asd.Problem) salvageProblem {
	out := salvageProblem{Key: hex.EncodeToString(p.Key), Segment: p.Segment, File: p.File, Offset: p.Offset, Cause: p.Cause, Lost: p.Lost}
	if k, err := objstore.ParseFragmentKey(p.Key); err == nil {
		out.Fragment = k.String()
	}
	return out
}

// salvageReport is what --json prints.
type salvageReport struct {
	Intact   bool             `json:"intact"`
	ASD      string           `json:"asd"`
	Cluster  string           `json:"cluster"`
	Segments int              `json:"segments"`
	Records  int64            `json:"records"` // intact
	Bytes    int64            `json:"bytes"`
	Lost     int64            `json:"lost"` // records
	Damaged  int64            `json:"damaged"`
	Rebuilt  bool             `json:"index_rebuilt"` // it was lost or damaged
	Problems []salvageProblem `json:"problems"`
}

// oneFolder is the check of commands that work on the files of a disk.
func oneFolder(cmd *cobra.Command, args []string) error {
	if err := exactArgs("one folder", 1)(cmd, args); err != nil {
		return err
	}
	if remote.IsAddress(args[0]) {
		return fmt.Errorf("%s is served by another process: this works on the folder of a disk that nothing uses, on its machine", args[0])
	}
	return nil
}

// salvage runs fn, and prints what it finds and finds out.
func (e *env) salvage(f salvageFlags, verb string, fn func(asd.SalvageOptions) (asd.Report, error)) error {
	o := asd.SalvageOptions{Scratch: f.scratch}
	if f.cluster != "" {
		id, err := asd.ParseID(f.cluster)
		if err != nil {
			return usagef("--cluster: %v", err)
		}
		o.Cluster = id
	}
	out := salvageReport{Problems: []salvageProblem{}}
	o.Progress = func(done, total int64) { e.progress("%s: %s of %s", verb, size(done), size(total)) }
	o.Problem = func(p asd.Problem) {
		q := newSalvageProblem(p)
		if f.json {
			out.Problems = append(out.Problems, q)
			return
		}
		e.endProgress()
		fmt.Fprintln(e.out, q.line())
	}
	r, err := fn(o)
	e.endProgress()
	if err != nil {
		return trouble{fmt.Errorf("asd %s: %w", verb, err)}
	}
	out.Intact, out.ASD, out.Cluster = r.Intact(), r.Identity.ASD.String(), r.Identity.Cluster.String()
	out.Segments, out.Records, out.Bytes, out.Lost = r.Segments, r.Records, r.Bytes, r.Lost
	out.Damaged, out.Rebuilt = r.Damaged, r.Rebuilt
	if f.json {
		err = e.printJSON(out)
	} else {
		err = out.print(e)
	}
	if err == nil && !out.Intact {
		return exitError(1)
	}
	return err
}

func (p salvageProblem) line() string {
	what := "a place"
	switch {
	case p.Fragment != "":
		what = "fragment " + p.Fragment
	case p.Key != "":
		what = "record " + p.Key
	}
	if p.Lost {
		what += " is lost"
	} else {
		what += " is damaged"
	}
	where := ""
	if p.File != "" {
		where = " at " + strconv.FormatInt(p.Offset, 10) + " of " + p.File
	}
	if p.Segment != 0 {
		where += fmt.Sprintf(" (segment %d)", p.Segment)
	}
	return what + where + ": " + p.Cause
}

func (r *salvageReport) print(e *env) error {
	if r.Rebuilt {
		fmt.Fprintln(e.out, "the index is lost or damaged: the segments alone tell what there is")
	}
	state := "intact"
	if !r.Intact {
		state = fmt.Sprintf("%d problems, %d records lost", r.Damaged, r.Lost)
	}
	_, err := fmt.Fprintf(e.out, "disk %s: %d records of %s are intact in %d segments; %s\n", r.ASD, r.Records, size(r.Bytes), r.Segments, state)
	return err
}
