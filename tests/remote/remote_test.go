package remote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m, nil) }

const limit = time.Minute // of whatever should take a moment

// files are read and written over WebDAV, while disks come and go.
type files struct {
	url string

	mu      sync.Mutex
	content map[string][]byte
	errs    []error
}

func (f *files) put(name string, p []byte) error {
	r, err := http.NewRequest(http.MethodPut, f.url+name, bytes.NewReader(p))
	if err != nil {
		return err
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode/100 != 2 {
		return fmt.Errorf("put %s: %s", name, a.Status)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.content[name] = p
	return nil
}

func (f *files) check(name string) error {
	a, err := http.Get(f.url + name)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	got, err := io.ReadAll(a.Body)
	f.mu.Lock()
	want := f.content[name]
	f.mu.Unlock()
	if err != nil || a.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		return fmt.Errorf("get %s: %s, %w, %d bytes of %d, equal %v", name, a.Status, err, len(got), len(want), bytes.Equal(got, want))
	}
	return nil
}

func (f *files) checkAll(t testing.TB) {
	t.Helper()
	f.mu.Lock()
	var names []string
	for n := range f.content {
		names = append(names, n)
	}
	f.mu.Unlock()
	for _, n := range names {
		if err := f.check(n); err != nil {
			t.Fatal(err)
		}
	}
}

// load writes and reads until the returned function is called, which wants all of it to have gone well.
func (f *files) load(t testing.TB, seed uint64) (stop func()) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 2 {
		r := harness.Rand(seed, fmt.Sprint("load", w))
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				name := fmt.Sprintf("w%d-%d", w, i%20)
				err := f.put(name, bytesOf(r, 1+r.IntN(400_000)))
				if err == nil {
					err = f.check(fmt.Sprintf("w%d-%d", w, r.IntN(min(i, 19)+1)))
				}
				if err != nil {
					f.mu.Lock()
					f.errs = append(f.errs, err)
					f.mu.Unlock()
					return
				}
			}
		})
	}
	return func() {
		t.Helper()
		close(over)
		wg.Wait()
		if len(f.errs) > 0 {
			t.Fatal(f.errs)
		}
	}
}

func bytesOf(r *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// TestKilledServer runs a filesystem on six disks in four processes under load, kills one with two of the disks,
// starts it again, and kills another one then.
func TestKilledServer(t *testing.T) {
	seed := harness.Seed(t)
	identity := harness.Identity(t)
	base := t.TempDir()
	dir := func(n int) string { return filepath.Join(base, fmt.Sprint("disk", n)) }
	servers := []*harness.DiskServer{
		harness.ServeDisks(t, identity, dir(0), dir(1)), harness.ServeDisks(t, identity, dir(2), dir(3)), harness.ServeDisks(t, identity, dir(4)), harness.ServeDisks(t, identity, dir(5)),
	}
	o := harness.Options{NoMount: true, Args: []string{"--identity", identity, "--asd", "asd://" + servers[0].Address}}
	for _, s := range servers[1:] {
		for _, p := range s.Places {
			o.Args = append(o.Args, "--asd", p)
		}
	}
	g := harness.Start(t, o)
	if s := g.Status(); s.Health != "ok" || len(s.Disks) != 6 {
		t.Fatalf("%+v", s)
	}
	f := &files{url: g.DAV, content: make(map[string][]byte)}
	r := harness.Rand(seed, "files")
	for i := range 10 {
		if err := f.put(fmt.Sprint("f", i), bytesOf(r, 1+r.IntN(2_000_000))); err != nil {
			t.Fatal(err)
		}
	}
	up := func(want int) func() bool {
		return func() bool {
			n := 0
			for _, d := range g.Status().Disks {
				if d.State == "ok" || d.State == "slow" {
					n++
				}
			}
			return n == want
		}
	}
	used := func() (sum int64) {
		for _, d := range g.Status().Disks {
			if strings.HasPrefix(d.Dir, "asd://"+servers[0].Address) {
				sum += d.Used
			}
		}
		return sum
	}

	stop := f.load(t, seed)
	servers[0].Kill()
	f.checkAll(t)
	harness.WaitFor(t, limit, "two disks to be out of use", up(4))
	f.checkAll(t)
	servers[0].Start()
	harness.WaitFor(t, limit, "the disks to be back", up(6))
	before := used()
	harness.WaitFor(t, limit, "the disks to be written to", func() bool { return used() != before })
	stop()
	f.checkAll(t)
	g.WaitHealth("ok", limit)

	servers[1].Kill()
	harness.WaitFor(t, limit, "two other disks to be out of use", up(4))
	f.checkAll(t)
	servers[1].Start()
	harness.WaitFor(t, limit, "those disks to be back", up(6))
	// The data directory remembers where the disks are, and what to show to them.
	g.Stop()
	g.SetArgs()
	g.Up()
	f.url = g.DAV
	f.checkAll(t)
	g.WaitHealth("ok", limit)
	g.Clean()
	g.Stop()
	for _, s := range servers {
		s.Stop()
	}
}

// TestClaims gives disks to one filesystem, has another one refused, and releases them.
func TestClaims(t *testing.T) {
	identity := harness.Identity(t)
	base := t.TempDir()
	s := harness.ServeDisks(t, identity, filepath.Join(base, "a"), filepath.Join(base, "b"), filepath.Join(base, "c"))
	server := "asd://" + s.Address
	show := func() (list []struct{ Place, ASD, Owner, State string }) {
		t.Helper()
		if err := json.Unmarshal([]byte(harness.Must(t, "asd", "show", server, "--identity", identity, "--json")), &list); err != nil {
			t.Fatal(err)
		}
		return list
	}
	if l := show(); len(l) != 3 || l[0].State != "unclaimed" || l[0].Owner != "" || l[0].Place != s.Places[0] {
		t.Fatal(l)
	}
	g := harness.Start(t, harness.Options{NoMount: true, ASDs: 1})
	harness.Must(t, "asd", "claim", s.Places[0], "--data", g.Data, "--identity", identity)
	owner := show()[0].Owner
	if l := show(); len(owner) != 32 || l[0].State != "ready" || l[1].State != "unclaimed" {
		t.Fatal(l)
	}
	other := strings.Repeat("9", 32)
	for _, args := range [][]string{
		{"claim", s.Places[0], "--owner", other}, {"claim", s.Places[0], "--owner", owner}, {"release", s.Places[0], "--owner", other, "--wipe"},
	} {
		if out, ok := harness.Run(t, append(append([]string{"asd"}, args...), "--identity", identity)...); ok || !strings.Contains(out, owner) {
			t.Errorf("%v: %s", args, out)
		}
	}
	// A filesystem that cannot be made gives back what it has claimed.
	data := filepath.Join(base, "data")
	out, ok := harness.Run(t, "up", "--data", data, "--dav", "127.0.0.1:0", "--identity", identity, "--asd", s.Places[1], "--asd", s.Places[0])
	if ok || !strings.Contains(out, owner) {
		t.Errorf("up on another's disk: %s", out)
	}
	if l := show(); l[1].State != "unclaimed" {
		t.Fatal(l)
	}
	harness.Must(t, "asd", "release", s.Places[0], "--data", g.Data, "--identity", identity)
	if l := show(); l[0].State != "unclaimed" || l[0].Place == s.Places[0] {
		t.Fatal(l)
	}
}
