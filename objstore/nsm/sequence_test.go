package nsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

func TestSequence(t *testing.T) {
	ctx := context.Background()
	n, _ := newManager(t, sixDisks())
	old := register(t, n, "x", chunk(2, 1, 1, 3, 5))
	u := begin(t, n)
	exchange := []Step{
		{Op: AssertID, Name: "x", ID: old.ID},
		{Op: AssertAbsent, Name: "y"},
		{Op: Remove, Name: "x"},
		{Op: Create, Name: "x", Upload: u, Manifest: object(u.ID, chunk(2, 1, 2, 4, 6))},
		{Op: AssertExists, Name: "x"},
	}
	if err := n.ApplySequence(ctx, exchange); err != nil {
		t.Fatal(err)
	}
	if m, err := n.Lookup(ctx, "x"); err != nil || m.ID != u.ID {
		t.Fatal(m, err)
	}
	if q, err := n.Obsoletes(ctx, 0, 10); err != nil || len(q) != 1 || q[0].ID != old.ID {
		t.Fatal(q, err)
	}
	var se *StepError
	if err := n.ApplySequence(ctx, exchange); !errors.As(err, &se) || !errors.Is(err, ErrAssert) || se.Index != 0 || se.Found != u.ID {
		t.Fatal(err)
	}
	v := begin(t, n)
	for _, c := range []struct {
		s    Step
		want error
	}{
		{Step{Op: AssertAbsent, Name: "x"}, objstore.ErrExists},
		{Step{Op: AssertExists, Name: "z"}, objstore.ErrNotFound},
		{Step{Op: Create, Name: "x", Upload: v, Manifest: object(v.ID, chunk(2, 1, 2, 4, 6))}, objstore.ErrExists},
	} {
		err := n.ApplySequence(ctx, []Step{{Op: Remove, Name: "y"}, {Op: AssertExists, Name: "x"}, c.s})
		if !errors.As(err, &se) || se.Index != 2 || !errors.Is(err, c.want) {
			t.Fatalf("%+v: %v", c.s, err)
		}
	}
	var rule *RuleError
	if err := n.ApplySequence(ctx, []Step{{Op: Create, Name: "r", Upload: v, Manifest: object(v.ID, chunk(2, 1, 2, 2, 6))}}); !errors.As(err, &rule) {
		t.Fatal(err)
	}
	// An upload of an epoch that is over is refused, and the rest of the sequence with it.
	e, err := n.Advance(ctx)
	if err != nil || n.Expire(ctx, e) != nil {
		t.Fatal(err)
	}
	late := []Step{{Op: Remove, Name: "x"}, {Op: Create, Name: "late", Upload: v, Manifest: object(v.ID, chunk(2, 1, 2, 4, 6))}}
	if err := n.ApplySequence(ctx, late); !errors.Is(err, ErrExpired) {
		t.Fatal(err)
	}
	wantCounts(t, n, Counter{1, 1, Usage{1, 1000, 1536}})
}

func TestSequenceLimits(t *testing.T) {
	n, _ := newManager(t, sixDisks())
	u := begin(t, n)
	m := object(u.ID, chunk(2, 1, 1, 3, 5))
	for name, steps := range map[string][]Step{
		"long":    make([]Step, MaxSequence+1),
		"name":    {{Op: Remove}},
		"longer":  {{Op: Remove, Name: strings.Repeat("n", objstore.MaxName+1)}},
		"unknown": {{Op: Remove + 1, Name: "x"}},
		"zero":    {{Name: "x"}},
		"id":      {{Op: AssertID, Name: "x"}},
		"nil":     {{Op: Create, Name: "x"}},
		"other":   {{Op: Create, Name: "x", Upload: Upload{ID: u.ID + 1}, Manifest: m}},
		"twice":   {{Op: Create, Name: "x", Upload: u, Manifest: m}, {Op: Create, Name: "y", Upload: u, Manifest: m}},
	} {
		if err := n.ApplySequence(context.Background(), steps); !errors.Is(err, ErrSequence) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantCounts(t, n)
}

// TestSequenceModel holds random sequences to a map from names to ids: the same outcome, all or nothing.
func TestSequenceModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		store := memkv.New(memkv.Rerun())
		defer store.Close()
		n := Open(store, Options{Name: "test", Number: 7, Disks: sixDisks(), Policies: []objstore.Policy{{K: 2, M: 1, C: 2, X: 2}}})
		model := make(map[string]uint64)
		names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		for range rapid.IntRange(1, 12).Draw(t, "sequences") {
			var steps []Step
			next, failed := maps.Clone(model), -1
			for i := range rapid.IntRange(0, 6).Draw(t, "steps") {
				s := Step{Op: Op(rapid.IntRange(int(AssertExists), int(Remove)).Draw(t, "op")), Name: names.Draw(t, "name")}
				id := next[s.Name]
				ok := true
				switch s.Op {
				case AssertExists:
					ok = id != 0
				case AssertAbsent:
					ok = id == 0
				case AssertID:
					s.ID = max(1, id+uint64(rapid.IntRange(0, 1).Draw(t, "off")))
					ok = id == s.ID
				case Create:
					u, err := n.Begin(ctx)
					if err != nil {
						t.Fatal(err)
					}
					s.Upload, s.Manifest = u, object(u.ID, chunk(2, 1, 1, 3, objstore.DiskID(rapid.SampledFrom([]int{0, 5}).Draw(t, "disk"))))
					if ok = id == 0; ok {
						next[s.Name] = u.ID
					}
				case Remove:
					delete(next, s.Name)
				}
				if steps = append(steps, s); !ok && failed < 0 {
					failed = i
				}
			}
			err := n.ApplySequence(ctx, steps)
			var se *StepError
			switch {
			case failed < 0 && err == nil:
				model = next
			case failed >= 0 && errors.As(err, &se) && se.Index == failed && se.Found == foundBefore(model, steps[:failed], steps[failed].Name):
			default:
				t.Fatalf("%v, the model fails at step %d", err, failed)
			}
			got := make(map[string]uint64)
			if err := n.List(ctx, "", "", func(name string, m *manifest.Manifest) bool { got[name] = m.ID; return true }); err != nil || !maps.Equal(got, model) {
				t.Fatalf("%v, %v; the model has %v", got, err, model)
			}
			for _, name := range []string{"a", "b", "c", "d"} { // through the cache
				m, err := n.Lookup(ctx, name)
				if (err == nil) != (model[name] != 0) || err == nil && m.ID != model[name] {
					t.Fatalf("%s: %+v, %v; the model has %d", name, m, err, model[name])
				}
			}
			if problems, err := n.Recount(ctx); err != nil || len(problems) > 0 {
				t.Fatal(problems, err)
			}
			if !obsolete(ctx, t, n, model) {
				t.Fatal("a fragment of an object that exists is to be deleted")
			}
		}
	})
}

// foundBefore is the id that a name has after steps that all succeed.
func foundBefore(model map[string]uint64, steps []Step, name string) uint64 {
	id := model[name]
	for _, s := range steps {
		if s.Name == name && s.Op == Create {
			id = s.Upload.ID
		} else if s.Name == name && s.Op == Remove {
			id = 0
		}
	}
	return id
}

// obsolete tells whether the queue has nothing of what exists.
func obsolete(ctx context.Context, t *rapid.T, n *Manager, model map[string]uint64) bool {
	q, err := n.Obsoletes(ctx, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	ids := fmt.Sprint(model)
	for _, o := range q {
		if strings.Contains(ids, fmt.Sprintf(":%d ", o.ID)) || strings.Contains(ids, fmt.Sprintf(":%d]", o.ID)) {
			return false
		}
	}
	return true
}
