package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/maint"
)

// KeyOptions are about encryption. The zero value is a backend that is locked: what is encrypted in it can be
// neither read nor written, but healed and deleted.
type KeyOptions struct {
	// Secret opens the keyring; one that does not fit fails Open. nil: it stays locked.
	Secret *crypt.Secret
	// Create makes a keyring when there is none.
	Create bool
	// Restore is a copy of the keyring, for when the store has lost it; nil: there is none.
	Restore []byte
	// Save keeps a copy of the keyring beside those on the disks; it is called when it is made and with each change.
	// nil: nobody does.
	Save func(ring []byte) error
}

// FindKeyring has the store take the newest copy of the keyring that is on the disks, if it has none. It reports
// whether there was one. What is written from then on is encrypted, as before the keyring was lost.
func (b *Backend) FindKeyring(ctx context.Context) (found bool, err error) {
	if _, err := b.disks.Keyring(ctx); !errors.Is(err, objstore.ErrNotFound) {
		return false, err
	}
	_, ring := maint.Keyring(ctx, b.disks)
	if ring == nil {
		return false, nil
	}
	if err := b.disks.RestoreKeyring(ctx, ring); err != nil {
		return false, err
	}
	if b.o.Keys.Save != nil {
		if err := b.o.Keys.Save(ring); err != nil {
			return false, err
		}
	}
	return true, b.disks.EncryptUnused(ctx, PresetName)
}

// unlock opens the keyring.
func (b *Backend) unlock(ctx context.Context) error {
	o := b.o.Keys
	if o.Restore != nil {
		if err := b.disks.RestoreKeyring(ctx, o.Restore); err != nil {
			return fmt.Errorf("restore the keyring: %w", err)
		}
	}
	// What there is now maintenance brings to the disks; changes are there before anybody relies on them.
	changes := false
	err := b.disks.OnKeyring(ctx, func(ring []byte) error {
		if o.Save != nil {
			if err := o.Save(ring); err != nil {
				return err
			}
		}
		if !changes {
			return nil
		}
		return b.maint.Label(context.Background())
	})
	if err != nil {
		return err
	}
	changes = true
	if o.Secret == nil {
		return nil
	}
	err = b.disks.Unlock(ctx, *o.Secret, o.Create)
	if errors.Is(err, objstore.ErrNotFound) {
		return nil // nothing is encrypted here
	}
	return err
}

// giveKeys gives a namespace its keys, as far as they can be had.
func (b *Backend) giveKeys(ctx context.Context, ns *client.Namespace) error {
	if ns.Preset().Encryption == objstore.EncryptNone {
		return nil
	}
	keys, err := b.disks.NamespaceKeys(ctx, ns.NSM().Number())
	if errors.Is(err, objstore.ErrLocked) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keys of namespace %q: %w", ns.NSM().Name(), err)
	}
	ns.SetKeys(keys)
	return nil
}

// checkUnlocked refuses to make a namespace whose key cannot be kept.
func (b *Backend) checkUnlocked(p objstore.Preset) error {
	if p.Encryption != objstore.EncryptNone && !b.disks.Unlocked() {
		return fmt.Errorf("preset %s encrypts: %w", p.Name, objstore.ErrLocked)
	}
	return nil
}

// KeyStatus says how things are with the keys.
type KeyStatus struct {
	Present    bool // there is a keyring
	Unlocked   bool
	Kind       crypt.KDF
	Namespaces []NamespaceKey // that are encrypted, by number
}

// NamespaceKey is the newest key of a namespace.
type NamespaceKey struct {
	Name    string
	Version uint32
}

// Keys returns how things are with the keys.
func (b *Backend) Keys(ctx context.Context) (KeyStatus, error) {
	var s KeyStatus
	ring, err := b.disks.Keyring(ctx)
	if errors.Is(err, objstore.ErrNotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.Present, s.Unlocked, s.Kind = true, b.disks.Unlocked(), ring.Kind()
	for _, ns := range b.list() {
		if v := ring.Version(ns.NSM().Number()); v > 0 {
			s.Namespaces = append(s.Namespaces, NamespaceKey{ns.NSM().Name(), v})
		}
	}
	return s, nil
}

// RotateKey gives a namespace a new key and seals the data keys of all its objects with it. The content stays as it
// is. When it is cut off everything can be read still; with resume the rest is done, without another key.
func (b *Backend) RotateKey(ctx context.Context, namespace string, resume bool, progress func(client.Rewrapped)) (client.Rewrapped, error) {
	b.mu.Lock()
	ns := b.namespaces[namespace]
	b.mu.Unlock()
	if ns == nil {
		return client.Rewrapped{}, fmt.Errorf("namespace %q: %w", namespace, objstore.ErrNotFound)
	}
	if ns.Preset().Encryption == objstore.EncryptNone {
		return client.Rewrapped{}, fmt.Errorf("namespace %q is not encrypted: %w", namespace, errors.ErrUnsupported)
	}
	if !resume {
		keys, err := b.disks.RotateKey(ctx, ns.NSM().Number())
		if err != nil {
			return client.Rewrapped{}, err
		}
		ns.SetKeys(keys)
	}
	return ns.Rewrap(ctx, progress)
}

// ChangeSecret makes another secret the one that opens the keyring.
func (b *Backend) ChangeSecret(ctx context.Context, s crypt.Secret) error {
	return b.disks.ChangeSecret(ctx, s)
}
