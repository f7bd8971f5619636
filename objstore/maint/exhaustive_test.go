package maint

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
)

// harms are what can happen to a disk, and how it is undone.
var harms = []struct {
	name     string
	do, undo func(r *rig, disk int)
}{
	{"lost", func(r *rig, i int) { r.down(i) }, func(r *rig, i int) { r.attach(i) }},
	{"rotten", flip, flip},
	{"half", func(r *rig, i int) { flipSome(r, i) }, func(r *rig, i int) { flipSome(r, i) }},
}

// flip damages every fragment on a disk; a second time it mends them.
func flip(r *rig, i int) {
	for n, k := range r.disks[i].Keys() {
		r.disks[i].Corrupt(k, 17*n)
	}
}

// flipSome damages every other fragment.
func flipSome(r *rig, i int) {
	for n, k := range r.disks[i].Keys() {
		if n%2 == 0 {
			r.disks[i].Corrupt(k, 17*n)
		}
	}
}

// subsets calls fn with all sets of at most size of n disks.
func subsets(n, size int, fn func([]int)) {
	var set []int
	var rec func(from int)
	rec = func(from int) {
		fn(set)
		if len(set) == size {
			return
		}
		for i := from; i < n; i++ {
			set = append(set, i)
			rec(i + 1)
			set = set[:len(set)-1]
		}
	}
	rec(0)
}

// TestEverySubset hurts every set of up to m disks, in each way, for several codes: everything is read as it was
// put. With one disk more either it is, or the error says that the object is lost. After every set of m disks is
// lost for good, repair makes everything whole.
func TestEverySubset(t *testing.T) {
	for _, p := range []objstore.Policy{{K: 2, M: 1, C: 3, X: 3}, {K: 4, M: 2, C: 6, X: 6}, {K: 8, M: 3, C: 11, X: 11}} {
		t.Run(fmt.Sprintf("%d,%d", p.K, p.M), func(t *testing.T) {
			t.Parallel()
			everySubset(t, p)
		})
	}
}

func everySubset(t *testing.T, p objstore.Policy) {
	r := &rig{t: t, policies: []objstore.Policy{p}, grace: time.Minute, noCache: true}
	n := p.K + p.M
	r.begin(n)
	defer func() { r.close() }()
	want := map[string][]byte{"one": noise(1), "small": noise(900), "zeros": make([]byte, 5000), "chunks": noise(2*p.K*(8<<10) + 100)}
	for name, content := range want {
		r.put(name, content)
	}
	if m := r.manifests()["chunks"]; len(m.Chunks) != 3 || !m.Complete() {
		t.Fatalf("%+v", m)
	}
	count := 0
	for _, harm := range harms {
		subsets(n, p.M+1, func(set []int) {
			count++
			for _, i := range set {
				harm.do(r, i)
			}
			for name, content := range want {
				got := make([]byte, len(content))
				err := r.ns.ReadAt(ctx0, name, 0, got)
				var lost *objstore.LostError
				switch {
				case err == nil && bytes.Equal(got, content):
				case len(set) > p.M && errors.As(err, &lost) && lost.Intact < lost.Need:
				default:
					t.Fatalf("%s with disks %v %s: %v", name, set, harm.name, err)
				}
			}
			for _, i := range set {
				harm.undo(r, i)
			}
		})
	}
	subsets(n, p.M, func(set []int) {
		if len(set) < p.M {
			return
		}
		count++
		for _, i := range set {
			for _, k := range r.disks[i].Keys() {
				r.disks[i].Lose(k)
			}
		}
		r.fatal(r.m.Scrub(ctx0))
		for r.m.urgent() {
			r.fatal(r.m.round())
		}
		for name, m := range r.manifests() {
			if !m.Complete() {
				t.Fatalf("%s after the loss of %v: %+v", name, set, m)
			}
			r.check(name, want[name])
		}
	})
	if p := r.problems(Warning); len(p) > 0 {
		t.Fatal(p)
	}
	t.Logf("%d sets of disks", count)
}
