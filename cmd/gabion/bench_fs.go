package main

import (
	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/fsbench"
	"github.com/gabionfs/gabion/cmd/internal/node"
)

func newBenchFS(b *benchEnv) *cobra.Command {
	var o fsbench.Options
	var mib int64
	cmd := &cobra.Command{
		Use:   "fs",
		Short: "Measure the filesystem, without a kernel in between",
		Long: `Measure the filesystem over six disks in one folder, inside the process: what a
mount can reach at most. Content is read back and compared.`,
		Example: "  gabion bench fs\n  gabion bench fs --files 100000 --threads 1,8,64 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Files < 1 || mib < 1 {
				return usagef("--files and --mib must be at least 1")
			}
			if err := positive("--threads", o.Threads); err != nil {
				return err
			}
			o.Bytes = mib << 20
			return b.scratch(func(dir string) error {
				return b.scratchNode(cmd.Context(), dir, 6, nil, func(n *node.Node) error {
					return fsbench.Run(cmd.Context(), n.Volume().Session(nil), o, func(r fsbench.Row) { b.print(figure(r)) })
				})
			})
		},
	}
	cmd.Flags().IntVar(&o.Files, "files", 10000, "`number` of small files")
	cmd.Flags().Int64Var(&mib, "mib", 1024, "`size` of the large file, in MiB")
	cmd.Flags().IntSliceVar(&o.Threads, "threads", []int{1, 8}, "`numbers` of threads to measure small files with")
	return cmd
}
