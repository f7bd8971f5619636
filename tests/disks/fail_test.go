package disks

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

// TestDisksFail has two of six disks on filesystems of their own, whose devices fail under load. Reading and
// writing go on, and when the devices are back the disks are used again.
func TestDisksFail(t *testing.T) {
	seed := harness.Seed(t)
	loops := []*harness.Loop{harness.NewLoop(t, "ext4", 1<<30), harness.NewLoop(t, "xfs", 1<<30)}
	dir := t.TempDir()
	o := harness.Options{Data: filepath.Join(dir, "data")}
	for i := range 4 {
		o.ASDDirs = append(o.ASDDirs, filepath.Join(dir, fmt.Sprint("disk", i)))
	}
	for _, l := range loops {
		o.ASDDirs = append(o.ASDDirs, filepath.Join(l.Dir, "asd"))
	}
	g := harness.Start(t, o)
	want := fill(t, g, seed, "tree", 20<<20)
	sum := filepath.Join(t.TempDir(), "sum")
	if err := os.WriteFile(sum, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	for round := range harness.Scale(2, 20) {
		watcher := harness.GoRole(t, "watch", g.Path("tree"), sum)
		churner := harness.GoRole(t, "churn", g.Path(fmt.Sprint("churn", round)), strconv.FormatUint(seed+uint64(round), 10))
		for _, l := range loops {
			l.Cut()
		}
		harness.WaitFor(t, 2*time.Minute, "the failures to be noticed", func() bool {
			s := g.Status()
			return s.Health == "degraded" && states(s)["ok"] == 4
		})
		g.Shell(copyLimit, `echo without > "$1"; sync "$1"`, g.Path(fmt.Sprint("without", round)))
		for _, l := range loops {
			l.Remount()
		}
		g.WaitHealth("ok", 3*time.Minute)
		watcher.Tell()
		churner.Tell()
		g.Finish(watcher, sumLimit)
		g.Finish(churner, sumLimit)
	}
	g.Clean()
	g.Restart()
	unchanged(t, g, "after a restart", "tree", want)
	g.Stop()
}

// TestKillDuringRepair kills gabion again and again while it rebuilds what was on disks that are lost.
func TestKillDuringRepair(t *testing.T) {
	seed := harness.Seed(t)
	r := harness.Rand(seed, t.Name())
	g := harness.Start(t, harness.Options{})
	want := fill(t, g, seed, "tree", int64(harness.Scale(40, 400))<<20)
	g.Shell(copyLimit, `find "$1" -exec sync {} +`, g.Path("tree"))
	disks := make([]string, 0, 6) // folders of those that are there
	for i := 1; i <= 6; i++ {
		disks = append(disks, asd(g.Data, i))
	}
	for round := range harness.Scale(2, 20) {
		for i := range 2 {
			n := r.IntN(len(disks))
			removeAll(t, disks[n])
			disks[n] = filepath.Join(g.Data, fmt.Sprintf("new-%d-%d", round, i))
			if out, errs, code := g.Command("asd", "add", disks[n]); code != 0 {
				t.Fatalf("asd add: exit code %d\n%s%s", code, out, errs)
			}
		}
		if round == 0 {
			harness.WaitFor(t, time.Minute, "repair to begin", func() bool { return g.Status().Maintenance.Healed > 0 })
		}
		for range 3 {
			g.Kill()
			g.Up()
			unchanged(t, g, "after a crash in repair", "tree", want)
			time.Sleep(time.Duration(r.Int64N(int64(2 * time.Second)))) // any moment is right
		}
		harness.WaitFor(t, 3*time.Minute, "redundancy to return", func() bool {
			s := g.Status()
			return s.Objects.Total > 0 && len(s.Objects.Degraded) == 0
		})
	}
	g.Clean("disk")
	g.Restart()
	unchanged(t, g, "at the end", "tree", want)
	g.Stop()
}

// TestNumbersOfDisks runs on other numbers of disks than six, and loses as many as the policy that a start
// chooses for that number can.
func TestNumbersOfDisks(t *testing.T) {
	for _, c := range []struct{ disks, lose int }{{1, 0}, {2, 1}, {3, 1}, {4, 2}, {5, 2}, {9, 2}, {16, 3}} {
		t.Run(strconv.Itoa(c.disks), func(t *testing.T) {
			seed := harness.Seed(t)
			r := harness.Rand(seed, t.Name())
			g := harness.Start(t, harness.Options{ASDs: c.disks})
			want := fill(t, g, seed, "tree", 5<<20)
			g.Restart()
			unchanged(t, g, "after a restart", "tree", want)
			g.Clean()
			g.Stop()
			for _, i := range r.Perm(c.disks)[:c.lose] {
				removeAll(t, asd(g.Data, i+1))
			}
			g.Up()
			unchanged(t, g, fmt.Sprintf("without %d of %d disks", c.lose, c.disks), "tree", want)
			g.Shell(copyLimit, `echo new > "$1"; sync "$1"; grep -q new "$1"`, g.Path("new"))
			g.Stop()
		})
	}
}
