package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

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
	cmd.AddCommand(newBenchFS(b), newBenchObject(b), newBenchErasure(b), newBenchASD(b), newBenchKV(b))
	return cmd
}

// benchEnv is what benchmarks share.
type benchEnv struct {
	*env
	dir  string
	json bool
}

// figure is one line of a benchmark's output.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	P50   float64 `json:"p50_us,omitempty"` // microseconds of one operation, where it was measured
	P99   float64 `json:"p99_us,omitempty"`
}

func (b *benchEnv) print(f figure) error {
	b.endProgress()
	if b.json {
		return writeJSONLine(b.out, f)
	}
	latency := ""
	if f.P99 > 0 {
		latency = fmt.Sprintf("p50 %.0f us, p99 %.0f us", f.P50, f.P99)
	}
	line := fmt.Sprintf("%-32s %12.0f %-5s %s", f.Name, f.Value, f.Unit, latency)
	_, err := fmt.Fprintln(b.out, strings.TrimRight(line, " "))
	return err
}

// scratch calls fn with a new directory, which it removes again.
func (b *benchEnv) scratch(fn func(dir string) error) error {
	dir, err := os.MkdirTemp(b.dir, "gabion-bench-")
	if err != nil {
		return err
	}
	err = fn(dir)
	b.endProgress()
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
