package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/daemon"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/objstore"
)

func newBench(e *env) *cobra.Command {
	b := &benchEnv{env: e}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure each layer on this machine",
		Long: `Measure a layer by itself, so that a limit can be found layer by layer. Each
benchmark works in a new directory below --dir, which should be on the disk that
is to be measured, and removes it again. A data directory is not touched.

Machines are noisy: compare figures of one run, and quote medians of three.`,
		Example: `  gabion bench fs
  gabion bench object --dir /mnt/fast --json
  gabion bench erasure`,
	}
	cmd.PersistentFlags().StringVar(&b.dir, "dir", "", "`folder` to work below (default $TMPDIR or /tmp)")
	cmd.PersistentFlags().BoolVar(&b.json, "json", false, "print JSON, one figure on a line")
	cmd.AddCommand(newBenchFS(b), newBenchObject(b), newBenchMetadata(b), newBenchErasure(b), newBenchASD(b), newBenchKV(b),
		newBenchKVNode(), newBenchKVJoiner(), newBenchASDChild())
	return cmd
}

// benchEnv is what benchmarks share.
type benchEnv struct {
	*env
	dir  string
	json bool
	name string // of the figures on the line that print has begun
}

// figure is one line of a benchmark's output.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// print prints a figure. For people, figures that follow each other under one name share a line.
func (b *benchEnv) print(f figure) error {
	b.endProgress()
	if b.json {
		return writeJSONLine(b.out, f)
	}
	start := ""
	if f.Name != b.name {
		if b.name != "" {
			start = "\n"
		}
		start += fmt.Sprintf("%-48s", f.Name)
		b.name = f.Name
	}
	_, err := fmt.Fprintf(b.out, "%s %10s %s", start, number(f.Value), f.Unit)
	return err
}

// finish ends the last line of print.
func (b *benchEnv) finish() {
	b.endProgress()
	if b.name != "" {
		fmt.Fprintln(b.out)
		b.name = ""
	}
}

// number formats three digits or more.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// scratch calls fn with a new directory, which it removes again.
func (b *benchEnv) scratch(fn func(dir string) error) error {
	daemon.Tune(0) // what is measured runs as it does in a daemon
	dir, err := os.MkdirTemp(b.dir, "gabion-bench-")
	if err != nil {
		return err
	}
	err = fn(dir)
	b.finish()
	return errors.Join(err, os.RemoveAll(dir))
}

// scratchNode calls fn with a node over a new data directory inside dir.
func (b *benchEnv) scratchNode(ctx context.Context, dir string, asds int, policies []objstore.Policy, fn func(*node.Node) error) error {
	c := datadir.NewConfig()
	for i := range asds {
		c.ASDs = append(c.ASDs, datadir.ASDName(i))
	}
	if c.Policies = policies; len(policies) == 0 {
		c.Policies = objstore.DefaultPolicies(asds)
	}
	d, err := datadir.Create(filepath.Join(dir, "data"), c)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(b.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	n, err := node.Open(ctx, d, node.Options{Logger: log, Version: buildVersion()})
	if err != nil {
		return errors.Join(err, d.Close())
	}
	return errors.Join(fn(n), n.Close(), d.Close())
}
