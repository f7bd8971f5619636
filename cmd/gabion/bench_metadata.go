package main

import (
	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/objbench"
)

func newBenchMetadata(b *benchEnv) *cobra.Command {
	var policy string
	var mib int
	cmd := &cobra.Command{
		Use:   "metadata",
		Short: "Count the bytes of metadata that an object takes",
		Long: `Put objects with names of 32 bytes and count all bytes of keys and values, of every
index, that they add to the key-value store: for content that does not compress, and
for text, which has a checksum and a length for each 128 KiB.`,
		Example: "  gabion bench metadata\n  gabion bench metadata --policy 16,4,18,20 --mib 1024",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := objstore.ParsePolicy(policy)
			if err != nil {
				return usagef("--policy: %w", err)
			}
			if mib < 1 || mib > 1024 {
				return usagef("--mib %d: it must lie between 1 and 1024", mib)
			}
			return b.scratch(func(dir string) error {
				return b.scratchNode(cmd.Context(), dir, p.K+p.M, []objstore.Policy{p}, func(n *node.Node) error {
					ns, err := n.Namespace(cmd.Context(), "bench", true)
					if err != nil {
						return err
					}
					rows, err := objbench.Metadata(cmd.Context(), ns, mib<<20, n.KV())
					return b.rows(rows, err)
				})
			})
		},
	}
	cmd.Flags().StringVar(&policy, "policy", "8,2,9,10", "`k,m,c,x` of the objects")
	cmd.Flags().IntVar(&mib, "mib", 64, "`size` of an object in MiB")
	return cmd
}
