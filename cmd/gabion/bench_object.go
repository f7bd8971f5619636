package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/local"
	"github.com/gabionfs/gabion/objstore/maint"
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

type benchObject struct {
	*benchEnv
	policies     []string
	clients, kib []int
	seconds      float64
	rounds       int
	repair       bool
}

func newBenchObject(e *benchEnv) *cobra.Command {
	b := &benchObject{benchEnv: e}
	cmd := &cobra.Command{
		Use:   "object",
		Short: "Measure puts, gets and repair of objects, beside what the machine can do",
		Long: `Measure durable puts of objects that do not compress, gets of them from the page
cache, and the repair of a lost disk, over disks that all lie in one folder. Beside
each figure, and taken in turns with it, stands what the same machine does at most:

  put      as many clients append the same fragments to as many files on the same
           disk, with direct I/O into allocated space, each durable
  get      as many clients receive the same bytes by TCP over loopback
  repair   eight at a time read k fragments past the page cache and append one,
           durably; MB/s are of rebuilt fragments

The percentages are medians of the rounds' ratios.`,
		Example: `  gabion bench object
  gabion bench object --policy 8,3,10,11 --kib 4096 --clients 1,4,16
  gabion bench object --kib 4096 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return b.run(cmd.Context()) },
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&b.policies, "policy", []string{"1,0,1,1", "2,1,2,3", "4,2,5,6", "8,3,10,11"}, "`k,m,c,x` of the objects; may be given more than once")
	fl.IntSliceVar(&b.kib, "kib", []int{4, 64, 1024, 4096, 65536}, "`sizes` of objects in KiB")
	fl.IntSliceVar(&b.clients, "clients", []int{1, 16}, "`numbers` of clients")
	fl.Float64Var(&b.seconds, "seconds", 1, "`time` that the rounds of a figure take together")
	fl.IntVar(&b.rounds, "rounds", 3, "`number` of rounds, whose median counts")
	fl.BoolVar(&b.repair, "repair", true, "measure the repair of a lost disk as well")
	return cmd
}

func (b *benchObject) run(ctx context.Context) error {
	var policies []objstore.Policy
	for _, s := range b.policies {
		p, err := objstore.ParsePolicy(s)
		if err != nil {
			return usagef("--policy: %w", err)
		}
		policies = append(policies, p)
	}
	c := objbench.Config{
		Clients: b.clients, Time: time.Duration(b.seconds * float64(time.Second)), Rounds: b.rounds,
		Progress: func(name string) { b.progress("%s", name) },
	}
	if c.Time <= 0 {
		return usagef("--seconds must be above 0")
	}
	if err := positive("--rounds", []int{b.rounds}); err != nil {
		return err
	}
	for _, n := range b.kib {
		if n < 1 || n > 1<<20 {
			return usagef("--kib %d: it must lie between 1 and 1048576", n)
		}
		c.Sizes = append(c.Sizes, n<<10)
	}
	if err := positive("--clients", b.clients); err != nil {
		return err
	}
	if err := b.header(); err != nil {
		return err
	}
	for _, p := range policies {
		if err := b.scratch(func(dir string) error { return b.objects(ctx, dir, p, c) }); err != nil {
			return err
		}
		if b.repair && p.M > 0 {
			if err := b.scratch(func(dir string) error { return b.lost(ctx, dir, p) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// objects measures puts and gets by one policy.
func (b *benchObject) objects(ctx context.Context, dir string, p objstore.Policy, c objbench.Config) error {
	return b.scratchNode(ctx, dir, p.K+p.M, []objstore.Policy{p}, func(n *node.Node) error {
		ns, err := n.Namespace(ctx, "bench", true)
		if err != nil {
			return err
		}
		return objbench.Compare(ctx, ns, p, dir, c, func(cell objbench.Cell) error {
			if b.json {
				return b.line(cell)
			}
			return b.columns(cell.Policy, objbench.SizeName(cell.Size), fmt.Sprint(cell.Clients), cell.Put, cell.Get)
		})
	})
}

// lost measures the repair of lost disks by one policy.
func (b *benchObject) lost(ctx context.Context, dir string, p objstore.Policy) (err error) {
	b.progress("(%d,%d) repair", p.K, p.M)
	log := slog.New(slog.DiscardHandler) // a lost disk is what it would tell of
	var store kv.Store
	if store, err = raftkv.Open(ctx, raftkv.Options{Dir: filepath.Join(dir, "kv"), Logger: log}); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, store.Close())
	}()
	o := local.Options{KV: store, Cluster: asd.ID{1}, Policies: []objstore.Policy{p}, NoMaint: true, WatchEvery: 20 * time.Millisecond,
		Maintenance: maint.Options{Rate: -1, RepairDelay: -1}}
	for i := range p.K + p.M + b.rounds {
		o.Dirs = append(o.Dirs, filepath.Join(dir, fmt.Sprint("disk", i)))
	}
	objects, err := local.Open(ctx, o)
	if err != nil {
		return err
	}
	r, err := objbench.Repair{Backend: objects, Dir: dir, Policy: p, Lose: o.Dirs[:b.rounds]}.Run(ctx)
	if err = errors.Join(err, objects.Close()); err != nil {
		return err
	}
	if b.json {
		return b.line(r)
	}
	return b.columns(r.Policy, objbench.SizeName(r.Size), "repair", r.Rebuilt)
}

// line prints one object of JSON.
func (b *benchObject) line(v any) error {
	b.endProgress()
	return writeJSONLine(b.out, v)
}

func (b *benchObject) header() error {
	if b.json {
		return nil
	}
	_, err := fmt.Fprintf(b.out, "%-8s %6s %8s   %9s %9s %6s   %9s %9s %6s\n", "policy", "size", "clients", "put MB/s", "ceiling", "%", "get MB/s", "loopback", "%")
	return err
}

// columns prints a line of the table.
func (b *benchObject) columns(policy, size, clients string, pairs ...objbench.Pair) error {
	b.endProgress()
	line := fmt.Sprintf("%-8s %6s %8s", policy, size, clients)
	for _, p := range pairs {
		line += fmt.Sprintf("   %9s %9s %5.0f%%", number(p.Value), number(p.Ceiling), p.Percent)
	}
	_, err := fmt.Fprintln(b.out, line)
	return err
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
