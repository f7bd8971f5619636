// Package fsck checks a volume: every reference, count and checksum from directory entries down to
// fragments, and repairs what can be repaired.
//
// Without Options.Repair it writes nothing. It may run while the volume is in use: each layer is checked
// over a consistent view, and each round of repairs is one transaction that looks again before it
// writes. What a mount has cached of inodes that were repaired is not invalidated.
//
// The namespace is checked by fs/meta; what lies beneath it, content and objects, by the checks that
// Options.Layers names, in order: they need what the caller has open.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
)

// Options of Run. KV is required.
type Options struct {
	KV     kv.Store
	Repair bool
	Clock  func() time.Time // stamps what is made anew; nil is time.Now

	Layers []Layer // checked after the namespace, in order

	// Problem is called with each problem, after its repair if there was one; may be nil.
	Problem func(Problem)
	// Progress is called now and then: how much of a layer is done, of how much; total 0 is unknown. May be nil.
	Progress func(layer string, done, total int64)
}

// Layer is a check of what lies beneath the namespace.
type Layer struct {
	Name  string
	Check func(ctx context.Context, p Pass) error
}

// Pass is one run over a layer.
type Pass struct {
	Repair   bool                    // mend what can be mended; else write nothing
	Report   func(Problem)           // with Repaired and Done set after a repair; fills in Layer
	Progress func(done, total int64) // never nil
	Count    func(what string, n int64)
}

// Problem is one thing that is wrong.
type Problem struct {
	Layer      string `json:"layer"`          // "namespace", or a layer's name
	Kind       string `json:"kind"`           // a word for it, such as "link-count"
	Object     string `json:"object"`         // what it is about: "inode 7", a row, an object's name
	Text       string `json:"text"`           // a sentence for a person
	Repairable bool   `json:"repairable"`     // with Options.Repair
	Repaired   bool   `json:"repaired"`       // it was
	Done       string `json:"done,omitempty"` // what the repair did
}

// Report is the result of a check.
type Report struct {
	Clean    bool             `json:"clean"`    // no problem was found
	Found    int64            `json:"found"`    // problems, repaired ones included
	Repaired int64            `json:"repaired"` // of them
	Problems []Problem        `json:"problems"` // the first MaxProblems
	Checked  map[string]int64 `json:"checked"`  // what was looked at, by kind
	Seconds  float64          `json:"seconds"`
}

// MaxProblems bounds Report.Problems. Options.Problem is called with all of them.
const MaxProblems = 1000

const namespace = "namespace"

// Run checks the volume in o.KV. The error is about the check itself; what was found until then is in
// the report. A check that the context ends returns its error.
func Run(ctx context.Context, o Options) (Report, error) {
	start := time.Now()
	r := &run{options: o, report: Report{Problems: []Problem{}, Checked: map[string]int64{}}}
	err := r.namespace(ctx)
	for _, l := range o.Layers {
		if err != nil {
			break
		}
		err = l.Check(ctx, r.pass(l.Name))
		if err != nil {
			err = fmt.Errorf("check %s: %w", l.Name, err)
		}
	}
	r.report.Clean = r.report.Found == 0 && err == nil
	r.report.Seconds = time.Since(start).Seconds()
	return r.report, err
}

// run is one check underway.
type run struct {
	options Options
	report  Report
}

func (r *run) pass(layer string) Pass {
	return Pass{
		Repair: r.options.Repair,
		Report: func(p Problem) {
			p.Layer = layer
			r.problem(p)
		},
		Progress: func(done, total int64) {
			if r.options.Progress != nil {
				r.options.Progress(layer, done, total)
			}
		},
		Count: func(what string, n int64) { r.report.Checked[what] += n },
	}
}

func (r *run) problem(p Problem) {
	r.report.Found++
	if p.Repaired {
		r.report.Repaired++
	}
	if len(r.report.Problems) < MaxProblems {
		r.report.Problems = append(r.report.Problems, p)
	}
	if r.options.Problem != nil {
		r.options.Problem(p)
	}
}

// namespace checks inodes, entries, attributes and orphans.
func (r *run) namespace(ctx context.Context) error {
	pass := r.pass(namespace)
	progress := func(rows uint64) { pass.Progress(int64(rows), 0) }
	left := r.options.Repair
	if left {
		repairer := meta.Repairer{Clock: r.options.Clock, Content: data.Measure, Progress: progress}
		sum, err := repairer.Run(ctx, r.options.KV, func(p meta.Repaired) {
			pass.Report(problemOf(p.Problem, p.Done))
		})
		if err != nil {
			return err
		}
		if sum.Problems == 0 {
			r.count(sum)
			return nil
		}
	}
	sum, err := meta.Checker{Progress: progress}.Run(ctx, r.options.KV, func(p meta.Problem) {
		q := problemOf(p, "")
		q.Repairable = !left
		pass.Report(q)
	})
	if errors.Is(err, meta.ErrNotFormatted) {
		return fmt.Errorf("nothing to check: %w", err)
	}
	r.count(sum)
	return err
}

func (r *run) count(s meta.Summary) {
	for what, n := range map[string]uint64{
		"inodes": s.Inodes, "directories": s.Directories, "files": s.Files, "symlinks": s.Symlinks,
		"entries": s.Entries, "attributes": s.Xattrs, "orphans": s.Orphans,
	} {
		r.report.Checked[what] = int64(n)
	}
}

func problemOf(p meta.Problem, done string) Problem {
	object := fmt.Sprintf("%s/%x", p.Keyspace, p.Key)
	switch {
	case p.Name != "" && p.Parent != 0:
		object = fmt.Sprintf("entry %q of directory %d", p.Name, p.Parent)
	case p.Ino != 0:
		object = "inode " + strconv.FormatUint(uint64(p.Ino), 10)
	}
	text := strings.TrimLeft(strings.TrimPrefix(p.Text, object), ": ")
	return Problem{Kind: string(p.Kind), Object: object, Text: text, Repairable: true, Repaired: done != "", Done: done}
}
