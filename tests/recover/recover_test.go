package recover

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m, nil) }

// statusOf returns the status, whatever the health.
func statusOf(t *testing.T, g *harness.Gabion) string {
	t.Helper()
	out, _, _ := g.Command("status", "--json")
	return out
}

// objects are what must be there, by name.
type objects map[string][]byte

// TestRecover puts objects, deletes some and puts some anew, stops, loses what the key-value store knew of them,
// removes one disk and damages another, and recovers: what existed is read back as it was, and what was
// deleted is not there.
func TestRecover(t *testing.T) {
	t.Run("store", func(t *testing.T) {
		g, want := filled(t)
		must(t, os.RemoveAll(filepath.Join(g.Data, "kv")))
		if err := g.TryUp(); err == nil {
			t.Fatal("gabion starts without its key-value store")
		}
		lose(t, g)
		r := recovered(t, g)
		if !r.StoreLost || len(r.Absent) != 1 {
			t.Fatalf("%+v", r)
		}
		g.Up()
		// There is a new filesystem, and new objects go beside the old ones.
		want.put(t, g, "new", noise(harness.Rand(harness.Seed(t), "new"), 300_000))
		g.Restart()
		verify(t, g, want)
	})
	t.Run("rows", func(t *testing.T) {
		g, want := filled(t)
		for _, ks := range []string{"manifest", "count", "degraded", "obsolete", "parked", "alloc"} {
			command(t, g, "kv", "sequence", "--unsafe", "-s", "obj/"+ks, script(t, "delete-prefix \"\""))
		}
		lose(t, g)
		if r := recovered(t, g, "user"); r.StoreLost {
			t.Fatalf("%+v", r)
		}
		g.Up()
		verify(t, g, want)
		g.WaitHealth("degraded", time.Minute) // a disk is gone, and six are needed
	})
}

// filled returns a gabion that was stopped, and the objects in it.
func filled(t *testing.T) (*harness.Gabion, objects) {
	t.Helper()
	rng := harness.Rand(harness.Seed(t), t.Name())
	g := harness.Start(t, harness.Options{NoMount: true})
	want := make(objects)
	for i, n := range []int{1, 4000, 70_000, 900_000, 6 << 20} {
		want.put(t, g, fmt.Sprint("noise ", i), noise(rng, n))
		want.put(t, g, fmt.Sprint("text ", i), bytes.Repeat([]byte("seven o'clock "), n/14+1))
	}
	for _, name := range []string{"noise 1", "noise 3", "text 4", "noise 4"} {
		command(t, g, "object", "rm", name)
		delete(want, name)
	}
	want.put(t, g, "noise 1", noise(rng, 5000))
	want.put(t, g, "noise 4", noise(rng, 1<<20))
	// A deletion counts once the fragments are gone: 4 objects of 6 fragments each.
	for end := time.Now().Add(harness.Patience(time.Minute)); ; time.Sleep(50 * time.Millisecond) {
		var s struct {
			Maintenance struct {
				Deleted int64 `json:"deleted"`
			} `json:"maintenance"`
		}
		must(t, json.Unmarshal([]byte(statusOf(t, g)), &s))
		if s.Maintenance.Deleted >= 24 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d fragments were deleted", s.Maintenance.Deleted)
		}
	}
	g.Stop()
	return g, want
}

func (o objects) put(t *testing.T, g *harness.Gabion, name string, p []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "object")
	must(t, os.WriteFile(file, p, 0o600))
	command(t, g, "object", "put", name, file)
	o[name] = p
}

// lose removes one disk and damages another in many places.
func lose(t *testing.T, g *harness.Gabion) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(g.Data, "asd-03")))
	rng := harness.Rand(harness.Seed(t), "damage")
	hurt := 0
	must(t, filepath.WalkDir(filepath.Join(g.Data, "asd-05"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "index") {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < 1<<20 {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		for range 40 { // where the data is, which begins soon after the start
			at := 64<<10 + rng.Int64N(8<<20)
			var b [1]byte
			if _, err := f.ReadAt(b[:], at); err != nil {
				continue
			}
			b[0] ^= 0x20
			if _, err := f.WriteAt(b[:], at); err != nil {
				return err
			}
			hurt++
		}
		return nil
	}))
	if hurt == 0 {
		t.Fatal("nothing was damaged")
	}
}

// recovery is what the tests read of `gabion namespace recover --json`.
type recovery struct {
	StoreLost  bool     `json:"store_lost"`
	Absent     []string `json:"absent"`
	Namespaces []struct {
		Namespace string `json:"namespace"`
		Adopted   int64  `json:"adopted"`
		Lost      []struct {
			Name string `json:"name"`
		} `json:"lost"`
	} `json:"namespaces"`
}

func recovered(t *testing.T, g *harness.Gabion, names ...string) (r recovery) {
	t.Helper()
	out, errs, code := g.Command(append([]string{"namespace", "recover", "--json"}, names...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("gabion namespace recover: exit code %d, %v\n%s%s", code, err, out, errs)
	}
	return r
}

// verify wants exactly the objects to be there.
func verify(t *testing.T, g *harness.Gabion, want objects) {
	t.Helper()
	var names []string
	for line := range strings.Lines(command(t, g, "object", "ls", "--json")) {
		var o struct{ Name string }
		must(t, json.Unmarshal([]byte(line), &o))
		names = append(names, o.Name)
	}
	if all := slices.Sorted(maps.Keys(want)); !slices.Equal(names, all) {
		t.Fatalf("there are %q, not %q", names, all)
	}
	for name, p := range want {
		if got := command(t, g, "object", "get", name); got != string(p) {
			t.Errorf("%s: %d bytes that differ from the %d that were put", name, len(got), len(p))
		}
	}
}

func noise(r *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// command runs a command of gabion and wants it to succeed.
func command(t *testing.T, g *harness.Gabion, args ...string) string {
	t.Helper()
	out, errs, code := g.Command(args...)
	if code != 0 {
		t.Fatalf("gabion %q: exit code %d\n%s%s", args, code, out, errs)
	}
	return out
}

func script(t *testing.T, line string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "steps")
	must(t, os.WriteFile(file, []byte(line+"\n"), 0o600))
	return file
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWalks scrubs a namespace after one of its disks was damaged, and rewrites it by another preset, while
// gabion runs.
func TestWalks(t *testing.T) {
	g, want := filled(t)
	lose(t, g)
	g.Up()
	walk := func(kind string) {
		t.Helper()
		command(t, g, "namespace", kind, "user")
		for end := time.Now().Add(harness.Patience(2 * time.Minute)); ; time.Sleep(50 * time.Millisecond) {
			var s struct {
				Maintenance struct {
					Walks []struct {
						Namespace, Kind string
						Done, Errors    int64
						Ended           *time.Time
					} `json:"walks"`
				} `json:"maintenance"`
			}
			must(t, json.Unmarshal([]byte(statusOf(t, g)), &s))
			for _, w := range s.Maintenance.Walks {
				if w.Namespace == "user" && w.Kind == kind && w.Ended != nil {
					if w.Done != int64(len(want)) || w.Errors != 0 {
						t.Fatalf("%+v, %d objects", w, len(want))
					}
					return
				}
			}
			if time.Now().After(end) {
				t.Fatalf("the %s does not end: %+v", kind, s.Maintenance)
			}
		}
	}
	walk("scrub")
	command(t, g, "preset", "update", "default", "--policy", "2,2,3,4", "--compression", "none")
	walk("rewrite")
	verify(t, g, want)
	for name, p := range want {
		var o struct{ Stored int64 }
		must(t, json.Unmarshal([]byte(command(t, g, "object", "stat", name, "--json")), &o))
		if o.Stored < 2*int64(len(p)) {
			t.Errorf("%s: %d bytes are stored as %d, not by (2,2)", name, len(p), o.Stored)
		}
	}
}
