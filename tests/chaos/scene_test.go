package chaos

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/tests/harness"
)

// TestChaos is the story that `contrib/demo/chaos.sh` shows.
func TestChaos(t *testing.T) {
	s := newScene(t, 2, 2, 1, 1)
	s.begin(harness.Scale(80, 300))

	s.kill(2)
	s.wipe(0, 1)
	s.out(s.servers[2].Places[0])
	wiped := s.servers[0].Places[1]
	s.out(wiped)
	s.say("both disks are out of use; what was on them is made anew if they are not back in ten seconds")
	s.whole()
	s.start(2) // it is looked for now and then, so it may take a while

	s.slow(3)
	s.flip(1, 0, 300)
	s.fast(3)
	s.scrub("demo", "fs")

	seventh := s.addServer(s.identity, filepath.Join(t.TempDir(), "disk7"))
	s.add(seventh.Places[0])

	s.back(2)
	s.servers[0].Stop()
	s.start(0)
	s.back(0)
	st, _ := s.g.Peek()
	s.command("asd", "purge", disk(st, wiped).ID)
	s.command("asd", "add", s.servers[0].Places[1])
	s.say("the wiped disk is replaced by a new one in its folder")
	r := harness.Rand(s.seed, "rounds")
	for range harness.Scale(0, 8) {
		s.round(r)
	}
	s.wait("all to be well", func(st harness.Status) bool { return st.Health == "ok" })
	s.load.end(t)
	s.say("gabion status: ok; %d reads and %d writes in all", s.load.reads.Load(), s.load.writes.Load())
	s.say("%d objects and %d files read once more: all right", s.objects.checkAll(t), s.files.checkAll(t))
	// What is deleted may come back in a recovery as long as its fragments are on the disks.
	s.wait("what was deleted to be gone from the disks", func(st harness.Status) bool { return st.Maintenance.Obsolete == 0 })
	s.g.Clean()
	s.say("gabion fsck --data-checksums: clean")
	s.recover()
}

// round loses any of the processes for longer than they are waited for, and then damages any disk.
func (s *scene) round(r *rand.Rand) {
	s.t.Helper()
	i := r.IntN(len(s.servers))
	s.kill(i)
	for _, p := range s.servers[i].Places {
		s.out(p)
	}
	s.whole()
	s.start(i)
	s.back(i)
	i = r.IntN(len(s.servers))
	s.flip(i, r.IntN(len(s.servers[i].Dirs)), 1+r.IntN(2000))
	s.scrub("demo", "fs")
}

// recover loses the key-value store, with the manifests of all objects, and gets them back from the disks.
func (s *scene) recover() {
	s.t.Helper()
	s.g.Stop()
	if err := os.RemoveAll(filepath.Join(s.g.Data, "kv")); err != nil {
		s.t.Fatal(err)
	}
	s.say("the key-value store is lost: rm -rf %s", filepath.Join(s.g.Data, "kv"))
	args := []string{"namespace", "recover"}
	for _, d := range s.servers {
		for _, p := range d.Places {
			args = append(args, "--asd", p)
		}
	}
	out, errs, code := s.g.Command(args...)
	if code != 0 && code != 3 {
		s.t.Fatalf("gabion namespace recover: %d\n%s%s", code, out, errs)
	}
	for line := range strings.Lines(out) {
		s.say("gabion namespace recover: %s", strings.TrimSpace(line))
	}
	s.g.SetArgs()
	s.g.Up()
	s.objects.url = s.serveObjects() + "demo/"
	s.say("%d objects read after that, by their names: all right", s.objects.checkAll(s.t))
	s.g.WaitHealth("ok", limit)
}
