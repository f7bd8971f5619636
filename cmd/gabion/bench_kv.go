package main

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/kv/kvbench"
	"github.com/gabionfs/gabion/kv/raftkv"
)

func newBenchKV(b *benchEnv) *cobra.Command {
	var clients []int
	var seconds float64
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Measure transactions of the key-value store",
		Long: `Measure durable and ordered transactions, reads and ranges of a new key-value
store with one member.`,
		Example: "  gabion bench kv\n  gabion bench kv --clients 1,16,256 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := kvbench.Config{Clients: clients, Duration: time.Duration(seconds * float64(time.Second))}
			if c.Duration <= 0 {
				return usagef("--seconds must be above 0")
			}
			if err := positive("--clients", clients); err != nil {
				return err
			}
			return b.scratch(func(dir string) error {
				s, err := raftkv.Open(cmd.Context(), raftkv.Options{Dir: filepath.Join(dir, "kv")})
				if err != nil {
					return err
				}
				b.progress("measuring")
				rows, err := kvbench.Run(cmd.Context(), s, c)
				for _, r := range rows {
					err = errors.Join(err, b.print(figure(r)))
				}
				return errors.Join(err, s.Close())
			})
		},
	}
	cmd.Flags().IntSliceVar(&clients, "clients", []int{1, 16, 256}, "`numbers` of clients")
	cmd.Flags().Float64Var(&seconds, "seconds", 1, "`time` that a figure takes")
	return cmd
}

// positive refuses numbers below 1.
func positive(flag string, list []int) error {
	for _, n := range list {
		if n < 1 {
			return usagef("%s %d: it must be at least 1", flag, n)
		}
	}
	return nil
}
