package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m, nil) }

const limit = time.Minute // of whatever should take some seconds

// scene is a gabion on the disks of other processes, with a load on it.
type scene struct {
	t        *testing.T
	began    time.Time
	seed     uint64
	identity string
	g        *harness.Gabion
	servers  []*harness.DiskServer
	links    []*harness.SlowLink
	objects  *stock
	files    *stock
	load     *load
	flips    int            // how often bits were flipped
	serve    *harness.Child // `gabion object serve`
}

// say tells what happens: with GABION_DEMO to whoever watches, or else to the log of the test.
func (s *scene) say(format string, args ...any) {
	s.t.Helper()
	line := fmt.Sprintf("%6.1f s  ", time.Since(s.began).Seconds()) + fmt.Sprintf(format, args...)
	if os.Getenv("GABION_DEMO") != "" {
		fmt.Println(line)
		return
	}
	s.t.Log(line)
}

// newScene starts servers with so many disks each, and gabion on all of them.
func newScene(t *testing.T, disks ...int) *scene {
	s := &scene{t: t, began: time.Now(), seed: harness.Seed(t)}
	identity := harness.Identity(t)
	s.identity = identity
	base := t.TempDir()
	o := harness.Options{NoMount: true, Args: []string{"--identity", identity, "--policy", "2,2,3,4", "--policy", "2,1,2,3"}}
	n := 0
	for range disks {
		var dirs []string
		for range disks[len(s.servers)] {
			n++
			dirs = append(dirs, filepath.Join(base, fmt.Sprint("disk", n)))
		}
		d := s.addServer(identity, dirs...)
		for _, p := range d.Places {
			o.Args = append(o.Args, "--asd", p)
		}
	}
	s.g = harness.Start(t, o)
	if st := s.g.Status(); st.Health != "ok" || len(st.Disks) != n {
		t.Fatalf("%+v", st)
	}
	s.objects = newStock("objects", s.serveObjects()+"demo/", true)
	s.files = newStock("files", s.g.DAV, false)
	s.say("gabion up on %d disks in %d processes, policy (k=2, m=2): any two disks may be lost", n, len(disks))
	return s
}

func (s *scene) addServer(identity string, dirs ...string) *harness.DiskServer {
	d := harness.NewDiskServer(s.t, identity, dirs...)
	d.Capacity = "96MiB"
	s.links = append(s.links, d.Slow())
	d.Start()
	s.servers = append(s.servers, d)
	return d
}

var objectsReady = regexp.MustCompile(`(?m)^ready: objects=(\S+)$`)

// serveObjects serves the objects over HTTP and returns the URL.
func (s *scene) serveObjects() string {
	s.serve = harness.Go(s.t, "object serve", exec.Command(harness.Binary(s.t), "object", "serve", "--listen", "127.0.0.1:0", "--data", s.g.Data))
	var m []string
	harness.WaitFor(s.t, limit, "the objects to be served", func() bool {
		m = objectsReady.FindStringSubmatch(s.serve.Output())
		return m != nil
	})
	return m[1]
}

// begin puts so many objects, and half as many files, and starts the load.
func (s *scene) begin(names int) {
	s.t.Helper()
	s.load = &load{over: make(chan struct{})}
	for _, st := range []struct {
		*stock
		names int
	}{{s.objects, names}, {s.files, names / 2}} {
		if err := s.load.fill(st.stock, harness.Rand(s.seed, "fill"), st.names); err != nil {
			s.t.Fatal(err)
		}
		s.load.begin(st.stock, s.seed, st.names)
	}
	s.say("%d objects (%d MiB) and %d files (%d MiB) put; from now on clients put, read and delete them all the time",
		names, s.objects.size()>>20, names/2, s.files.size()>>20)
}

// wait waits until the status is as cond wants it, and the load has not failed.
func (s *scene) wait(what string, cond func(harness.Status) bool) {
	s.t.Helper()
	s.g.WaitStatus(limit, what, func(st harness.Status) bool {
		if errs := s.load.failed(); len(errs) > 0 {
			s.t.Fatalf("while waiting for %s: %v", what, errs)
		}
		if st.Health == "lost" {
			s.t.Fatalf("while waiting for %s: %q", what, st.Reasons)
		}
		return cond(st)
	})
}

// disk returns what the status says of the disk at a place.
func disk(st harness.Status, place string) harness.Disk {
	for _, d := range st.Disks {
		if d.Dir == place {
			return d
		}
	}
	return harness.Disk{}
}

// out waits until a disk is not used any more.
func (s *scene) out(place string) {
	s.t.Helper()
	s.wait("disk "+place+" to be out of use", func(st harness.Status) bool {
		state := disk(st, place).State
		return state == "missing" || state == "failed" || state == "damaged"
	})
}

// whole waits for full redundancy: that no object lacks anything.
func (s *scene) whole() {
	s.t.Helper()
	reads := s.load.reads.Load()
	s.wait("full redundancy", func(st harness.Status) bool { return len(st.Objects.Degraded) == 0 && st.Maintenance.Left == 0 })
	s.say("redundancy is full again, nobody was asked; %d reads meanwhile, all of them right", s.load.reads.Load()-reads)
}

func (s *scene) kill(i int) {
	s.servers[i].Kill()
	s.say("kill -9 of process %d, with %d disk(s)", i+1, len(s.servers[i].Places))
}

// wipe removes all that is on a disk while it is used.
func (s *scene) wipe(i, j int) {
	s.t.Helper()
	dir := s.servers[i].Dirs[j]
	list, err := os.ReadDir(dir)
	for _, e := range list {
		if err == nil {
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.say("rm -rf of everything on disk %s, of process %d", filepath.Base(dir), i+1)
}

const slowBy = 200 * time.Millisecond

func (s *scene) slow(i int) {
	s.links[i].Delay(slowBy)
	s.say("process %d answers %v later from now on", i+1, slowBy)
	s.wait("the disk to be found slow", func(st harness.Status) bool { return disk(st, s.servers[i].Places[0]).State == "slow" })
	s.say("its disk gets nothing new while it is slow")
}

func (s *scene) fast(i int) {
	s.links[i].Delay(0)
	s.say("process %d is fast again", i+1)
	s.wait("the disk to be fit again", func(st harness.Status) bool { return disk(st, s.servers[i].Places[0]).State == "ok" })
	s.say("its disk was probed, and is used again")
}

// flip changes bits in what a disk holds.
func (s *scene) flip(i, j, n int) {
	s.t.Helper()
	r := harness.Rand(s.seed, fmt.Sprint("flip", s.flips))
	s.flips++
	segments, err := filepath.Glob(filepath.Join(s.servers[i].Dirs[j], "segments", "*.seg"))
	if err != nil || len(segments) == 0 {
		s.t.Fatal("no segments ", err)
	}
	done := 0
	for range 200 * n {
		if done == n {
			break
		}
		f, err := os.OpenFile(segments[r.IntN(len(segments))], os.O_RDWR, 0)
		if os.IsNotExist(err) {
			continue // compacted away
		}
		if err != nil {
			s.t.Fatal(err)
		}
		st, err := f.Stat()
		var b [1]byte
		if err == nil && st.Size() > 0 {
			at := r.Int64N(st.Size())
			if _, err = f.ReadAt(b[:], at); err == nil && b[0] != 0 { // not where nothing was written yet
				b[0] ^= 1 << r.IntN(8)
				_, err = f.WriteAt(b[:], at)
				done++
			}
		}
		f.Close()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.say("%d bits flipped in what disk %s of process %d holds", done, filepath.Base(s.servers[i].Dirs[j]), i+1)
}

func (s *scene) command(args ...string) string {
	s.t.Helper()
	out, errs, code := s.g.Command(args...)
	if code != 0 {
		s.t.Fatalf("gabion %s: %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// scrub has everything verified, and waits for what is bad to be healed.
func (s *scene) scrub(namespaces ...string) {
	s.t.Helper()
	before, _ := s.g.Peek()
	for _, ns := range namespaces {
		s.command("namespace", "scrub", ns)
	}
	s.wait("damage to be found", func(st harness.Status) bool { return st.Maintenance.Bad > before.Maintenance.Bad })
	s.wait("the scrub to end", func(st harness.Status) bool {
		for _, w := range st.Maintenance.Walks {
			if w.Ended == "" {
				return false
			}
		}
		return st.Maintenance.Left == 0 && len(st.Objects.Degraded) == 0
	})
	after, _ := s.g.Peek()
	s.say("gabion namespace scrub: %d damaged fragments found and made anew so far", after.Maintenance.Bad)
}

// add gives gabion another disk, and waits until it is about as full as the others.
func (s *scene) add(place string) {
	s.t.Helper()
	before, _ := s.g.Peek()
	s.command("asd", "add", place)
	s.say("gabion asd add %s: a new disk, empty", place)
	s.wait("the new disk to be filled", func(st harness.Status) bool {
		d := disk(st, place)
		var used, total int64
		for _, o := range st.Disks {
			if o.State == "ok" && o.Dir != place {
				used, total = used+o.Used, total+o.Total
			}
		}
		return st.Maintenance.Moved > before.Maintenance.Moved && d.Total > 0 && 2*float64(d.Used)/float64(d.Total) > float64(used)/float64(total)
	})
	st, _ := s.g.Peek()
	s.say("it was filled: %d fragments were moved to it, %d MiB", st.Maintenance.Moved-before.Maintenance.Moved, disk(st, place).Used>>20)
}

// start starts a server again.
func (s *scene) start(i int) {
	s.t.Helper()
	s.servers[i].Start()
	s.say("process %d runs again", i+1)
}

// back waits until the disks of a server that was started again are used, but for one that was wiped: it is a new one.
func (s *scene) back(i int) {
	s.t.Helper()
	for j, p := range s.servers[i].Places {
		if st, _ := s.g.Peek(); disk(st, p).ID == "" {
			continue // new
		}
		s.wait("disk "+p+" to be back", func(st harness.Status) bool { return disk(st, p).State == "ok" })
		s.say("disk %s of process %d is back, with all that it has", filepath.Base(s.servers[i].Dirs[j]), i+1)
	}
}
