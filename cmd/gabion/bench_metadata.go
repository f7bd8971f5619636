package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/objbench"
)

// benchMetadata are the flags of bench metadata.
type benchMetadata struct {
	*benchEnv
	policy, local string
	mib           int
	noStack       bool
}

func newBenchMetadata(b *benchEnv) *cobra.Command {
	m := &benchMetadata{benchEnv: b}
	cmd := &cobra.Command{
		Use:   "metadata",
		Short: "Count the bytes of metadata that an object takes",
		Long: `Put objects with names of 32 bytes and count all bytes of keys and values, of every
index, that they add to the key-value stores: for random content, which does not
compress, for text that repeats itself, for words, and for content of which every
128 KiB shrink by another share, which is the worst.

Then the same of a global backend over ten local ones, in all stores together, in the
two configurations that ALBA's figures are of: 10 KB for an object of 64 MB, and 5 KB
when it is tuned. They are taken to be (8,2) above, with fragments of at most 4 MiB,
and of 8 MiB, and --local below. The disks at the bottom of these keep nothing: no
metadata is on them.`,
		Example: "  gabion bench metadata\n  gabion bench metadata --policy 16,4,18,20 --mib 1024\n  gabion bench metadata --local 8,2,10,10",
		RunE:    func(cmd *cobra.Command, _ []string) error { return m.run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&m.policy, "policy", "8,2,9,10", "`k,m,c,x` of the objects")
	cmd.Flags().StringVar(&m.local, "local", "4,2,6,6", "`k,m,c,x` of the local backends below a global one")
	cmd.Flags().IntVar(&m.mib, "mib", 64, "`size` of an object in MiB")
	cmd.Flags().BoolVar(&m.noStack, "no-stack", false, "leave out the global backends")
	return cmd
}

// metadataLine is what was measured of one configuration.
type metadataLine struct {
	name, what string
	rows       []objbench.Row // by objbench.Contents
	alba       float64        // 0: there is no figure
}

func (m *benchMetadata) run(ctx context.Context) error {
	p, err := objstore.ParsePolicy(m.policy)
	if err != nil {
		return usagef("--policy: %w", err)
	}
	local, err := objstore.ParsePolicy(m.local)
	if err != nil {
		return usagef("--local: %w", err)
	}
	if m.mib < 1 || m.mib > 1024 {
		return usagef("--mib %d: it must lie between 1 and 1024", m.mib)
	}
	var lines []metadataLine
	err = m.scratch(func(dir string) error {
		m.progress("one backend")
		line, err := m.single(ctx, dir, p)
		lines = append(lines, line)
		if err != nil || m.noStack {
			return err
		}
		for i, s := range objbench.Stacks(local) {
			m.progress("%s", s.Name)
			line, err := m.stacked(ctx, filepath.Join(dir, fmt.Sprint(i)), s)
			if err != nil {
				return err
			}
			lines = append(lines, line)
		}
		return nil
	})
	m.endProgress()
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return m.table(lines)
}

func (m *benchMetadata) single(ctx context.Context, dir string, p objstore.Policy) (metadataLine, error) {
	line := metadataLine{name: "single", what: fmt.Sprintf("%v, fragments of 4 MiB", p)}
	err := m.scratchNode(ctx, dir, p.K+p.M, []objstore.Policy{p}, func(n *node.Node) error {
		ns, err := n.Namespace(ctx, "bench", true)
		if err != nil {
			return err
		}
		line.rows, err = objbench.Metadata(ctx, ns, m.mib<<20, nil, n.KV())
		return err
	})
	return line, err
}

func (m *benchMetadata) stacked(ctx context.Context, dir string, s objbench.Stack) (metadataLine, error) {
	line := metadataLine{name: s.Name, alba: s.ALBA,
		what: fmt.Sprintf("global (%d,%d), fragments of %d MiB, over local (%d,%d)", s.Global.K, s.Global.M, s.Fragment>>20, s.Local.K, s.Local.M)}
	if m.mib != 64 {
		line.alba = 0 // it is for 64 MB
	}
	var err error
	line.rows, err = objbench.StackedMetadata(ctx, s, m.mib<<20, nil, func(name string) (kv.Store, error) {
		s, err := raftkv.Open(ctx, raftkv.Options{Dir: filepath.Join(dir, name), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		return s, nil
	})
	return line, err
}

// table prints the lines; as JSON, one figure on a line, with ALBA's.
func (m *benchMetadata) table(lines []metadataLine) error {
	if m.json {
		var errs []error
		for _, l := range lines {
			for i, r := range l.rows {
				errs = append(errs, writeJSONLine(m.out, figure{l.name + " " + objbench.Contents[i], r.Value, r.Unit}))
			}
			if l.alba != 0 {
				errs = append(errs, writeJSONLine(m.out, figure{l.name + ", ALBA", l.alba, "B/object"}))
			}
		}
		return errors.Join(errs...)
	}
	fmt.Fprintf(m.out, "bytes of metadata for an object of %d MiB\n\n%-60s", m.mib, "")
	for _, c := range objbench.Contents {
		fmt.Fprintf(m.out, "%8s", c)
	}
	fmt.Fprintf(m.out, "%8s\n", "ALBA")
	for _, l := range lines {
		fmt.Fprintf(m.out, "%-60s", l.what)
		for _, r := range l.rows {
			fmt.Fprintf(m.out, "%8.0f", r.Value)
		}
		alba := ""
		if l.alba != 0 {
			alba = fmt.Sprintf("%.0f", l.alba)
		}
		fmt.Fprintf(m.out, "%8s\n", alba)
	}
	return nil
}
