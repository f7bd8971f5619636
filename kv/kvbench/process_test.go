package kvbench_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/kvbench"
)

// The test binary is also what the processes of the benchmarks run.
const roleVar = "GABION_KVBENCH_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch args := os.Args[1:]; os.Getenv(roleVar) {
	case "node":
		var c kvbench.NodeConfig
		if c, err = kvbench.ParseNodeConfig(args); err == nil {
			err = kvbench.RunNode(context.Background(), c, os.Stdin, os.Stdout)
		}
	case "joiner":
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		err = kvbench.JoinMember(ctx, args[0], func(a string) { fmt.Println(a) }, func(n uint64) { fmt.Println(n) })
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(ctx context.Context, role string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	return cmd
}

func TestCompare(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	g, err := kvbench.StartGroup(ctx, t.TempDir(), 2, func(ctx context.Context, args ...string) *exec.Cmd { return child(ctx, "node", args...) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	system := kvbench.System{Name: "two", Dial: func(ctx context.Context, conns, _ int) (kvbench.Target, error) { return g.Target(ctx, conns) }}
	seen := map[kvbench.Kind]int{}
	err = kvbench.Compare(ctx, []kvbench.System{system}, kvbench.CompareConfig{Duration: 20 * time.Millisecond, Clients: []int{1, 20}, Keys: 300}, func(r kvbench.Result) error {
		seen[r.Kind]++
		if r.System != "two" || r.Value <= 0 || r.P50 <= 0 || r.P50 > r.P90 || r.P90 > r.P99 || r.P99 > r.Max {
			t.Errorf("%+v", r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kvbench.Kinds {
		want := 2
		if k == kvbench.Ranges {
			want = 1
		}
		if seen[k] != want {
			t.Errorf("%d figures for %s, want %d", seen[k], k, want)
		}
	}
}

func TestAtSize(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	var cmd *exec.Cmd
	var in io.Closer
	join := func(ctx context.Context) (string, func() uint64, error) {
		cmd = child(ctx, "joiner", dir+"/joiner")
		cmd.Stderr = os.Stderr
		var err error
		if in, err = cmd.StdinPipe(); err != nil {
			return "", nil, err
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return "", nil, err
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			return "", nil, errors.New("it says nothing")
		}
		addr := strings.TrimSpace(lines.Text())
		var applied atomic.Uint64
		go func() {
			for lines.Scan() {
				n, _ := strconv.ParseUint(lines.Text(), 10, 64)
				applied.Store(n)
			}
		}()
		return addr, applied.Load, nil
	}
	rows, err := kvbench.AtSize(ctx, kvbench.SizeConfig{Dir: dir, Keys: 3000, Duration: 50 * time.Millisecond, Load: 500, Join: join})
	if err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	have := map[string]float64{}
	for _, r := range rows {
		have[r.Name] = r.Value
	}
	for _, name := range []string{"fill", "start", "fill: ordered update of 500 keys max", "flush: durable update max", "flush: durable update p99.9", "snapshot: linearizable read max", "snapshot: until the member had caught up"} {
		if have[name] <= 0 {
			t.Errorf("no figure for %q in %v", name, rows)
		}
	}
	// Again, with what is there.
	rows, err = kvbench.AtSize(ctx, kvbench.SizeConfig{Dir: dir, Keys: 3000, Duration: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Name == "fill" {
			t.Error("filled again")
		}
	}
}
