package main

import (
	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/objstore/asd/asdbench"
)

func newBenchASD(b *benchEnv) *cobra.Command {
	var c asdbench.Config
	var kib []int
	var mib int64
	cmd := &cobra.Command{
		Use:   "asd",
		Short: "Measure durable appends and verified reads of ASDs, beside the raw disk",
		Long: `Measure durable appends and verified reads of one ASD, and of several in one
folder, beside what the same disk gives to a program that only appends and syncs.`,
		Example: "  gabion bench asd --dir /mnt/disk1\n  gabion bench asd --asds 1 --writers 1,8,64 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.ASDs < 1 || c.ASDs > datadir.MaxASDs {
				return usagef("--asds %d: it must lie between 1 and %d", c.ASDs, datadir.MaxASDs)
			}
			if mib < 1 {
				return usagef("--mib %d: it must be at least 1", mib)
			}
			if err := positive("--writers", c.Writers); err != nil {
				return err
			}
			c.Sizes, c.Bytes = nil, mib<<20
			for _, n := range kib {
				if n < 1 || n > 64<<10 {
					return usagef("--kib %d: it must lie between 1 and 65536", n)
				}
				c.Sizes = append(c.Sizes, n<<10)
			}
			c.Emit = func(r asdbench.Row) { b.print(figure(r)) }
			return b.scratch(func(dir string) error {
				_, err := asdbench.Run(cmd.Context(), dir, c)
				return err
			})
		},
	}
	cmd.Flags().IntVar(&c.ASDs, "asds", 6, "`number` of ASDs for the figures of several")
	cmd.Flags().IntSliceVar(&kib, "kib", []int{4, 64, 1024}, "`sizes` of records in KiB")
	cmd.Flags().IntSliceVar(&c.Writers, "writers", []int{1, 16}, "`numbers` of writers")
	cmd.Flags().Int64Var(&mib, "mib", 512, "how many `MiB` a figure writes, of the largest records")
	return cmd
}
