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

// TestLossWhileStopped loses pairs of the six disks, each disk at least once, and in the long version every pair.
// The start must not care, everything must be readable and new files can be written.
func TestLossWhileStopped(t *testing.T) {
	seed := harness.Seed(t)
	g := harness.Start(t, harness.Options{})
	want := fill(t, g, seed, "tree", 12<<20)
	g.Stop()
	lost := harness.Rand(seed, t.Name()).Perm(6)
	for i, first := range lost {
		for j, second := range lost[:i] {
			if !harness.Long() && (i%2 == 0 || j != i-1) {
				continue
			}
			a, b := first+1, second+1
			t.Run(fmt.Sprintf("%d and %d", a, b), func(t *testing.T) {
				data := filepath.Join(t.TempDir(), "data")
				copyDir(t, g.Data, data)
				removeAll(t, asd(data, a))
				removeAll(t, asd(data, b))
				l := harness.Start(t, harness.Options{Data: data})
				s := l.Status()
				if n := states(s); s.Health != "degraded" || n["missing"] != 2 || n["ok"] != 4 {
					t.Errorf("status: %s, disks %v, reasons %q", s.Health, n, s.Reasons)
				}
				unchanged(t, l, "after the loss", "tree", want)
				l.Shell(copyLimit, `echo new > "$1/new"; sync "$1/new"; grep -q new "$1/new"`, l.Mount)
				for _, n := range []int{a, b} {
					if _, err := os.Lstat(asd(data, n)); err == nil {
						t.Errorf("%s was made anew", asd(data, n))
					}
				}
				l.Restart()
				unchanged(t, l, "after a restart", "tree", want)
				if got := l.Shell(copyLimit, `cat "$1/new"`, l.Mount); got != "new\n" {
					t.Errorf("what was written without them reads %q", got)
				}
				l.Stop()
			})
		}
	}
}

// TestLossWhileRunning loses two disks under load, gets two new ones, loses two others, and reads
// everything all the time.
func TestLossWhileRunning(t *testing.T) {
	seed := harness.Seed(t)
	r := harness.Rand(seed, t.Name())
	g := harness.Start(t, harness.Options{})
	want := fill(t, g, seed, "tree", int64(harness.Scale(60, 2000))<<20)
	sum := filepath.Join(t.TempDir(), "sum")
	if err := os.WriteFile(sum, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	watcher := harness.GoRole(t, "watch", g.Path("tree"), sum)
	churner := harness.GoRole(t, "churn", g.Path("churn"), strconv.FormatUint(seed, 10))
	order := r.Perm(6)
	alive := func(when string) { // until both are told to end
		t.Helper()
		select {
		case <-watcher.Ended():
			t.Fatalf("%s: %s", when, watcher.Output())
		case <-churner.Ended():
			t.Fatalf("%s: %s", when, churner.Output())
		default:
		}
	}
	lose := func(when string, missing int, disks ...int) {
		t.Helper()
		for _, d := range disks {
			t.Logf("%s: disk %d goes", when, d+1)
			removeAll(t, asd(g.Data, d+1))
		}
		harness.WaitFor(t, 2*time.Minute, when+" to be noticed", func() bool {
			alive(when)
			s := g.Status()
			return s.Health == "degraded" && states(s)["missing"] == missing
		})
	}
	// whole waits until every object has all its fragments on disks that are there.
	whole := func(when string) {
		t.Helper()
		start := time.Now()
		harness.WaitFor(t, 3*time.Minute, when+": redundancy to return", func() bool {
			alive(when)
			s := g.Status()
			return s.Objects.Total > 0 && len(s.Objects.Degraded) == 0
		})
		t.Logf("%s: redundancy was back after %v", when, time.Since(start).Round(100*time.Millisecond))
	}
	add := func(name string) {
		t.Helper()
		if out, errs, code := g.Command("asd", "add", filepath.Join(g.Data, name)); code != 0 {
			t.Fatalf("asd add: exit code %d\n%s%s", code, out, errs)
		}
	}
	alive("at the start")
	lose("first loss", 2, order[0], order[1])
	add("new-1")
	add("new-2")
	whole("with two new disks")
	lose("second loss", 4, order[2], order[3])
	alive("after the second loss")
	alive = func(string) {}
	watcher.Tell()
	churner.Tell()
	t.Log("watch: ", g.Finish(watcher, sumLimit))
	t.Log("churn: ", g.Finish(churner, sumLimit))

	g.Restart()
	unchanged(t, g, "after a restart", "tree", want)
	add("new-3")
	add("new-4")
	whole("with four new disks")
	g.Clean("disk") // four are missing
	g.Restart()
	unchanged(t, g, "at the end", "tree", want)
	g.Stop()
}

// TestDiskComesBack takes a disk away while gabion is stopped and while it runs, and gives it back.
func TestDiskComesBack(t *testing.T) {
	seed := harness.Seed(t)
	g := harness.Start(t, harness.Options{})
	want := fill(t, g, seed, "tree", 5<<20)
	away := filepath.Join(t.TempDir(), "away")
	for _, running := range []bool{false, true} {
		if !running {
			g.Stop()
		}
		if err := os.Rename(asd(g.Data, 3), away); err != nil {
			t.Fatal(err)
		}
		if !running {
			g.Up()
		}
		g.WaitHealth("degraded", 30*time.Second)
		g.Shell(copyLimit, `echo meanwhile > "$1"; sync "$1"`, g.Path(fmt.Sprint("meanwhile", running)))
		if err := os.Rename(away, asd(g.Data, 3)); err != nil {
			t.Fatal(err)
		}
		g.WaitHealth("ok", 2*time.Minute)
		unchanged(t, g, "with the disk back", "tree", want)
		g.Clean()
	}
	g.Stop()
}

// TestEmptyFolder: an empty folder in the place of a lost disk is a new disk, when it is given, and never
// taken for the one that was lost.
func TestEmptyFolder(t *testing.T) {
	seed := harness.Seed(t)
	dir := t.TempDir()
	o := harness.Options{Data: filepath.Join(dir, "data")}
	for i := range 6 {
		o.ASDDirs = append(o.ASDDirs, filepath.Join(dir, fmt.Sprint("disk", i)))
	}
	g := harness.Start(t, o)
	want := fill(t, g, seed, "tree", 5<<20)
	before := g.Status()
	g.Stop()
	removeAll(t, o.ASDDirs[2])
	if err := os.Mkdir(o.ASDDirs[2], 0o700); err != nil {
		t.Fatal(err)
	}
	g.Up()
	s := g.Status()
	n := states(s)
	if n["missing"] != 1 || n["ok"] != 6 || len(s.Disks) != 7 {
		t.Errorf("disks before: %+v\nafter: %+v", before.Disks, s.Disks)
	}
	unchanged(t, g, "with an empty folder in the place of a disk", "tree", want)
	harness.WaitFor(t, 2*time.Minute, "redundancy to return", func() bool {
		return len(g.Status().Objects.Degraded) == 0
	})
	removeAll(t, o.ASDDirs[0])
	removeAll(t, o.ASDDirs[1])
	unchanged(t, g, "without two more", "tree", want)
	g.Stop()
}
