package crash

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

// How long a load may take to notice that gabion is gone, and a look at what it left.
const (
	noticeLimit = 30 * time.Second
	verifyLimit = 2 * time.Minute
)

// crashes is a series of crashes of one data directory. Each round works in a directory of its own; what the
// earlier ones left must not change any more.
type crashes struct {
	t    *testing.T
	g    *harness.Gabion
	seed uint64
	r    *rand.Rand
	sums []string // of the earlier rounds
	ops  int64
	sync int64
}

func newCrashes(t *testing.T, o harness.Options) *crashes {
	seed := harness.Seed(t)
	return &crashes{t: t, seed: seed, r: harness.Rand(seed, t.Name()), g: harness.New(t, o)}
}

func (c *crashes) dir(round int) string { return c.g.Path(fmt.Sprintf("round%d", round)) }

func (c *crashes) roundSeed(round int) string {
	return strconv.FormatUint(c.seed+uint64(round), 10)
}

// under runs the load of a round until crash, which must end gabion, and returns the file with its record.
func (c *crashes) under(round int, crash func()) string {
	c.t.Helper()
	child := harness.GoRole(c.t, "load", c.dir(round), c.roundSeed(round))
	moment := 20*time.Millisecond + time.Duration(c.r.Int64N(int64(1200*time.Millisecond)))
	select {
	case <-time.After(moment): // any moment is right
	case <-child.Ended():
	}
	crash()
	return c.recorded(child, false)
}

// recorded returns the file with what a load that has ended printed. With whole, everything that it did must
// survive.
func (c *crashes) recorded(child *harness.Child, whole bool) string {
	c.t.Helper()
	out := c.g.Finish(child, noticeLimit)
	var rec record
	if err := json.Unmarshal([]byte(out), &rec); err != nil {
		c.t.Fatalf("the load printed %q: %v", out, err)
	}
	c.ops += rec.Ops
	c.sync += rec.Syncs
	if whole {
		if rec.Error != "" {
			c.t.Fatalf("the load failed: %s", rec.Error)
		}
		for _, m := range []map[string]*progress{rec.Files, rec.Replaced, rec.Dirs} {
			for _, p := range m {
				p.Acked = p.Started
			}
		}
		raw, err := json.Marshal(&rec)
		if err != nil {
			c.t.Fatal(err)
		}
		out = string(raw)
	}
	path := filepath.Join(c.t.TempDir(), "record")
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// stopped runs the load of a round for a moment and then stops gabion as an operator does, which must make
// everything durable.
func (c *crashes) stopped(round int) string {
	c.t.Helper()
	child := harness.GoRole(c.t, "load", c.dir(round), c.roundSeed(round))
	time.Sleep(time.Duration(c.r.Int64N(int64(time.Second)))) // any amount of work is right
	child.Tell()
	record := c.recorded(child, true)
	c.g.Stop()
	return record
}

// after starts gabion again and looks at everything.
func (c *crashes) after(round int, record string) {
	c.t.Helper()
	if c.r.IntN(3) == 0 {
		c.g.Clean() // while nothing runs
	}
	c.g.Up()
	c.t.Logf("round %d: %s", round, strings.TrimSpace(c.g.Role(verifyLimit, "verify", c.dir(round), c.roundSeed(round), record)))
	for i, want := range c.sums {
		if got := c.g.Sum(c.dir(i), verifyLimit); got != want {
			harness.Same(c.t, fmt.Sprintf("what was left by round %d, after round %d", i, round), got, want)
		}
	}
	c.g.Shell(verifyLimit, `mkdir -p "$1"`, c.dir(round))
	c.sums = append(c.sums, c.g.Sum(c.dir(round), verifyLimit))
	c.g.Clean()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// TestKill kills gabion at random moments of a load, sometimes again while it recovers.
func TestKill(t *testing.T) {
	c := newCrashes(t, harness.Options{})
	rounds := harness.Scale(10, 300)
	for round := range rounds {
		if !c.g.Running() {
			c.g.Up()
		}
		record := c.under(round, c.g.Kill)
		for c.r.IntN(3) == 0 {
			c.g.UpAndKill(time.Duration(c.r.Int64N(int64(400 * time.Millisecond))))
		}
		c.after(round, record)
		if c.r.IntN(4) == 0 {
			c.g.Stop()
		}
	}
	t.Logf("%d kills, %d operations, %d syncs", rounds, c.ops, c.sync)
}

// TestPowerCut cuts the filesystem under the data directory off from its device at random moments of a load.
func TestPowerCut(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			loop := harness.NewLoop(t, kind, 6<<30)
			c := newCrashes(t, harness.Options{Data: filepath.Join(loop.Dir, "data")})
			rounds := harness.Scale(5, 100)
			for round := range rounds {
				if !c.g.Running() {
					c.g.Up()
				}
				if round%4 == 3 {
					record := c.stopped(round)
					loop.Cut()
					loop.Remount()
					c.after(round, record)
					continue
				}
				record := c.under(round, func() {
					loop.Cut()
					if c.r.IntN(2) == 0 { // gabion lives on for a while, and must not promise anything
						time.Sleep(time.Duration(c.r.Int64N(int64(300 * time.Millisecond))))
					}
					c.g.Kill()
				})
				loop.Remount()
				c.after(round, record)
			}
			t.Logf("%d power cuts, %d operations, %d syncs", rounds, c.ops, c.sync)
		})
	}
}
