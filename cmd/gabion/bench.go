package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/fsbench"
	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/objstore"
)

func newBench(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure each layer on this machine",
		Long: `Measure a layer by itself, so that a limit can be found layer by layer. Each
benchmark works in a new directory below --dir, which should be on the disk that
is to be measured, and removes it again. A data directory is not touched.`,
		Example: "  gabion bench fs\n  gabion bench fs --dir /mnt/fast --json",
	}
	cmd.AddCommand(newBenchFS(e))
	return cmd
}

// benchDir makes a directory to work in below dir; done removes it.
func benchDir(dir string) (path string, done func() error, err error) {
	path, err = os.MkdirTemp(dir, "gabion-bench-")
	return path, func() error { return os.RemoveAll(path) }, err
}

func newBenchFS(e *env) *cobra.Command {
	var dir string
	var asJSON bool
	var o fsbench.Options
	var megabytes int64
	cmd := &cobra.Command{
		Use:   "fs",
		Short: "Measure the filesystem, without a kernel in between",
		Long: `Measure the filesystem over six disks in one folder, inside the process: what a
mount can reach at most. Content is read back and compared.`,
		Example: "  gabion bench fs\n  gabion bench fs --files 100000 --threads 1,8,64 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Files < 1 || megabytes < 1 {
				return usagef("--files and --mib must be at least 1")
			}
			for _, n := range o.Threads {
				if n < 1 {
					return usagef("--threads %d: it must be at least 1", n)
				}
			}
			o.Bytes = megabytes << 20
			path, done, err := benchDir(dir)
			if err != nil {
				return err
			}
			n, closeNode, err := scratchNode(cmd, e, path)
			if err != nil {
				return errors.Join(err, done())
			}
			if !asJSON {
				fmt.Fprintf(e.out, "%-24s %8s %12s\n", "", "threads", "")
			}
			err = fsbench.Run(cmd.Context(), n.Volume().Session(nil), o, func(r fsbench.Row) {
				if asJSON {
					writeJSONLine(e.out, r)
					return
				}
				fmt.Fprintf(e.out, "%-24s %8d %12.0f %s\n", r.Name, r.Threads, r.Value, r.Unit)
			})
			return errors.Join(err, closeNode(), done())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "`folder` to work below (default $TMPDIR or /tmp)")
	cmd.Flags().IntVar(&o.Files, "files", 10000, "`number` of small files")
	cmd.Flags().Int64Var(&megabytes, "mib", 1024, "`size` of the large file, in MiB")
	cmd.Flags().IntSliceVar(&o.Threads, "threads", []int{1, 8}, "`numbers` of threads to measure small files with")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one figure on a line")
	return cmd
}

// scratchNode opens a node over a new data directory with six disks.
func scratchNode(cmd *cobra.Command, e *env, path string) (*node.Node, func() error, error) {
	c := datadir.NewConfig()
	for i := range 6 {
		c.ASDs = append(c.ASDs, datadir.ASDName(i))
	}
	c.Policies = objstore.DefaultPolicies(len(c.ASDs))
	d, err := datadir.Create(filepath.Join(path, "data"), c)
	if err != nil {
		return nil, nil, err
	}
	log := slog.New(slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	n, err := node.Open(cmd.Context(), d, node.Options{Logger: log, Version: buildVersion()})
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	return n, func() error { return errors.Join(n.Close(), d.Close()) }, nil
}
