package main

import (
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/objstore/asd/asdbench"
)

func newBenchASD(b *benchEnv) *cobra.Command {
	var c asdbench.Config
	var kib []int
	var mib int64
	var many asdbench.Many
	var compaction bool
	cmd := &cobra.Command{
		Use:   "asd",
		Short: "Measure durable appends and verified reads of ASDs, beside the raw disk",
		Long: `Measure durable appends and verified reads of one ASD, and of several in one
folder, beside what the same disk gives to a program that only appends and syncs.

With --records, measure instead one ASD with that many small records: memory, the
time to open it after a clean stop and after kill -9, and lookups of keys that are
there and that are not. With --compaction, measure what compaction costs those who
read and write meanwhile, and how fast records are read in order after it.`,
		Example: `  gabion bench asd --dir /mnt/disk1
  gabion bench asd --asds 1 --writers 1,8,64 --json
  gabion bench asd --records 10000000
  gabion bench asd --compaction`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("records") {
				return benchManyRecords(cmd, b, many)
			}
			if compaction {
				c := asdbench.Compaction{Bytes: 2 * mib << 20, Emit: func(r asdbench.Row) { b.print(figure(r)) }}
				if c.Bytes < 1<<20 {
					return usagef("--mib %d: it must be at least 1", mib)
				}
				return b.scratch(func(dir string) error { return c.Run(cmd.Context(), dir) })
			}
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
	cmd.Flags().Int64Var(&many.Records, "records", 0, "measure one ASD with that `number` of records instead")
	cmd.Flags().IntVar(&many.Payload, "payload", 512, "`bytes` of each of these records")
	cmd.Flags().BoolVar(&compaction, "compaction", false, "measure compaction instead, of twice --mib")
	return cmd
}

func benchManyRecords(cmd *cobra.Command, b *benchEnv, m asdbench.Many) error {
	if m.Records < 1 || m.Records > 1e9 {
		return usagef("--records %d: it must lie between 1 and 1000000000", m.Records)
	}
	if m.Payload < 16 || m.Payload > 64<<10 {
		return usagef("--payload %d: it must lie between 16 and 65536", m.Payload)
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	m.Child = func(args ...string) *exec.Cmd {
		return exec.Command(exe, append([]string{"bench", "asd-child", "--"}, args...)...)
	}
	m.Emit = func(r asdbench.Row) { b.print(figure(r)) }
	return b.scratch(func(dir string) error { return m.Run(cmd.Context(), dir) })
}

// newBenchASDChild is how the benchmark of many records starts its processes.
func newBenchASDChild() *cobra.Command {
	return &cobra.Command{
		Use: "asd-child PHASE DIR RECORDS BYTES", Hidden: true, Args: cobra.ExactArgs(4),
		RunE: func(cmd *cobra.Command, args []string) error {
			return asdbench.RunChild(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
}
