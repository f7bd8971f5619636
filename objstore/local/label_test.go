package local

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// recoverOn makes a new store for the disks in folders, and recovers what they hold.
func recoverOn(t *testing.T, cluster asd.ID, folders []string) (*Backend, *memkv.Store) {
	t.Helper()
	ctx := context.Background()
	store := memkv.New()
	o := options(store, nil)
	o.Cluster, o.NoMaint = cluster, true
	o.Policies = objstore.DefaultPolicies(6)
	b := open(t, o)
	for _, dir := range folders {
		if _, err := b.AddDisk(ctx, dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.FindKeyring(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recover(ctx, RecoverOptions{}); err != nil {
		t.Fatal(err)
	}
	return b, store
}

// TestNamesOnDisks: a namespace keeps its name when the store is lost right after it was made, also when some
// disks were away then, and though maintenance never ran.
func TestNamesOnDisks(t *testing.T) {
	ctx := context.Background()
	folders := dirs(t, 6)
	o := options(memkv.New(), folders)
	o.NoMaint, o.WatchEvery = true, time.Hour
	b := open(t, o)
	for _, d := range b.disks.Disks()[:2] {
		b.lost(d, errors.New("taken away"))
	}
	if _, err := b.Namespace(ctx, "mine"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b, _ = recoverOn(t, o.Cluster, folders[2:3])
	if _, err := b.Existing("mine"); err != nil {
		t.Fatal(err)
	}
}

// TestKeyringOnDisks: disks and secret alone are enough to read what is encrypted, after the store and every copy
// elsewhere are lost, and what is written then is encrypted, too. Disks that were away when the secret changed have a
// copy that only the old one opens; it is never preferred.
func TestKeyringOnDisks(t *testing.T) {
	ctx := context.Background()
	store, folders := memkv.New(), dirs(t, 6)
	b := open(t, sealedOptions(store, folders, 1))
	cluster := b.o.Cluster
	want := objects{}
	want.fill(t, namespace(t, b), 5)
	if err := b.maint.Label(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	away := folders[0] + ".away"
	if err := os.Rename(folders[0], away); err != nil {
		t.Fatal(err)
	}
	b = open(t, sealedOptions(store, folders, 1))
	if _, err := b.RotateKey(ctx, "ns", false, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.ChangeSecret(ctx, *secret(2)); err != nil {
		t.Fatal(err)
	}
	want.fill(t, namespace(t, b), 2)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, folders[0]); err != nil {
		t.Fatal(err)
	}

	b, store = recoverOn(t, cluster, folders)
	if k, err := b.Keys(ctx); err != nil || !k.Present || k.Unlocked || len(k.Namespaces) != 1 || k.Namespaces[0].Version != 2 {
		t.Fatalf("%+v, %v", k, err)
	}
	if p, err := b.disks.Preset(ctx, PresetName); err != nil || p.Encryption != objstore.EncryptAES {
		t.Fatalf("what is written from now on is not encrypted: %+v, %v", p, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	o := options(store, nil)
	o.Cluster = cluster
	o.Keys.Secret = secret(1)
	if _, err := Open(ctx, o); !errors.Is(err, objstore.ErrWrongKey) {
		t.Fatalf("the old secret opens it: %v", err)
	}
	o.Keys.Secret = secret(2)
	b = open(t, o)
	want.check(t, namespace(t, b))
	want.fill(t, namespace(t, b), 2)
}
