package local

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/maint"
)

func secret(b byte) *crypt.Secret {
	return &crypt.Secret{Kind: crypt.KeyFile, Bytes: bytes.Repeat([]byte{b}, 32)}
}

// sealedOptions are of a backend whose default preset encrypts.
func sealedOptions(store *memkv.Store, dirs []string, key byte) Options {
	o := options(store, dirs)
	o.Encryption = objstore.EncryptAES
	if key != 0 {
		o.Keys.Secret, o.Keys.Create = secret(key), true
	}
	return o
}

// TestKeys: nothing is encrypted without a key, a wrong one changes nothing, what lost disks is made good without
// any, and a keyring that the store has lost comes back from its copy.
func TestKeys(t *testing.T) {
	ctx := context.Background()
	b := open(t, sealedOptions(memkv.New(), dirs(t, 1), 0))
	if _, err := b.Namespace(ctx, "ns"); !errors.Is(err, objstore.ErrLocked) {
		t.Fatalf("made an encrypted namespace without a key: %v", err)
	}
	store, folders := memkv.New(), dirs(t, 8)
	var kept []byte
	with := func(key byte) Options {
		o := sealedOptions(store, folders[:6], key)
		o.Keys.Restore, o.Keys.Save = kept, func(ring []byte) error { kept = bytes.Clone(ring); return nil }
		return o
	}
	b = open(t, with(1))
	want := objects{}
	want.fill(t, namespace(t, b), 10)
	if k, err := b.Keys(ctx); err != nil || !k.Present || !k.Unlocked || len(k.Namespaces) != 1 || kept == nil {
		t.Fatalf("%+v, %v", k, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	before := bytes.Clone(kept)
	if _, err := Open(ctx, with(2)); !errors.Is(err, objstore.ErrWrongKey) {
		t.Fatal(err)
	}
	if !bytes.Equal(before, kept) {
		t.Fatal("a wrong key has changed the keyring")
	}

	for _, lost := range folders[:2] {
		if err := os.RemoveAll(lost); err != nil {
			t.Fatal(err)
		}
	}
	b = open(t, with(0))
	for _, dir := range folders[6:] {
		if _, err := b.AddDisk(ctx, dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Repair(ctx); err != nil {
		t.Fatal(err)
	}
	for id := range objstore.DiskID(2) {
		if err := b.PurgeDisk(ctx, id+1, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Scrub(ctx); err != nil {
		t.Fatal(err)
	}
	if p := problems(t, b, maint.Warning); len(p) > 0 {
		t.Fatalf("%+v", p)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	folders = folders[2:]

	// The store without its keyring: the copy takes its place.
	err := store.Update(ctx, kv.Durable, func(tx kv.Txn) error { tx.Delete("obj/key", []byte("keyring")); return nil })
	if err != nil {
		t.Fatal(err)
	}
	b = open(t, with(1))
	want.check(t, namespace(t, b))
	if r, err := b.RotateKey(ctx, "ns", false, nil); err != nil || r.Changed != 10 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := b.ChangeSecret(ctx, *secret(3)); err != nil {
		t.Fatal(err)
	}
	want.fill(t, namespace(t, b), 3)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, with(1)); !errors.Is(err, objstore.ErrWrongKey) {
		t.Fatal(err)
	}
	b = open(t, with(3))
	want.check(t, namespace(t, b))
}

// TestPresetReachesClients: a namespace that is in use follows the next version of its preset at once.
func TestPresetReachesClients(t *testing.T) {
	ctx := context.Background()
	b := open(t, options(memkv.New(), dirs(t, 6)))
	ns := namespace(t, b)
	want := objects{}
	codes := func(name string) [2]int {
		t.Helper()
		m, err := b.list()[0].NSM().Fetch(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		return [2]int{m.Chunks[0].K, m.Chunks[0].M}
	}
	want.put(t, ns, "a", noise(100_000))
	u, err := b.UpdatePreset(ctx, PresetName, func(p *objstore.Preset) error {
		p.Policies = []objstore.Policy{{K: 3, M: 3, C: 5, X: 6}}
		return nil
	})
	if err != nil || u.Version != 2 || len(u.Unmet) != 0 || len(u.Namespaces) != 1 {
		t.Fatalf("%+v, %v", u, err)
	}
	want.put(t, ns, "b", noise(100_000))
	if a, b := codes("a"), codes("b"); a != [2]int{4, 2} || b != [2]int{3, 3} {
		t.Fatal(a, b)
	}
	if _, err := b.CreatePreset(ctx, objstore.Preset{Name: "other", Policies: []objstore.Policy{{K: 1, M: 2, C: 3, X: 3}}}); err != nil {
		t.Fatal(err)
	}
	if u, err := b.AssignPreset(ctx, "ns", "other"); err != nil || len(u.Namespaces) != 1 {
		t.Fatalf("%+v, %v", u, err)
	}
	want.put(t, ns, "c", noise(100_000))
	if c := codes("c"); c != [2]int{1, 2} {
		t.Fatal(c)
	}
	want.check(t, ns)
}
