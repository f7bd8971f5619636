package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/objbench"
)

func newBenchErasure(b *benchEnv) *cobra.Command {
	return &cobra.Command{
		Use:     "erasure",
		Short:   "Measure the erasure codes on one core",
		Example: "  gabion bench erasure --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := objbench.Erasure(cmd.Context())
			defer b.finish()
			return b.rows(rows, err)
		},
	}
}

func newBenchObject(b *benchEnv) *cobra.Command {
	var policy string
	var clients, kib []int
	var seconds float64
	cmd := &cobra.Command{
		Use:   "object",
		Short: "Measure puts and gets of objects, beside what the disk can do",
		Long: `Measure durable puts, and gets, of objects that do not compress, over as many
disks in one folder as the policy has fragments. The first figure is what the
same disk gives to a program that only appends and syncs the same fragments.`,
		Example: "  gabion bench object\n  gabion bench object --policy 8,3,10,11 --kib 4096 --clients 1,4,16",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			p, err := objstore.ParsePolicy(policy)
			if err != nil {
				return usagef("--policy: %w", err)
			}
			c := objbench.Config{
				Clients: clients, Time: time.Duration(seconds * float64(time.Second)),
				Progress: func(name string) { b.progress("%s", name) },
			}
			if c.Time <= 0 {
				return usagef("--seconds must be above 0")
			}
			for _, n := range kib {
				if n < 1 || n > 1<<20 {
					return usagef("--kib %d: it must lie between 1 and 1048576", n)
				}
				c.Sizes = append(c.Sizes, n<<10)
			}
			if err := positive("--clients", clients); err != nil {
				return err
			}
			return b.scratch(func(dir string) error {
				b.progress("ceiling of the disk")
				const object, inFlight = 4 << 20, 4
				row, err := objbench.Ceiling(ctx, dir, p.K, p.M, (object+p.K-1)/p.K, inFlight, 256<<20)
				if err := b.rows([]objbench.Row{row}, err); err != nil {
					return err
				}
				return b.scratchNode(ctx, dir, p.K+p.M, []objstore.Policy{p}, func(n *node.Node) error {
					ns, err := n.Namespace(ctx, "bench", true)
					if err != nil {
						return err
					}
					rows, err := objbench.Run(ctx, ns, c)
					return b.rows(rows, err)
				})
			})
		},
	}
	cmd.Flags().StringVar(&policy, "policy", "4,2,5,6", "`k,m,c,x` of the objects")
	cmd.Flags().IntSliceVar(&kib, "kib", []int{4, 64, 1024, 4096, 65536}, "`sizes` of objects in KiB")
	cmd.Flags().IntSliceVar(&clients, "clients", []int{1, 16}, "`numbers` of clients")
	cmd.Flags().Float64Var(&seconds, "seconds", 2, "`time` that a figure takes at most")
	return cmd
}

// rows prints what a benchmark of the object layer measured, as far as it came.
func (b *benchEnv) rows(rows []objbench.Row, err error) error {
	for _, r := range rows {
		if r.Name != "" {
			if perr := b.print(figure(r)); err == nil {
				err = perr
			}
		}
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}
