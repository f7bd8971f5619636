package disks

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

// TestFlippedByte changes one byte of one file of a stopped data directory, of every kind of file in turn,
// and starts. What is on a disk never matters. What is the key-value store's is either served as it was, or
// the start is refused with one line that names the file. Wrong bytes are never served.
func TestFlippedByte(t *testing.T) {
	for _, end := range []string{"stopped", "killed"} {
		t.Run(end, func(t *testing.T) {
			seed := harness.Seed(t)
			r := harness.Rand(seed, t.Name())
			g := harness.Start(t, harness.Options{})
			fill(t, g, seed, "tree", 12<<20)
			// Small synced writes, which are kept where larger ones are not.
			g.Shell(copyLimit, `for i in 1 2 3 4 5 6 7 8; do head -c 3000 /dev/urandom >> "$1/synced"; sync "$1/synced"; done; find "$1" -exec sync {} +`, g.Path("tree"))
			want := g.Sum(g.Path("tree"), sumLimit)
			// Damage to the very last write cannot be told from a torn one until something was written behind
			// it, which the log of the key-value store sees to after a quarter of a second.
			time.Sleep(4 * time.Second)
			if end == "stopped" {
				g.Stop()
			} else {
				g.Kill()
			}
			kinds := filesByKind(t, g.Data)
			for _, kind := range slices.Sorted(maps.Keys(kinds)) {
				short := 2
				if strings.HasPrefix(kind, "asd/index/") {
					short = 1 // many kinds, of which none is the truth
				}
				for i := range harness.Scale(short, 60) {
					t.Run(fmt.Sprint(kind, "#", i), func(t *testing.T) {
						flipOne(t, r, g.Data, kinds[kind], want)
					})
				}
			}
		})
	}
}

var (
	diskFolder = regexp.MustCompile(`^asd-\d+`)
	number     = regexp.MustCompile(`\d+`)
)

// filesByKind sorts the files of a data directory that are not empty by what they are for.
func filesByKind(t *testing.T, data string) map[string][]string {
	t.Helper()
	kinds := make(map[string][]string)
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil || fi.Size() == 0 {
			return err
		}
		rel, err := filepath.Rel(data, path)
		kind := number.ReplaceAllString(diskFolder.ReplaceAllString(rel, "asd"), "N")
		kinds[kind] = append(kinds[kind], rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, need := range []string{"format", "asd/format", "asd/segments/N.seg", "kv/state.db"} {
		if len(kinds[need]) == 0 {
			t.Fatalf("no file %s: there are %v", need, slices.Sorted(maps.Keys(kinds)))
		}
	}
	return kinds
}

func flipOne(t *testing.T, r *rand.Rand, base string, files []string, want string) {
	data := filepath.Join(t.TempDir(), "data")
	copyDir(t, base, data)
	victim := files[r.IntN(len(files))]
	at, old, now := flip(t, r, filepath.Join(data, victim))
	where := fmt.Sprintf("%s, byte %d from %#x to %#x", victim, at, old, now)
	l := harness.New(t, harness.Options{Data: data})
	err := l.TryUp()
	if strings.Contains(l.Log(), "panic") {
		t.Fatalf("%s: it panics", where)
	}
	if err != nil {
		onDisk := strings.HasPrefix(victim, "asd-")
		said := lastLine(err.Error())
		named := strings.Contains(said, filepath.Join(data, victim)) || strings.Contains(said, filepath.Dir(filepath.Join(data, victim)))
		if onDisk || !named || !strings.HasPrefix(said, "gabion: ") {
			t.Errorf("%s: %v", where, err)
		}
		return
	}
	got, err := l.Try(harness.GoRole(t, "sum", l.Path("tree")), sumLimit)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	harness.Same(t, where, got, want)
	l.Stop()
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// flip changes one byte of a file, mostly one that is not zero.
func flip(t *testing.T, r *rand.Rand, path string) (at int, old, now byte) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at = r.IntN(len(p))
	if r.IntN(5) > 0 {
		for range 100_000 {
			if p[at] != 0 {
				break
			}
			at = r.IntN(len(p))
		}
	}
	old = p[at]
	now = old ^ byte(1<<r.IntN(8))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{now}, int64(at)); err != nil {
		t.Fatal(err)
	}
	return at, old, now
}
