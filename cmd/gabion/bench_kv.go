package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/kv/kvbench"
	"github.com/gabionfs/gabion/kv/raftkv"
)

type benchKV struct {
	*benchEnv
	clients, members []int
	seconds          float64
	embedded         bool
	keys             int
	data             string
}

func newBenchKV(e *benchEnv) *cobra.Command {
	b := &benchKV{benchEnv: e}
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Measure the key-value store",
		Long: `Measure a new cluster of one node, and one of three, each node a process of its
own that the others reach over loopback with TLS: durable and ordered writes,
linearizable reads, ranges, and how long an operation takes.

--embedded measures a store inside this process, as a volume has it. --keys fills
one with many keys and measures how it starts, how much memory it takes and how
long an operation takes at most while it flushes and a new member is sent all of
it. contrib/bench compares with other systems.`,
		Example: "  gabion bench kv\n  gabion bench kv --clients 1,16,256 --members 3 --json\n  gabion bench kv --keys 10000000",
		RunE:    func(cmd *cobra.Command, _ []string) error { return b.run(cmd.Context()) },
	}
	fl := cmd.Flags()
	fl.IntSliceVar(&b.clients, "clients", []int{1, 16, 256}, "`numbers` of clients")
	fl.IntSliceVar(&b.members, "members", []int{1, 3}, "`numbers` of nodes")
	fl.Float64Var(&b.seconds, "seconds", 1, "`time` that a figure takes")
	fl.BoolVar(&b.embedded, "embedded", false, "measure a store inside this process")
	fl.IntVar(&b.keys, "keys", 0, "measure a store of this `number` of keys")
	fl.StringVar(&b.data, "data", "", "with --keys: `folder` of the store, which is kept and used again")
	return cmd
}

// newBenchKVNode is how the benchmark starts its nodes.
func newBenchKVNode() *cobra.Command {
	return &cobra.Command{
		Use: "kv-node DIR ID PEER TOKEN", Hidden: true, Args: cobra.ExactArgs(4),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := kvbench.ParseNodeConfig(args)
			if err != nil {
				return err
			}
			return kvbench.RunNode(cmd.Context(), c, os.Stdin, os.Stdout)
		},
	}
}

// newBenchKVJoiner is how the benchmark of many keys starts the new member.
func newBenchKVJoiner() *cobra.Command {
	return &cobra.Command{
		Use: "kv-joiner DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			go func() { // until the process that started it is gone
				_, _ = io.Copy(io.Discard, os.Stdin)
				cancel()
			}()
			return kvbench.JoinMember(ctx, args[0],
				func(addr string) { fmt.Println(addr) }, func(applied uint64) { fmt.Println(applied) })
		},
	}
}

func (b *benchKV) run(ctx context.Context) error {
	if b.seconds <= 0 {
		return usagef("--seconds must be above 0")
	}
	if err := errors.Join(positive("--clients", b.clients), positive("--members", b.members)); err != nil {
		return err
	}
	switch {
	case b.keys < 0:
		return usagef("--keys %d: it must not be negative", b.keys)
	case b.keys > 0 && b.data != "":
		err := b.atSize(ctx, b.data)
		b.finish()
		return err
	case b.keys > 0:
		return b.scratch(func(dir string) error { return b.atSize(ctx, dir) })
	case b.embedded:
		return b.scratch(func(dir string) error { return b.inside(ctx, dir) })
	}
	return b.scratch(func(dir string) error {
		for _, n := range b.members {
			if err := b.group(ctx, filepath.Join(dir, strconv.Itoa(n)), n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *benchKV) duration() time.Duration { return time.Duration(b.seconds * float64(time.Second)) }

// inside measures a store in this process.
func (b *benchKV) inside(ctx context.Context, dir string) error {
	s, err := raftkv.Open(ctx, raftkv.Options{Dir: filepath.Join(dir, "kv")})
	if err != nil {
		return err
	}
	b.progress("measuring")
	rows, err := kvbench.Run(ctx, s, kvbench.Config{Clients: b.clients, Duration: b.duration()})
	return errors.Join(err, b.printRows(rows), s.Close())
}

func (b *benchKV) printRows(rows []kvbench.Row) (err error) {
	for _, r := range rows {
		err = errors.Join(err, b.print(figure(r)))
	}
	return err
}

// group measures a cluster of n processes.
func (b *benchKV) group(ctx context.Context, dir string, n int) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	b.progress("starting %d nodes", n)
	g, err := kvbench.StartGroup(ctx, dir, n, func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, exe, append([]string{"bench", "kv-node"}, args...)...)
	})
	if err != nil {
		return err
	}
	b.progress("measuring")
	name := "1 node"
	if n > 1 {
		name = fmt.Sprint(n, " nodes")
	}
	system := kvbench.System{Name: name, Dial: func(ctx context.Context, conns, _ int) (kvbench.Target, error) { return g.Target(ctx, conns) }}
	c := kvbench.CompareConfig{Duration: b.duration(), Clients: b.clients}
	var t *tabwriter.Writer
	err = kvbench.Compare(ctx, []kvbench.System{system}, c, func(r kvbench.Result) error {
		if b.json {
			return writeJSONLine(b.out, r)
		}
		if t == nil {
			b.endProgress()
			t = tabwriter.NewWriter(b.out, 0, 0, 2, ' ', tabwriter.AlignRight)
			fmt.Fprintf(t, "%s\tclients\t\t\tp50 ms\tp90\tp99\tmax\t\n", name)
		}
		_, err := fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.1f\t\n", r.Kind, r.Clients, number(r.Value), r.Unit, r.P50, r.P90, r.P99, r.Max)
		return err
	})
	if t != nil {
		err = errors.Join(err, t.Flush())
	}
	return errors.Join(err, g.Close())
}

// atSize measures a store with many keys.
func (b *benchKV) atSize(ctx context.Context, dir string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	j := &joiner{exe: exe, dir: filepath.Join(dir, "joiner")}
	rows, err := kvbench.AtSize(ctx, kvbench.SizeConfig{
		Dir: dir, Keys: b.keys, Duration: 10 * b.duration(), Join: j.start,
		Progress: func(format string, args ...any) { b.progress(format, args...) },
		Logger:   slog.New(slog.NewTextHandler(b.err, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	return errors.Join(err, b.printRows(rows), j.stop())
}

// joiner is the process of the new member.
type joiner struct {
	exe, dir string
	cmd      *exec.Cmd
	in       io.Closer
	applied  atomic.Uint64
}

func (j *joiner) start(ctx context.Context) (addr string, applied func() uint64, err error) {
	if err := os.RemoveAll(j.dir); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, j.exe, "bench", "kv-joiner", j.dir)
	cmd.Stderr = os.Stderr
	if j.in, err = cmd.StdinPipe(); err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	j.cmd = cmd
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return "", nil, errors.New("the new member did not start")
	}
	addr = strings.TrimSpace(lines.Text())
	go func() {
		for lines.Scan() {
			n, _ := strconv.ParseUint(lines.Text(), 10, 64)
			j.applied.Store(n)
		}
	}()
	return addr, j.applied.Load, nil
}

func (j *joiner) stop() error {
	if j.cmd == nil {
		return nil
	}
	_ = j.in.Close()
	return errors.Join(j.cmd.Wait(), os.RemoveAll(j.dir))
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
