package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
)

// kept is a store that outlives the process that closes it.
type kept struct{ *memkv.Store }

func (kept) Close() error { return nil }

// shelf has the stores of namespace managers by name.
type shelf struct {
	mu     sync.Mutex
	stores map[string]*memkv.Store
}

func (s *shelf) open(_ context.Context, name, _ string) (kv.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stores == nil {
		s.stores = make(map[string]*memkv.Store)
	}
	if s.stores[name] == nil {
		s.stores[name] = memkv.New()
	}
	return kept{s.stores[name]}, nil
}

func hostOf(t testing.TB, b *Backend, name string) string {
	t.Helper()
	all, err := b.Namespaces(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == name {
			return s.Host
		}
	}
	return ""
}

// held counts the fragments of a namespace on all disks.
func held(t testing.TB, b *Backend, ns uint32) (n int) {
	t.Helper()
	for _, d := range b.disks.Disks() {
		err := d.Do(context.Background(), func(dev objstore.Disk) error {
			return dev.Range(context.Background(), objstore.FragmentKey{Namespace: ns}, objstore.FragmentKey{Namespace: ns + 1}, func(objstore.FragmentInfo) bool {
				n++
				return true
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestManagers spreads namespaces over namespace managers with stores of their own, and finds them there again.
func TestManagers(t *testing.T) {
	ctx := context.Background()
	store, others := memkv.New(), &shelf{}
	o := options(store, dirs(t, 4))
	b := open(t, o)
	first := objects{}
	first.fill(t, namespace(t, b), 3)
	if err := b.AddManager(ctx, "a", ""); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	_ = b.Close()

	o.Stores = others.open
	b = open(t, o)
	for range 2 { // again is fine
		for _, name := range []string{"a", "b"} {
			if err := b.AddManager(ctx, name, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := map[string]objects{"ns": first}
	for _, name := range []string{"x", "y", "z"} {
		ns, err := b.Namespace(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = objects{}
		all[name].fill(t, ns, 4)
	}
	hosts := map[string]string{}
	count := map[string]int{}
	for name := range all {
		hosts[name] = hostOf(t, b, name)
		count[hosts[name]]++
	}
	if hosts["ns"] != manager.MainHost || count["a"] == 0 || count["b"] == 0 {
		t.Fatal(hosts)
	}
	if err := b.RemoveManager(ctx, "a"); err == nil {
		t.Fatal("a namespace manager was removed with namespaces in it")
	}
	_ = b.Close()

	b = open(t, o)
	for name, objects := range all {
		ns, err := b.Existing(name)
		if err != nil || hostOf(t, b, name) != hosts[name] {
			t.Fatal(err)
		}
		objects.check(t, ns)
		if err := b.MoveNamespace(ctx, name, "b", nil); err != nil {
			t.Fatal(err)
		}
		objects.check(t, ns)
		objects.fill(t, ns, 2)
		if at := hostOf(t, b, name); at != "b" {
			t.Fatal(at)
		}
	}
	if err := b.RemoveManager(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := b.MoveNamespace(ctx, "x", "a", nil); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	if p := problems(t, b, maint.Note); len(p) > 0 {
		t.Fatal(p)
	}

	// What is deleted is gone from the stores and the disks, and its name is free.
	ns, err := b.Existing("x")
	if err != nil {
		t.Fatal(err)
	}
	number := ns.(*client.Namespace).NSM().Number()
	if held(t, b, number) == 0 {
		t.Fatal("the disks hold nothing")
	}
	if err := b.DeleteNamespace(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	if n := held(t, b, number); n > 0 {
		t.Fatalf("%d fragments are left", n)
	}
	if _, err := ns.Stat(ctx, "o1"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := ns.Put(ctx, "o1", noise(10)); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal("put into a namespace that was deleted:", err)
	}
	if err := b.DeleteNamespace(ctx, "x"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	again, err := b.Namespace(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	all["x"] = objects{}
	all["x"].fill(t, again, 3)
	_ = b.Close()
	b = open(t, o)
	for name, objects := range all {
		ns, err := b.Existing(name)
		if err != nil {
			t.Fatal(err)
		}
		objects.check(t, ns)
	}
}

// TestLostManager takes away the store of a namespace manager, and recovers what was in it from the disks.
func TestLostManager(t *testing.T) {
	ctx := context.Background()
	others := &shelf{}
	o := options(memkv.New(), dirs(t, 4))
	o.Stores = others.open
	b := open(t, o)
	all := objects{}
	all.fill(t, namespace(t, b), 5)
	if err := b.AddManager(ctx, "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := b.MoveNamespace(ctx, "ns", "a", nil); err != nil {
		t.Fatal(err)
	}
	all.fill(t, namespace(t, b), 5)
	_ = b.Close()
	others.stores["a"] = memkv.New()
	if _, err := Open(ctx, o); err == nil {
		t.Fatal("it opened without what it knew")
	}
	o.Anew, o.NoMaint = true, true
	b = open(t, o)
	if _, err := b.Recover(ctx, RecoverOptions{}); err != nil {
		t.Fatal(err)
	}
	all.check(t, namespace(t, b))
	_ = b.Close()
	o.Anew, o.NoMaint = false, false
	b = open(t, o)
	all.check(t, namespace(t, b))
	if at := hostOf(t, b, "ns"); at != "a" {
		t.Fatal(at)
	}
}

// TestNamespaceMovesInUse moves a namespace around under writers, readers and listings, each of which sees at every
// moment what it must, while a disk comes and goes and garbage is collected.
func TestNamespaceMovesInUse(t *testing.T) {
	ctx := context.Background()
	o := options(memkv.New(), dirs(t, 5))
	o.Stores = (&shelf{}).open
	o.Policies = []objstore.Policy{{K: 2, M: 2, C: 3, X: 4}}
	b := open(t, o)
	ns := namespace(t, b)
	for _, name := range []string{"a", "b"} {
		if err := b.AddManager(ctx, name, ""); err != nil {
			t.Fatal(err)
		}
	}
	const workers, names = 4, 12
	over := make(chan struct{})
	var wg sync.WaitGroup
	var users [workers]user
	for i := range users {
		u := &users[i]
		*u = user{t: t, ns: ns, prefix: fmt.Sprintf("w%d/", i), has: map[string][]byte{}, rng: rand.New(rand.NewPCG(uint64(i), 7))}
		wg.Go(func() {
			for more := true; more && !t.Failed(); {
				u.step(names)
				select {
				case <-over:
					more = false
				default:
				}
			}
		})
	}
	var highest uint64
	for i := range 24 {
		to := []string{"a", "b", manager.MainHost}[i%3]
		if err := b.MoveNamespace(ctx, "ns", to, nil); err != nil {
			t.Error(err)
			break
		}
		info, err := ns.Put(ctx, fmt.Sprint("mark", i), noise(100))
		if err != nil || info.ID <= highest {
			t.Errorf("upload %d after %d: %v", info.ID, highest, err)
		}
		highest = info.ID
		if i%8 == 1 {
			if _, err := b.Collect(ctx); err != nil {
				t.Error(err)
			}
		}
	}
	close(over)
	wg.Wait()
	steps := 0
	for i := range users {
		users[i].check()
		steps += users[i].steps
	}
	if err := b.Repair(ctx); err != nil {
		t.Error(err)
	}
	if p := problems(t, b, maint.Note); len(p) > 0 {
		t.Error(p)
	}
	t.Logf("%d steps", steps)
}

// user works with objects of its own, and knows what each read must give.
type user struct {
	t      *testing.T
	ns     objstore.Namespace
	prefix string
	has    map[string][]byte
	rng    *rand.Rand
	steps  int
}

func (u *user) step(names int) {
	ctx := context.Background()
	u.steps++
	name := fmt.Sprint(u.prefix, u.rng.IntN(names))
	want := u.has[name]
	switch u.rng.IntN(4) {
	case 0:
		p := noise(1 + u.rng.IntN(20_000))
		var err error
		if u.rng.IntN(2) == 0 {
			_, err = u.ns.Put(ctx, name, p)
		} else {
			_, err = u.ns.PutFrom(ctx, name, io.MultiReader(bytes.NewReader(p)), int64(len(p)))
		}
		switch {
		case want == nil && err == nil:
			u.has[name] = p
		case want == nil || !errors.Is(err, objstore.ErrExists):
			u.t.Errorf("put %s, there %v: %v", name, want != nil, err)
		}
	case 1:
		if err := u.ns.Delete(ctx, name); err != nil {
			u.t.Errorf("delete %s: %v", name, err)
		}
		delete(u.has, name)
	case 2:
		u.read(name, want)
	default:
		u.list()
	}
}

func (u *user) read(name string, want []byte) {
	got := make([]byte, len(want))
	err := u.ns.ReadAt(context.Background(), name, 0, got)
	if want == nil && !errors.Is(err, objstore.ErrNotFound) || want != nil && (err != nil || !bytes.Equal(got, want)) {
		u.t.Errorf("read %s of %d bytes: %v, equal %v", name, len(want), err, bytes.Equal(got, want))
	}
}

func (u *user) list() {
	var got []string
	err := u.ns.List(context.Background(), u.prefix, u.prefix+"\xff", func(i objstore.Info) bool {
		got = append(got, i.Name)
		return true
	})
	if want := slices.Sorted(maps.Keys(u.has)); err != nil || !slices.Equal(got, want) {
		u.t.Errorf("list %s: %q, %v; want %q", u.prefix, got, err, want)
	}
}

func (u *user) check() {
	for name, want := range u.has {
		u.read(name, want)
	}
	u.list()
}
