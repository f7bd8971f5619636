package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
)

func onePreset(name string) objstore.Preset {
	return objstore.Preset{Name: name, Policies: []objstore.Policy{{K: 1, M: 1, C: 1, X: 2}}}
}

func TestVersionsOfPresetsRise(t *testing.T) {
	ctx := context.Background()
	store := memkv.New(memkv.Rerun())
	m := openManager(t, store)
	p, err := m.CreatePreset(ctx, onePreset("a"))
	if err != nil || p.Version != 1 || p.FragmentSize != DefaultFragmentSize {
		t.Fatal(p, err)
	}
	if _, err := m.CreatePreset(ctx, onePreset("a")); !errors.Is(err, objstore.ErrExists) {
		t.Fatal(err)
	}
	for want := uint32(2); want < 5; want++ {
		p, err = m.UpdatePreset(ctx, "a", func(p *objstore.Preset) error {
			p.FragmentSize, p.Version, p.Name = 8192*int(want), 1, "other" // neither is the caller's to choose
			return nil
		})
		if err != nil || p.Version != want || p.Name != "a" {
			t.Fatal(p, err)
		}
	}
	if got, err := openManager(t, store).Preset(ctx, "a"); err != nil || fmt.Sprint(got) != fmt.Sprint(p) {
		t.Fatal(got, err)
	}
	if _, err := m.UpdatePreset(ctx, "b", func(*objstore.Preset) error { return nil }); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	if all, err := m.Presets(ctx); err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
}

// TestPresetsOfBefore: a record from before presets had versions is version 1.
func TestPresetsOfBefore(t *testing.T) {
	ctx := context.Background()
	store := memkv.New(memkv.Rerun())
	old := `{"v":1,"Name":"default","Policies":[{"K":4,"M":2,"C":5,"X":6}],"FragmentSize":0,"Compression":1}`
	if err := store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Put(ksPreset, []byte("default"), []byte(old))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	m := openManager(t, store)
	p, err := m.Preset(ctx, "default")
	if err != nil || p.Version != 1 || p.Compression != objstore.CompressS2 || p.Encryption != objstore.EncryptNone || !p.Has(7) {
		t.Fatal(p, err)
	}
	if p, err = m.UpdatePreset(ctx, "default", func(p *objstore.Preset) error { p.Compression = objstore.CompressZstd; return nil }); err != nil || p.Version != 2 {
		t.Fatal(p, err)
	}
}

func TestBadPresetsAreRefused(t *testing.T) {
	ctx := context.Background()
	m := openManager(t, memkv.New(memkv.Rerun()))
	attach(t, m, "A", "/a")
	if _, err := m.CreatePreset(ctx, onePreset("good")); err != nil {
		t.Fatal(err)
	}
	for why, change := range map[string]func(*objstore.Preset){
		"no policies":             func(p *objstore.Preset) { p.Policies = nil },
		"two policies":            func(p *objstore.Preset) { p.Policies = append(p.Policies, p.Policies[0]) },
		"c is 3":                  func(p *objstore.Preset) { p.Policies = []objstore.Policy{{K: 1, M: 1, C: 3, X: 1}} },
		"c is 1":                  func(p *objstore.Preset) { p.Policies = []objstore.Policy{{K: 2, M: 1, C: 1, X: 1}} },
		"x is 0":                  func(p *objstore.Preset) { p.Policies = []objstore.Policy{{K: 1, M: 1, C: 1}} },
		"fragment size 100":       func(p *objstore.Preset) { p.FragmentSize = 100 },
		"fragment size 671088640": func(p *objstore.Preset) { p.FragmentSize = 640 << 20 },
		"unknown compression 9":   func(p *objstore.Preset) { p.Compression = 9 },
		"unknown encryption 9":    func(p *objstore.Preset) { p.Encryption = 9 },
		"unknown checksum 9":      func(p *objstore.Preset) { p.Checksum = 9 },
		"disk 1 is not a disk":    func(p *objstore.Preset) { p.Disks = []objstore.DiskID{1, 1} },
		"disk 0 is not a disk":    func(p *objstore.Preset) { p.Disks = []objstore.DiskID{0} },
		"disk 9":                  func(p *objstore.Preset) { p.Disks = []objstore.DiskID{9} },
		"for ever":                func(p *objstore.Preset) { p.Encryption = objstore.EncryptAES },
	} {
		_, err := m.UpdatePreset(ctx, "good", func(p *objstore.Preset) error { change(p); return nil })
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
	for _, name := range []string{"", "a/b", strings.Repeat("x", objstore.MaxNamespace+1)} {
		if _, err := m.CreatePreset(ctx, onePreset(name)); err == nil {
			t.Errorf("%q was created", name)
		}
	}
	if p, err := m.Preset(ctx, "good"); err != nil || p.Version != 1 {
		t.Fatal("a refused change has changed something", p, err)
	}
}

func TestAssignPreset(t *testing.T) {
	ctx := context.Background()
	m := openManager(t, memkv.New(memkv.Rerun()))
	secret := onePreset("secret")
	secret.Encryption = objstore.EncryptAES
	for _, p := range []objstore.Preset{onePreset("a"), onePreset("b"), secret} {
		if _, err := m.CreatePreset(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Namespace(ctx, "n", "a"); err != nil {
		t.Fatal(err)
	}
	if r, err := m.AssignPreset(ctx, "n", "b"); err != nil || r.Preset != "b" || r.Number != 1 {
		t.Fatal(r, err)
	}
	for _, to := range [][2]string{{"n", "none"}, {"none", "a"}} {
		if _, err := m.AssignPreset(ctx, to[0], to[1]); !errors.Is(err, objstore.ErrNotFound) {
			t.Fatal(to, err)
		}
	}
	if _, err := m.AssignPreset(ctx, "n", "secret"); err == nil || !strings.Contains(err.Error(), "for ever") {
		t.Fatal(err)
	}
	if r, err := m.Namespace(ctx, "n", "a"); err != nil || r.Preset != "b" {
		t.Fatal(r, err)
	}
}

func TestUnmet(t *testing.T) {
	m := openManager(t, memkv.New(memkv.Rerun()))
	for i := range 4 {
		attach(t, m, fmt.Sprint(i), fmt.Sprint("/", i))
	}
	p := func(policies ...objstore.Policy) objstore.Preset { return objstore.Preset{Policies: policies} }
	listed := p(objstore.Policy{K: 2, M: 1, C: 2, X: 3})
	listed.Disks = []objstore.DiskID{1}
	for _, c := range []struct {
		p    objstore.Preset
		want []string
	}{
		{p(objstore.Policy{K: 2, M: 2, C: 3, X: 4}), nil},
		{p(objstore.Policy{K: 4, M: 2, C: 4, X: 6}), []string{"degraded"}},
		{p(objstore.Policy{K: 4, M: 2, C: 5, X: 6}), []string{"needs 5 disks", "no policy"}},
		{p(objstore.Policy{K: 4, M: 2, C: 5, X: 6}, objstore.Policy{K: 2, M: 1, C: 2, X: 3}), []string{"needs 5 disks"}},
		{p(objstore.Policy{K: 2, M: 1, C: 2, X: 1}), []string{"needs 2 disks, at most 1 on a node", "no policy"}},
		{listed, []string{"there are 1 on", "no policy"}},
	} {
		got := m.Unmet(c.p)
		ok := len(got) == len(c.want)
		for i := range got {
			ok = ok && strings.Contains(got[i], c.want[i])
		}
		if !ok {
			t.Errorf("%v: %q, want %q", c.p.Policies, got, c.want)
		}
	}
}
