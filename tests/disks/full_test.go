package disks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

// fillUp writes files of noise into a directory until one fails, and prints why.
const fillUp = `
mkdir -p "$1"
i=0
while dd if=/dev/urandom of="$1/fill$i" bs=1M count=8 conv=fsync status=none 2>"$1.error"; do
	i=$((i+1))
	test $i -lt 2000
done
rm "$1/fill$i" || true
cat "$1.error"
`

// noSpace wants the text of an error to be that of ENOSPC and nothing else.
func noSpace(t *testing.T, out string) {
	t.Helper()
	if !strings.Contains(out, "No space left on device") {
		t.Fatalf("a full disk answers: %s", out)
	}
}

// TestFull fills a small filesystem under the data directory through the mount: the error is ENOSPC,
// everything that is there can be read, removing works and makes room.
func TestFull(t *testing.T) {
	seed := harness.Seed(t)
	loop := harness.NewLoop(t, "ext4", 700<<20)
	g := harness.Start(t, harness.Options{Data: filepath.Join(loop.Dir, "data")})
	want := fill(t, g, seed, "tree", 20<<20)
	errors := filepath.Join(t.TempDir(), "fill")
	script := strings.ReplaceAll(fillUp, `"$1.error"`, `"$2"`)
	for round := range 2 {
		noSpace(t, g.Shell(3*time.Minute, script, g.Path("fill"), errors))
		unchanged(t, g, "when full", "tree", want)
		if s := g.Status(); s.Health == "lost" {
			t.Fatalf("when full: %+v", s)
		}
		if round == 0 {
			g.Restart() // while it is full
			unchanged(t, g, "after a restart when full", "tree", want)
		}
		// What was synced before the disk was full is there, whole.
		g.Shell(copyLimit, `for f in "$1"/fill*; do test $(stat -c %s "$f") = 8388608; done; cat "$1"/fill* > /dev/null`, g.Path("fill"))
		g.Clean()
		// What was removed makes room for the next write at once, and goes back to the filesystem soon.
		g.Shell(copyLimit, `rm -r "$1"; dd if=/dev/urandom of="$2" bs=1M count=60 conv=fsync status=none`, g.Path("fill"), g.Path("again"))
		harness.WaitFor(t, 2*time.Minute, "space to come back", func() bool {
			return loop.Free() > 250<<20
		})
	}
	unchanged(t, g, "at the end", "tree", want)
	g.Clean()
	g.Stop()
}

// TestFilledByOthers fills the filesystem to its last byte from outside, under a running gabion. Nothing is
// lost, what cannot be done says ENOSPC, and all goes on when there is room again.
func TestFilledByOthers(t *testing.T) {
	seed := harness.Seed(t)
	loop := harness.NewLoop(t, "ext4", 500<<20)
	g := harness.Start(t, harness.Options{Data: filepath.Join(loop.Dir, "data")})
	want := fill(t, g, seed, "tree", 20<<20)
	g.Shell(copyLimit, `dd if=/dev/urandom of="$1" bs=1M count=60 conv=fsync status=none`, g.Path("big"))
	hog := filepath.Join(loop.Dir, "hog")
	out, err := exec.Command("sh", "-c", `dd if=/dev/zero of="$1" bs=1M status=none; dd if=/dev/zero of="$1.2" bs=4k status=none; sync -f "$1"; df "$1"`, "sh", hog).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	unchanged(t, g, "on a filesystem that others filled", "tree", want)
	reply, err := g.Try(harness.GoShell(t, `dd if=/dev/urandom of="$1" bs=1M count=64 conv=fsync status=none`, g.Path("more")), copyLimit)
	if err == nil {
		t.Error("64 MiB were written to a filesystem that is full")
	}
	noSpace(t, reply)
	g.Shell(copyLimit, `rm -f "$1" "$2"`, g.Path("more"), g.Path("big"))
	for _, name := range []string{hog, hog + ".2"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	// With room again, writing works by itself, or after a restart at the latest when gabion has stopped.
	harness.WaitFor(t, time.Minute, "writing to work again", func() bool {
		_, err := g.Try(harness.GoShell(t, `echo again > "$1"; sync "$1"`, g.Path("again")), copyLimit)
		return err == nil
	})
	unchanged(t, g, "with room again", "tree", want)
	g.Clean()
	g.Restart()
	unchanged(t, g, "after a restart", "tree", want)
	g.Stop()
}

// TestSpaceComesBack removes files and overwrites others: the folders of the disks shrink, and the status
// says so.
func TestSpaceComesBack(t *testing.T) {
	g := harness.Start(t, harness.Options{})
	folders := func() (sum int64) {
		for i := 1; i <= 6; i++ {
			sum += harness.DiskUsage(t, asd(g.Data, i))
		}
		return sum
	}
	empty := folders()
	const size = 120 << 20
	write := `mkdir "$1"; for i in $(seq 1 10); do dd if=/dev/urandom of="$1/big$i" bs=1M count=8 conv=fsync status=none; done
		for i in $(seq 1 1000); do head -c 40000 /dev/urandom > "$1/small$i"; done; sync "$1"`
	for round, shrink := range []string{
		`rm -r "$1"`,
		`rm "$1"/small* "$1"/big2; for i in 1 3 4 5 6 7 8 9 10; do : > "$1/big$i"; done; rm -r "$1"`,
	} {
		dir := g.Path(fmt.Sprint("d", round))
		g.Shell(copyLimit, write, dir)
		harness.WaitFor(t, 2*time.Minute, "what was written to be on the disks", func() bool {
			return folders() >= size*6/5
		})
		harness.WaitFor(t, 2*time.Minute, "the status to say so", func() bool {
			return g.Status().Capacity.Used >= size*9/10
		})
		full, start := folders(), time.Now()
		g.Shell(copyLimit, shrink, dir)
		harness.WaitFor(t, 90*time.Second, fmt.Sprintf("the folders to shrink from %d, now %d, empty %d", full, folders(), empty), func() bool {
			return folders() < empty+(full-empty)/5
		})
		harness.WaitFor(t, 2*time.Minute, "the status to say so", func() bool {
			return g.Status().Capacity.Used < size/20
		})
		t.Logf("round %d: from %d to %d bytes on the disks in %v", round, full, folders(), time.Since(start).Round(time.Second))
	}
	// Overwriting takes no more than what is there.
	g.Shell(copyLimit, `for i in 1 2 3 4; do dd if=/dev/urandom of="$1" bs=1M count=60 conv=fsync,notrunc status=none; done`, g.Path("over"))
	harness.WaitFor(t, 90*time.Second, "overwritten content to be freed", func() bool {
		return folders() < empty+int64(60<<20)*3/2*3/2
	})
	g.Clean()
	g.Stop()
}

// TestMemory keeps the process below 600 MiB through a load that would fill more if it were let.
func TestMemory(t *testing.T) {
	if testing.Short() || harness.Race() {
		t.Skip("the race detector needs memory of its own")
	}
	g := harness.Start(t, harness.Options{})
	g.Shell(5*time.Minute, `
		dd if=/dev/urandom of="$1/big" bs=1M count="$2" status=none & a=$!
		(mkdir "$1/s"; for i in $(seq 1 4000); do head -c 5000 /dev/urandom > "$1/s/$i"; done) & b=$!
		(for i in 1 2 3 4; do dd if=/dev/zero of="$1/z$i" bs=64k count=3000 status=none; done) & c=$!
		wait $a; wait $b; wait $c
		cat "$1/big" > /dev/null & a=$!
		cat "$1"/s/* > /dev/null & b=$!
		for i in 1 2 3; do cp "$1/z1" "$1/copy$i"; done
		wait $a; wait $b
		rm -r "$1/s"`, g.Mount, fmt.Sprint(harness.Scale(700, 4000)))
	peak := g.PeakRSS()
	t.Logf("peak %d MiB", peak>>20)
	if peak > 600<<20 {
		t.Errorf("the process had %d MiB resident", peak>>20)
	}
	g.Stop()
}
