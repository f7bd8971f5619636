package nsm

import (
	"context"
	"errors"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// TestPresetChanges: an upload may follow any version of the preset since it began, and no other.
func TestPresetChanges(t *testing.T) {
	ctx := context.Background()
	n, _ := newManager(t, sixDisks())
	version := func(v uint32, policies ...objstore.Policy) objstore.Preset {
		return objstore.Preset{Name: "p", Version: v, Policies: policies}
	}
	p21, p11 := objstore.Policy{K: 2, M: 1, C: 2, X: 2}, objstore.Policy{K: 1, M: 1, C: 2, X: 1}
	before := begin(t, n)
	n.SetPreset(version(2, p11))
	after := begin(t, n)
	n.SetPreset(version(1, p21)) // older than what is in force
	if got := n.Preset(); got.Version != 2 {
		t.Fatal(got)
	}
	var rule *RuleError
	if err := n.Register(ctx, after, "late", object(after.ID, chunk(2, 1, 1, 3, 5))); !errors.As(err, &rule) {
		t.Fatalf("by a policy that is gone: %v", err)
	}
	if err := n.Register(ctx, after, "after", object(after.ID, chunk(1, 1, 1, 3))); err != nil {
		t.Fatal(err)
	}
	if err := n.Register(ctx, before, "before", object(before.ID, chunk(2, 1, 1, 3, 5))); err != nil {
		t.Fatalf("by the policy of when it began: %v", err)
	}
	straddling := begin(t, n)
	n.SetPreset(version(3, p21))
	if err := n.Register(ctx, straddling, "x", object(straddling.ID, chunk(2, 1, 1, 3, 5))); err != nil {
		t.Fatalf("by a policy that came after it began: %v", err)
	}
}

func TestListedDisksOnly(t *testing.T) {
	ctx := context.Background()
	n, _ := newManager(t, sixDisks())
	p := n.Preset()
	p.Version, p.Disks = 2, []objstore.DiskID{1, 3, 5}
	n.SetPreset(p)
	u := begin(t, n)
	var rule *RuleError
	if err := n.Register(ctx, u, "x", object(u.ID, chunk(2, 1, 1, 3, 6))); !errors.As(err, &rule) {
		t.Fatal(err)
	}
	if err := n.Register(ctx, u, "x", object(u.ID, chunk(2, 1, 1, 3, 5))); err != nil {
		t.Fatal(err)
	}
}

// TestStricterPreset: what was written under a laxer version may be repaired, as long as it becomes no worse.
func TestStricterPreset(t *testing.T) {
	ctx := context.Background()
	n, _ := newManager(t, sixDisks())
	m := register(t, n, "x", chunk(2, 1, 1, 2, 5)) // two on node a
	p := n.Preset()
	p.Version, p.Policies = 2, []objstore.Policy{{K: 2, M: 1, C: 2, X: 1}}
	n.SetPreset(p)
	set := func(i int, f manifest.Fragment) error {
		return n.Change(ctx, "x", m.ID, func(m *manifest.Manifest) error { m.Chunks[0].Fragments[i] = f; return nil })
	}
	if err := set(2, manifest.Fragment{Disk: 6, Version: 1}); err != nil {
		t.Fatalf("a fragment moves while two others share a node: %v", err)
	}
	if err := set(0, manifest.Fragment{Disk: 3, Version: 1}); err != nil {
		t.Fatalf("to a node of its own: %v", err)
	}
	var rule *RuleError
	if err := set(0, manifest.Fragment{Disk: 1, Version: 2}); !errors.As(err, &rule) {
		t.Fatalf("back to the node of another: %v", err)
	}
}
