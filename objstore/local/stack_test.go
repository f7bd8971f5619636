package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/stacked"
)

// stack is a global backend over local ones.
type stack struct {
	lower map[string]*Backend
	dirs  map[string][]string
	o     Options
}

var local21 = []objstore.Policy{{K: 2, M: 1, C: 3, X: 3}}

// newStack opens local backends of so many disks each, and names them a, b, c and so on.
func newStack(t *testing.T, backends, disks int, policies []objstore.Policy) *stack {
	t.Helper()
	s := &stack{lower: make(map[string]*Backend), dirs: make(map[string][]string)}
	for i := range backends {
		name := string(rune('a' + i))
		s.dirs[name] = dirs(t, disks)
		o := options(memkv.New(), s.dirs[name])
		o.Cluster, o.Policies, o.Compression = asd.ID{9, byte(i)}, policies, objstore.CompressNone
		s.lower[name] = open(t, o)
	}
	s.o = options(memkv.New(), nil)
	s.o.Policies = []objstore.Policy{{K: 2, M: 1, C: 3, X: 1}} // no two fragments of a chunk in one backend
	s.o.Lower = func(ctx context.Context, a stacked.Address) (stacked.Lower, error) {
		b := s.lower[a.Backend]
		if b == nil {
			return stacked.Lower{}, &asd.OpenError{Dir: a.String(), Err: asd.ErrMissing}
		}
		return b.Lower(ctx, a.Backend, a.Namespace)
	}
	for i := range min(backends, 3) {
		s.o.Dirs = append(s.o.Dirs, fmt.Sprintf("backend://%c/global", 'a'+i))
	}
	return s
}

// lose takes away the folders of disks of a backend, and waits until it knows.
func (s *stack) lose(t *testing.T, name string, disks ...int) {
	t.Helper()
	for _, i := range disks {
		if err := os.Rename(s.dirs[name][i], s.dirs[name][i]+"-lost"); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the disk is missing", func() bool { return s.lower[name].Disks()[i].State == manager.Missing })
	}
}

// healed waits until every object of a backend has its full redundancy again.
func healed(t *testing.T, b *Backend) {
	t.Helper()
	waitFor(t, "full redundancy", func() bool { return len(poor(t, b)) == 0 })
}

// poor returns what lacks redundancy, or is worse, beside the disks that are missing.
func poor(t *testing.T, b *Backend) []maint.Problem {
	t.Helper()
	return slices.DeleteFunc(problems(t, b, maint.Warning), func(p maint.Problem) bool { return p.Kind == "disk" })
}

// TestStackHealsBelow loses a disk of a local backend, which has parity: it heals there, and the global backend, which reads
// on, has nothing to do.
func TestStackHealsBelow(t *testing.T) {
	s := newStack(t, 3, 4, local21)
	g := open(t, s.o)
	ns := namespace(t, g)
	all := objects{}
	all.fill(t, ns, 8)
	s.lose(t, "a", 1)
	all.check(t, ns)
	if p := problems(t, g, maint.Warning); len(p) > 0 {
		t.Fatalf("%+v", p)
	}
	healed(t, s.lower["a"])
	for _, b := range s.lower {
		all.fill(t, ns, 1)
		u, err := b.namespaces["global"].NSM().Counters(context.Background())
		if err != nil || len(u) != 1 || u[0].Spare != 1 {
			t.Fatalf("%+v, %v: not every object below can lose a fragment", u, err)
		}
	}
	s.lose(t, "b", 0)
	s.lose(t, "c", 3)
	all.check(t, ns)
	for _, d := range g.Disks() {
		if d.State != manager.Up {
			t.Fatalf("%+v", d)
		}
	}
}

// TestStackHealsAbove loses a disk of a local backend without parity: its fragments are damaged for the global one, which
// scrubs and rebuilds them there. Then it loses that backend, and rebuilds on a new one.
func TestStackHealsAbove(t *testing.T) {
	ctx := context.Background()
	s := newStack(t, 4, 2, []objstore.Policy{{K: 1, M: 0, C: 1, X: 1}})
	g := open(t, s.o)
	ns := namespace(t, g)
	all := objects{}
	all.fill(t, ns, 24)

	s.lose(t, "a", 0)
	if len(poor(t, g)) == 0 {
		t.Fatal("nothing was lost")
	}
	all.check(t, ns)
	if err := g.Scrub(ctx); err != nil {
		t.Fatal(err)
	}
	healed(t, g)
	waitFor(t, "the rest of the local backend stays in use", func() bool {
		d := g.Disks()[0]
		return d.State == manager.Up && d.Stat.Fragments > 0
	})

	s.lose(t, "a", 1) // all of it
	waitFor(t, "the disk of the global backend is missing", func() bool { return g.Disks()[0].State == manager.Missing })
	all.check(t, ns)
	added, err := g.AddDisk(ctx, "backend://d/global")
	if err != nil || added.Node != "d" {
		t.Fatalf("%+v, %v", added, err)
	}
	healed(t, g)
	if err := g.PurgeDisk(ctx, 1, false); err != nil {
		t.Fatal(err)
	}
	all.fill(t, ns, 3)
	s.lose(t, "b", 0, 1) // and one more
	all.check(t, ns)

	// A namespace that is a disk of one cluster is not one of another.
	o := s.o
	o.KV, o.Cluster = memkv.New(), asd.ID{7}
	if _, err := Open(ctx, o); !errors.Is(err, asd.ErrClaimed) {
		t.Fatal(err)
	}
}

// TestStackRecovers loses the key-value store of the global backend: its namespaces come back from the objects below.
func TestStackRecovers(t *testing.T) {
	ctx := context.Background()
	s := newStack(t, 3, 3, local21)
	g := open(t, s.o)
	all := objects{}
	all.fill(t, namespace(t, g), 10)
	if err := namespace(t, g).Delete(ctx, "o3"); err != nil {
		t.Fatal(err)
	}
	delete(all, "o3")
	if r, ok := namespace(t, g).(objstore.Reclaimer); !ok || r.Reclaim(ctx) != nil {
		t.Fatal("not reclaimed")
	}
	waitFor(t, "a disk says what the namespace is called", func() bool {
		found, err := g.Found(ctx)
		return err == nil && len(found) == 1 && found[0].Name == "ns"
	})
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	s.o.KV = memkv.New()
	g = open(t, s.o)
	r, err := g.Recover(ctx, RecoverOptions{})
	if err != nil || len(r) != 1 || r[0].Adopted != int64(len(all)) || r[0].Incomplete != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	all.check(t, namespace(t, g))
	healed(t, g)
	if _, err := namespace(t, g).Stat(ctx, "o3"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
}
