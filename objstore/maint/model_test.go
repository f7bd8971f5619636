package maint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/objstore"
)

// TestInterleavings runs puts, references to what is there already, deletes, losses, rot, repair, collection and
// crashes in random order, and holds them to the promises: what was put and synced is read back, equal, as long
// as no more than m disks are hurt; what was deleted and synced stays deleted; what a reference names exists; and
// a tidied backend has neither missing fragments nor garbage. It is a thousand runs, in parts, each of which
// prints how to run it again when it fails.
func TestInterleavings(t *testing.T) {
	for i := range 10 { // of rapid's hundred, unless a flag says otherwise
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, interleave)
		})
	}
}

func interleave(t *rapid.T) {
	w := &world{t: t, r: newRig(t, 7, p42, p22, p11), sure: map[string][]byte{}, maybe: map[string][][]byte{}}
	defer func() { w.r.close() }()
	t.Repeat(map[string]func(*rapid.T){
		"put":     w.put,
		"delete":  w.delete,
		"dedup":   w.dedup,
		"undup":   w.undup,
		"sync":    func(t *rapid.T) { w.sync() },
		"away":    w.away,
		"back":    w.back,
		"rot":     w.rot,
		"repair":  func(t *rapid.T) { _ = w.r.m.Repair(context.Background()) },
		"settle":  func(t *rapid.T) { _ = w.r.m.DeleteObsolete(context.Background(), w.r.ns.NSM()); w.synced() },
		"collect": func(t *rapid.T) { _, _ = w.r.m.Collect(context.Background()); w.synced() },
		"crash":   w.crash,
		"tidy":    w.tidy,
		"":        w.check,
	})
}

type world struct {
	t      *rapid.T
	r      *rig
	sure   map[string][]byte   // durable: nil is deleted
	maybe  map[string][][]byte // what it became, in turn, since the last sync; nil is deleted
	gone   int                 // disk that is away, from 1; 0: none
	rotten bool                // some fragments on one disk are damaged
	count  int
}

func (w *world) put(t *rapid.T) {
	name := fmt.Sprint("o", rapid.IntRange(0, 5).Draw(t, "name"))
	size := rapid.SampledFrom([]int{0, 1, 900, 20_000, 70_000}).Draw(t, "size")
	w.count++
	p := noise(size + w.count%7)
	_, err := w.r.ns.Put(context.Background(), name, p)
	switch taken := w.expected(name) != nil; {
	case taken && errors.Is(err, objstore.ErrExists):
	case !taken && err == nil:
		w.maybe[name] = append(w.maybe[name], p)
	default:
		t.Fatalf("put %s, taken %v: %v", name, taken, err)
	}
}

// expected is what a reader must see now: nil is nothing.
func (w *world) expected(name string) []byte {
	if p := w.maybe[name]; len(p) > 0 {
		return p[len(p)-1]
	}
	return w.sure[name]
}

func (w *world) delete(t *rapid.T) {
	name := fmt.Sprint("o", rapid.IntRange(0, 5).Draw(t, "name"))
	if err := w.r.ns.Delete(context.Background(), name); err != nil {
		t.Fatal(err)
	}
	if w.expected(name) != nil {
		w.maybe[name] = append(w.maybe[name], nil)
	}
}

func (w *world) sync() {
	if err := w.r.store.Sync(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.synced()
}

// synced takes note that everything is durable. Collection and deletion sync, and may have.
func (w *world) synced() {
	if w.r.store.Unsynced() > 0 {
		return
	}
	for n := range w.maybe {
		w.sure[n] = w.expected(n)
	}
	clear(w.maybe)
}

func (w *world) away(t *rapid.T) {
	if w.gone != 0 || w.rotten {
		return
	}
	w.gone = rapid.IntRange(1, len(w.r.disks)).Draw(t, "disk")
	w.r.down(w.gone - 1)
}

func (w *world) back(t *rapid.T) {
	if w.gone == 0 {
		return
	}
	w.r.attach(w.gone - 1)
	w.gone = 0
}

func (w *world) rot(t *rapid.T) {
	if w.gone != 0 || w.rotten {
		return
	}
	w.rotten = true
	d := w.r.disks[rapid.IntRange(0, len(w.r.disks)-1).Draw(t, "disk")]
	for _, k := range d.Keys() {
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			d.Lose(k)
		case 1:
			d.Corrupt(k, 1)
		case 2:
			d.Shorten(k, 10)
		}
	}
}

func (w *world) crash(t *rapid.T) {
	seed := rapid.Uint64().Draw(t, "seed")
	w.r.crash(rand.New(rand.NewPCG(seed, 1)))
	w.gone = 0
	// The store decides how much of the unsynced is left; all else must be as it was.
	for name, states := range w.maybe {
		w.sure[name] = w.found(t, name, append(states, w.sure[name]))
	}
	clear(w.maybe)
	w.r.fatal(w.r.store.Sync(context.Background()))
}

// found returns which of the states an object is in, and fails if it is in none.
func (w *world) found(t *rapid.T, name string, states [][]byte) []byte {
	info, err := w.r.ns.Stat(context.Background(), name)
	if err != nil && !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	got := make([]byte, info.Size)
	if err == nil {
		if err := w.r.ns.ReadAt(context.Background(), name, 0, got); err != nil {
			t.Fatalf("%s after a crash: %v", name, err)
		}
	}
	for _, s := range states {
		if (s == nil) == (err != nil) && bytes.Equal(s, got) {
			return s
		}
	}
	t.Fatalf("%s is as it never was: %d bytes, %v", name, len(got), err)
	return nil
}

func (w *world) tidy(t *rapid.T) {
	w.back(t)
	w.dropUnreferenced(t)
	w.r.fatal(w.r.m.Scrub(context.Background()))
	for len(w.r.m.todo.bad)+len(w.r.m.todo.degraded) > 0 {
		w.r.fatal(w.r.m.round())
	}
	w.rotten = false
	w.r.tidy()
	w.synced()
	if p := w.r.problems(Note); len(p) > 0 {
		t.Fatalf("after tidying: %v", p)
	}
}

func (w *world) check(t *rapid.T) {
	for i := range 6 {
		name := fmt.Sprint("o", i)
		want := w.expected(name)
		if want == nil {
			if _, err := w.r.ns.Stat(context.Background(), name); !errors.Is(err, objstore.ErrNotFound) {
				t.Fatalf("%s should not be there: %v", name, err)
			}
			continue
		}
		w.r.check(name, want)
	}
	for content, ref := range w.references(t) {
		w.r.check(ref.Name, dedupContent(content))
	}
	if problems, err := w.r.ns.NSM().Recount(context.Background()); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
}
