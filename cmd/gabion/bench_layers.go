package main

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/layerbench"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/objstore/asd"
)

// layerFlags are those of the benchmarks of package layerbench.
type layerFlags struct {
	clients []int
	seconds float64
}

func (f *layerFlags) register(cmd *cobra.Command, clients []int) {
	cmd.Flags().IntSliceVar(&f.clients, "clients", clients, "`numbers` of clients")
	cmd.Flags().Float64Var(&f.seconds, "seconds", 2, "`time` that a figure takes at most")
}

func (f *layerFlags) config(b *benchEnv) (layerbench.Config, error) {
	c := layerbench.Config{
		Clients: f.clients, Time: time.Duration(f.seconds * float64(time.Second)),
		Progress: func(name string) { b.progress("%s", name) },
		Emit: func(r layerbench.Row) {
			b.print(figure{r.Name, r.Value, r.Unit, float64(r.P50.Nanoseconds()) / 1e3, float64(r.P99.Nanoseconds()) / 1e3})
		},
	}
	if c.Time <= 0 {
		return c, usagef("--seconds must be above 0")
	}
	return c, positive("--clients", f.clients)
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

func newBenchKV(b *benchEnv) *cobra.Command {
	var f layerFlags
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Measure transactions of the key-value store",
		Long: `Measure durable and ordered transactions, linearizable reads and ranges of a new
key-value store with one member. Ordered transactions count once all of them are
durable.`,
		Example: "  gabion bench kv\n  gabion bench kv --clients 1,16,256 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.config(b)
			if err != nil {
				return err
			}
			return b.scratch(func(dir string) error {
				s, err := raftkv.Open(cmd.Context(), raftkv.Options{Dir: filepath.Join(dir, "kv")})
				if err != nil {
					return err
				}
				return errors.Join(layerbench.KV(cmd.Context(), s, c), s.Close())
			})
		},
	}
	f.register(cmd, []int{1, 16, 256})
	return cmd
}

func newBenchASD(b *benchEnv) *cobra.Command {
	var f layerFlags
	cmd := &cobra.Command{
		Use:     "asd",
		Short:   "Measure durable appends and verified reads of one disk",
		Example: "  gabion bench asd --dir /mnt/disk1\n  gabion bench asd --clients 1,8,64 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.config(b)
			if err != nil {
				return err
			}
			return b.scratch(func(dir string) error { return benchASD(cmd.Context(), filepath.Join(dir, "asd"), c) })
		},
	}
	f.register(cmd, []int{1, 16})
	return cmd
}

func benchASD(ctx context.Context, dir string, c layerbench.Config) error {
	if _, err := asd.Format(dir, asd.ID{1}); err != nil {
		return err
	}
	a, err := asd.Open(ctx, dir, asd.Options{})
	if err != nil {
		return err
	}
	return errors.Join(layerbench.ASD(ctx, a, c), a.Close())
}
