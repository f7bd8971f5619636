package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

var errCut = errors.New("the process is dead")

// cutter counts what is written to all stores, and lets nothing through after some of it.
type cutter struct {
	left   int // -1: never cut
	dead   bool
	hook   func() // between every other two updates
	seen   int
	inside bool
}

// cutStore is a store that a process uses until it is cut off.
type cutStore struct {
	*memkv.Store
	c *cutter
}

func (s *cutStore) step() error {
	if s.c.seen++; s.c.hook != nil && !s.c.inside && s.c.seen%2 == 0 {
		s.c.inside = true
		s.c.hook()
		s.c.inside = false
	}
	if s.c.dead = s.c.dead || s.c.left == 0; s.c.dead {
		return errCut
	}
	s.c.left--
	return nil
}

func (s *cutStore) Update(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Store.Update(ctx, c, fn)
}

func (s *cutStore) Sync(ctx context.Context) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Store.Sync(ctx)
}

func (s *cutStore) View(ctx context.Context, l kv.Level, fn func(kv.Reader) error) error {
	if s.c.dead {
		return errCut
	}
	return s.Store.View(ctx, l, fn)
}

// hostWorld is a backend manager and three namespace managers whose stores outlive the process.
type hostWorld struct {
	t      *testing.T
	stores map[string]*memkv.Store
	cut    *cutter
	hosts  map[string]*nsm.Host
	m      *Manager

	user  *nsm.Manager // of namespace "n"
	names map[string]seen
	past  []string // what it held after each change, in turn
	count int
}

// seen is an object: the upload, and the version of its second fragment.
type seen struct {
	id      uint64
	version uint32
}

func (s seen) String() string { return fmt.Sprint(s.id, ".", s.version) }

func newHostWorld(t *testing.T) *hostWorld {
	w := &hostWorld{t: t, stores: map[string]*memkv.Store{}, names: map[string]seen{}}
	for _, name := range []string{MainHost, "a", "b"} {
		w.stores[name] = memkv.New(memkv.Rerun())
	}
	w.open(-1)
	w.past = []string{w.model()}
	return w
}

// open begins a process that is cut off after so many updates.
func (w *hostWorld) open(left int) {
	w.t.Helper()
	w.cut = &cutter{left: -1}
	w.hosts = map[string]*nsm.Host{}
	stores := map[string]kv.Store{}
	for name, s := range w.stores {
		stores[name] = &cutStore{s, w.cut}
		w.hosts[name] = nsm.NewHost(stores[name])
	}
	var err error
	if w.m, err = Open(context.Background(), stores[MainHost], nil); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{MainHost, "a", "b"} {
		if _, err := w.m.AddHost(context.Background(), name, ""); err != nil {
			w.t.Fatal(err)
		}
		if err := w.m.Join(context.Background(), name, w.hosts[name], false); err != nil {
			w.t.Fatal(name, err)
		}
	}
	w.user = nil
	w.cut.left = left
}

// loss says which stores lose in a crash what is not durable.
type loss struct{ from, others bool }

// crash ends the process.
func (w *hostWorld) crash(l loss) {
	r, _ := (&Manager{store: w.stores[MainHost]}).Existing(context.Background(), "n")
	for name, s := range w.stores {
		keep := s.Unsynced()
		if l.from && name == r.Host || l.others && name != r.Host {
			keep = 0
		}
		w.stores[name] = s.Crash(keep)
	}
}

func (w *hostWorld) host(name string) (*nsm.Host, error) {
	if h := w.hosts[name]; h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("no host %q", name)
}

func (w *hostWorld) tend() error {
	return w.m.Tend(context.Background(), TendOptions{Host: w.host, Batch: 5})
}

func (w *hostWorld) fatal(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

type anyDisk struct{}

func (anyDisk) Node(objstore.DiskID) (string, bool) { return "node", true }

var errFrozen = errors.New("a writer would wait now")

// use opens namespace "n", as a process does that is never cut off.
func (w *hostWorld) use() {
	w.t.Helper()
	r, err := w.m.Existing(context.Background(), "n")
	w.fatal(err)
	w.user = nsm.Open(w.stores[r.Host], nsm.Options{Name: "n", Number: r.Number, Disks: anyDisk{},
		Policies: []objstore.Policy{{K: 1, M: 1, C: 1, X: 2}},
		Home: func(ctx context.Context) (kv.Store, error) {
			b, err := (&Manager{store: w.stores[MainHost]}).HostOf(ctx, "n", r.Number)
			if err != nil {
				return nil, err
			}
			switch state, err := nsm.NewHost(w.stores[b]).State(ctx, r.Number); {
			case err != nil:
				return nil, err
			case state != nsm.Settled && state != nsm.Moving:
				return nil, errFrozen
			}
			return w.stores[b], nil
		}})
}

// change puts, replaces fragments of, and deletes objects, in turn, and notes what there is then.
func (w *hostWorld) change() {
	w.t.Helper()
	ctx := context.Background()
	w.count++
	name := fmt.Sprint("o", w.count%5)
	is, there := w.names[name]
	var err error
	switch {
	case !there:
		var u nsm.Upload
		if u, err = w.user.Begin(ctx); err != nil {
			break
		}
		for n, old := range w.names {
			if old.id >= u.ID {
				w.t.Fatalf("upload %d begins after %v of %s", u.ID, old, n)
			}
		}
		m := &manifest.Manifest{ID: u.ID, Size: 10, Chunks: []manifest.Chunk{{K: 1, M: 1, Size: 10, Fragments: []manifest.Fragment{{Disk: 1}, {Disk: objstore.DiskID(2 * (w.count % 2))}}}}}
		err = w.user.Register(ctx, u, name, m)
		w.user.End(u)
		is = seen{id: u.ID}
	case w.count%2 == 0:
		_, err = w.user.Delete(ctx, name)
		if is = (seen{}); err == nil {
			var queue []nsm.Obsolete
			if queue, err = w.user.Obsoletes(ctx, 0, 100); err == nil && len(queue) > 0 {
				err = w.user.Settle(ctx, queue[:1], queue[0].At[:1])
				if errors.Is(err, errFrozen) {
					err = nil // the deletion is what counts
				}
			}
		}
	default:
		is.version++
		err = w.user.Change(ctx, name, is.id, func(m *manifest.Manifest) error {
			m.Chunks[0].Fragments[1] = manifest.Fragment{Disk: 3, Version: is.version}
			return nil
		})
	}
	if errors.Is(err, errFrozen) {
		return
	}
	w.fatal(err)
	if w.names[name] = is; is.id == 0 {
		delete(w.names, name)
	}
	w.past = append(w.past, w.model())
	w.reads()
}

// reads sees that a reader finds what there is, unless it would wait.
func (w *hostWorld) reads() {
	w.t.Helper()
	got, err := listing(w.user)
	if !errors.Is(err, errFrozen) && (err != nil || got != w.model()) {
		w.t.Fatalf("found %q, %v; want %q", got, err, w.model())
	}
	for host, s := range w.stores { // other processes, whatever they believe
		n := nsm.Open(s, nsm.Options{Name: "n", Number: w.user.Number(), Home: func(context.Context) (kv.Store, error) { return nil, errFrozen }})
		if got, err := listing(n); !errors.Is(err, errFrozen) && (err != nil || got != w.model()) {
			w.t.Fatalf("found %q at %s, %v; want %q", got, host, err, w.model())
		}
	}
}

func listing(n *nsm.Manager) (string, error) {
	var got []string
	err := n.List(context.Background(), "", "", func(name string, m *manifest.Manifest) bool {
		got = append(got, fmt.Sprint(name, "=", seen{m.ID, m.Chunks[0].Fragments[1].Version}))
		return true
	})
	return strings.Join(got, " "), err
}

func (w *hostWorld) model() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(w.names)) {
		all = append(all, fmt.Sprint(name, "=", w.names[name]))
	}
	return strings.Join(all, " ")
}

// rows returns the rows of a namespace in a store, by keyspace.
func (w *hostWorld) rows(store string, ns uint32) map[string]int {
	out := map[string]int{}
	prefix := string([]byte{byte(ns >> 24), byte(ns >> 16), byte(ns >> 8), byte(ns)})
	w.fatal(w.stores[store].View(context.Background(), kv.Linearizable, func(r kv.Reader) error {
		for _, ks := range nsm.Keyspaces() {
			err := r.Range(ks, kv.Range{}, func(key, _ []byte) bool {
				if ks == "obj/parked" && string(key[5:9]) == prefix || ks != "obj/parked" && strings.HasPrefix(string(key), prefix) {
					out[string(ks)]++
				}
				return true
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	return out
}

// check sees that namespace "n" is at exactly one namespace manager, or none, with everything that was ever durable,
// and that nothing is left over elsewhere. It returns the host.
func (w *hostWorld) check() string {
	w.t.Helper()
	r, err := w.m.Existing(context.Background(), "n")
	if err != nil && !errors.Is(err, objstore.ErrNotFound) {
		w.t.Fatal(err)
	}
	waiting := 0
	w.fatal(w.stores[MainHost].View(context.Background(), kv.Linearizable, func(r kv.Reader) error {
		list, err := readMessages(r)
		waiting = len(list)
		return err
	}))
	if waiting > 0 || r.To != "" {
		w.t.Fatalf("%d messages wait, %+v", waiting, r)
	}
	for name := range w.stores {
		for ns := uint32(1); ns < 4; ns++ {
			rows := w.rows(name, ns)
			if name == r.Host && ns == r.Number {
				if rows["obj/home"] != 1 || rows["obj/change"] != 0 {
					w.t.Fatalf("at its host: %v", rows)
				}
				continue
			}
			if len(rows) > 0 {
				w.t.Fatalf("namespace %d, %+v, has left in %s: %v", ns, r, name, rows)
			}
		}
	}
	if r.Host == "" {
		return ""
	}
	state, err := w.hosts[r.Host].State(context.Background(), r.Number)
	if err != nil || state != nsm.Settled {
		w.t.Fatal(state, err)
	}
	w.use()
	got, err := listing(w.user)
	if err != nil || !slices.Contains(w.past, got) {
		w.t.Fatalf("after a crash: %q, %v, which never was: %q", got, err, w.past)
	}
	if problems, err := w.user.Recount(context.Background()); err != nil || len(problems) > 0 {
		w.t.Fatal(problems, err)
	}
	return r.Host
}

// resume takes what was found after a crash for what there is.
func (w *hostWorld) resume() {
	got, err := listing(w.user)
	w.fatal(err)
	clear(w.names)
	for _, f := range strings.Fields(got) {
		name, value, _ := strings.Cut(f, "=")
		var is seen
		if _, err := fmt.Sscanf(value, "%d.%d", &is.id, &is.version); err != nil {
			w.t.Fatal(value, err)
		}
		w.names[name] = is
	}
	w.past = []string{w.model()}
}

var (
	allLosses  = []loss{{}, {from: true}, {others: true}, {true, true}}
	someLosses = []loss{{}, {true, true}}
)

// cutEverywhere runs op in processes that are cut off after 0, 1, 2 ... updates until one is not, with and without
// the loss of what is not durable. After each the world is opened again and tended; then after looks at it, and op is
// done again, after which done must hold.
func cutEverywhere(t *testing.T, hooked bool, losses []loss, begin, op func(*hostWorld) error, after, done func(*hostWorld)) {
	steps := 0
	for _, lose := range losses {
		for k := 0; ; k++ {
			w := newHostWorld(t)
			w.fatal(begin(w))
			w.open(k)
			if hooked {
				w.use()
				w.cut.hook = w.change
			}
			err := op(w)
			if cut := w.cut.dead; cut != (err != nil) || cut && !errors.Is(err, errCut) {
				t.Fatalf("cut after %d, %v: %v", k, cut, err)
			}
			w.crash(lose)
			w.open(-1)
			w.fatal(w.tend())
			after(w)
			w.fatal(op(w))
			w.fatal(w.tend())
			done(w)
			if err == nil {
				steps = k
				break
			}
		}
	}
	t.Logf("%d steps", steps)
}

// made makes namespace "n" at main with some objects.
func made(w *hostWorld) error {
	ctx := context.Background()
	if _, err := w.m.Namespace(ctx, "n", "p"); err != nil {
		return err
	}
	if err := w.tend(); err != nil {
		return err
	}
	w.use()
	for range 12 {
		w.change()
	}
	err := w.user.Sync(ctx)
	w.past = w.past[len(w.past)-1:]
	return err
}

func withPreset(w *hostWorld) error {
	return w.m.PutPreset(context.Background(), objstore.Preset{Name: "p", Policies: []objstore.Policy{{K: 1, M: 1, C: 1, X: 2}}})
}

func begun(steps ...func(*hostWorld) error) func(*hostWorld) error {
	return func(w *hostWorld) error {
		for _, s := range append([]func(*hostWorld) error{withPreset}, steps...) {
			if err := s(w); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestCreationIsCutOffEverywhere(t *testing.T) {
	create := func(w *hostWorld) error {
		if _, err := w.m.Namespace(context.Background(), "n", "p"); err != nil {
			return err
		}
		return w.tend()
	}
	cutEverywhere(t, false, someLosses, begun(), create, func(w *hostWorld) { w.check() }, func(w *hostWorld) {
		if at := w.check(); at != MainHost {
			t.Fatal(at)
		}
		w.change()
	})
}

func TestDeletionIsCutOffEverywhere(t *testing.T) {
	remove := func(w *hostWorld) error {
		if _, err := w.m.Delete(context.Background(), "n"); err != nil && !errors.Is(err, objstore.ErrNotFound) {
			return err
		}
		return w.tend()
	}
	for what, before := range map[string]func(*hostWorld) error{
		"settled": begun(made),
		"moving": begun(made, func(w *hostWorld) error {
			_, err := w.m.BeginMove(context.Background(), "n", "a")
			return err
		}),
		"half moved": begun(made, func(w *hostWorld) error {
			w.open(14)
			err := moveTo(w, "a")
			w.crash(loss{})
			w.open(-1)
			if !errors.Is(err, errCut) {
				return fmt.Errorf("not cut off: %v", err)
			}
			return nil
		}),
	} {
		t.Run(what, func(t *testing.T) {
			cutEverywhere(t, false, someLosses, before, remove, func(w *hostWorld) { w.check() }, func(w *hostWorld) {
				if at := w.check(); at != "" {
					t.Fatal("it is still at", at)
				}
				purges, err := w.m.Purges(context.Background())
				w.fatal(err)
				if len(purges) != 0 { // there were no disks
					t.Fatal(purges)
				}
				// The name is free, for another namespace.
				r, err := w.m.Namespace(context.Background(), "n", "p")
				if err != nil || r.Number != 2 {
					t.Fatal(r, err)
				}
				w.fatal(w.tend())
				w.names, w.past = map[string]seen{}, []string{""}
				w.check()
			})
		})
	}
}

func moveTo(w *hostWorld, to string) error {
	if _, err := w.m.BeginMove(context.Background(), "n", to); err != nil {
		return err
	}
	return w.tend()
}

// TestMoveIsCutOffEverywhere moves a namespace while it changes between any two steps.
func TestMoveIsCutOffEverywhere(t *testing.T) {
	for _, hooked := range []bool{false, true} {
		t.Run(fmt.Sprint("changing ", hooked), func(t *testing.T) {
			cutEverywhere(t, hooked, allLosses, begun(made), func(w *hostWorld) error { return moveTo(w, "b") },
				func(w *hostWorld) { w.check(); w.resume() }, func(w *hostWorld) {
					if at := w.check(); at != "b" {
						t.Fatal("it is at", at)
					}
					for range 6 {
						w.change()
					}
				})
		})
	}
}

// TestMoveBackIsCutOffEverywhere moves a namespace to where it came from, before that is rid of it.
func TestMoveBackIsCutOffEverywhere(t *testing.T) {
	cutEverywhere(t, true, someLosses, begun(made, func(w *hostWorld) error { return moveTo(w, "a") }), func(w *hostWorld) error { return moveTo(w, MainHost) },
		func(w *hostWorld) { w.check(); w.resume() }, func(w *hostWorld) {
			if at := w.check(); at != MainHost {
				t.Fatal("it is at", at)
			}
			w.change()
		})
}

// TestMoveIsCalledOff ends a move wherever it is.
func TestMoveIsCalledOff(t *testing.T) {
	for k := 0; ; k++ {
		w := newHostWorld(t)
		w.fatal(begun(made)(w))
		w.open(k)
		w.use()
		w.cut.hook = w.change
		err := moveTo(w, "a")
		w.crash(loss{})
		w.open(-1)
		r, eerr := w.m.Existing(context.Background(), "n")
		w.fatal(eerr)
		// Where it is now, it stays.
		w.fatal(moveTo(w, r.Host))
		if at := w.check(); at != r.Host {
			t.Fatalf("cut after %d: at %s, not %s", k, at, r.Host)
		}
		w.resume()
		w.change()
		w.fatal(moveTo(w, "b"))
		if at := w.check(); at != "b" {
			t.Fatal(at)
		}
		if err == nil {
			return
		}
	}
}

func TestNamespacesAreSpread(t *testing.T) {
	w := newHostWorld(t)
	w.fatal(withPreset(w))
	for i := range 9 {
		_, err := w.m.Namespace(context.Background(), fmt.Sprint("n", i), "p")
		w.fatal(err)
	}
	w.fatal(w.tend())
	all, err := w.m.Hosts(context.Background())
	w.fatal(err)
	for _, h := range all {
		if h.Namespaces != 3 || h.Messages != 0 {
			t.Errorf("%+v", h)
		}
	}
	if _, err := w.m.RemoveHost(context.Background(), "a"); err == nil {
		t.Error("a namespace manager with namespaces was removed")
	}
}

func TestMessagesTakeEffectOnceAndInOrder(t *testing.T) {
	w := newHostWorld(t)
	h := w.hosts["a"]
	ctx := context.Background()
	w.fatal(h.Obey(ctx, nsm.Message{Number: 1, Kind: nsm.KindCreate, Namespace: 1}))
	w.fatal(h.Obey(ctx, nsm.Message{Number: 2, Kind: nsm.KindDrop, Namespace: 1}))
	for range 2 { // late ones do nothing
		w.fatal(h.Obey(ctx, nsm.Message{Number: 1, Kind: nsm.KindCreate, Namespace: 1}))
	}
	if s, err := h.State(ctx, 1); err != nil || s != nsm.Dropping {
		t.Fatal(s, err)
	}
	if err := h.Obey(ctx, nsm.Message{Number: 4, Kind: nsm.KindCreate, Namespace: 2}); !errors.Is(err, nsm.ErrOrder) {
		t.Fatal(err)
	}
	if err := h.Obey(ctx, nsm.Message{Number: 3, Kind: nsm.KindImport, Namespace: 1}); !errors.Is(err, nsm.ErrBusy) {
		t.Fatal(err)
	}
	w.fatal(h.Sweep(ctx))
	w.fatal(h.Obey(ctx, nsm.Message{Number: 3, Kind: nsm.KindImport, Namespace: 1}))
	if err := h.Obey(ctx, nsm.Message{Number: 4, Kind: nsm.KindOpen, Namespace: 1}); err == nil {
		t.Fatal("it was opened before anything had come over")
	}
}

func TestStoresOfNamespaceManagersAreTheirOwn(t *testing.T) {
	w := newHostWorld(t)
	ctx := context.Background()
	other := newHostWorld(t)
	if err := w.m.Join(ctx, "a", other.hosts["a"], false); !errors.Is(err, nsm.ErrClaimed) {
		t.Fatal(err)
	}
	empty := nsm.NewHost(memkv.New())
	if err := w.m.Join(ctx, "a", empty, false); !errors.Is(err, nsm.ErrLost) {
		t.Fatal(err)
	}
	used := memkv.New()
	w.fatal(used.Update(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("obj/manifest", []byte("x"), nil); return nil }))
	_, err := w.m.AddHost(ctx, "c", "")
	w.fatal(err)
	if err := w.m.Join(ctx, "c", nsm.NewHost(used), false); !errors.Is(err, nsm.ErrClaimed) {
		t.Fatal(err)
	}
	if _, err := w.m.AddHost(ctx, "c", "elsewhere"); !errors.Is(err, objstore.ErrExists) {
		t.Fatal(err)
	}
}

// TestLostStoreIsMadeAnew gives a namespace manager an empty store in the place of one that is lost.
func TestLostStoreIsMadeAnew(t *testing.T) {
	w := newHostWorld(t)
	w.fatal(begun(made, func(w *hostWorld) error { return moveTo(w, "a") })(w))
	w.stores["a"] = memkv.New(memkv.Rerun())
	lost := nsm.NewHost(w.stores["a"])
	if err := w.m.Join(context.Background(), "a", lost, false); !errors.Is(err, nsm.ErrLost) {
		t.Fatal(err)
	}
	w.fatal(w.m.Join(context.Background(), "a", lost, true))
	w.hosts["a"] = lost
	w.fatal(w.tend())
	w.past = []string{""}
	if at := w.check(); at != "a" {
		t.Fatal(at)
	}
	w.names = map[string]seen{}
	w.change()

	// Only the rows that say where it is are lost.
	w.fatal(w.stores["a"].Update(context.Background(), kv.Durable, func(tx kv.Txn) error {
		tx.Delete("obj/home", []byte{0, 0, 0, 1})
		return nil
	}))
	w.fatal(w.m.Restore(context.Background(), w.host))
	if at := w.check(); at != "a" {
		t.Fatal(at)
	}
}
