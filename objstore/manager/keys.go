package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
)

const ksKey kv.Keyspace = "obj/key"

var keyringKey = []byte("keyring")

// keys is the keyring of all namespaces, once it is unlocked.
type keys struct {
	mu   sync.Mutex // held while it changes
	open *crypt.Keys
	// saved is told the keyring after each change, and before the change is relied on.
	saved func(ring []byte) error
}

// OnKeyring makes fn keep a copy of the keyring elsewhere: it is called with what there is now, and with each
// change. Without the keyring nothing that is encrypted can be read, and it is the only part of the key-value store
// that cannot be made again from the disks.
func (m *Manager) OnKeyring(ctx context.Context, fn func(ring []byte) error) error {
	m.keys.mu.Lock()
	defer m.keys.mu.Unlock()
	m.keys.saved = fn
	raw, err := m.rawKeyring(ctx)
	if errors.Is(err, objstore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return fn(raw)
}

// RestoreKeyring puts a copy of a keyring in the place of one that is lost. When there is one it does nothing.
func (m *Manager) RestoreKeyring(ctx context.Context, raw []byte) error {
	if _, err := crypt.DecodeKeyring(raw); err != nil {
		return err
	}
	m.keys.mu.Lock()
	defer m.keys.mu.Unlock()
	return m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if _, err := tx.Get(ksKey, keyringKey); !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		tx.Put(ksKey, keyringKey, raw)
		return nil
	})
}

func (m *Manager) rawKeyring(ctx context.Context) (raw []byte, err error) {
	err = m.store.View(ctx, kv.Pending, func(r kv.Reader) error {
		b, err := r.Get(ksKey, keyringKey)
		raw = bytes.Clone(b)
		return err
	})
	if err != nil {
		return nil, notFound("keyring", "", err)
	}
	return raw, nil
}

// Keyring returns the keyring, or objstore.ErrNotFound when nothing was ever encrypted.
func (m *Manager) Keyring(ctx context.Context) (*crypt.Keyring, error) {
	raw, err := m.rawKeyring(ctx)
	if err != nil {
		return nil, err
	}
	return crypt.DecodeKeyring(raw)
}

// Unlock opens the keyring with a secret; with create one is made when there is none. A secret that does not fit
// gives an error that matches objstore.ErrWrongKey, and changes nothing.
func (m *Manager) Unlock(ctx context.Context, s crypt.Secret, create bool) error {
	m.keys.mu.Lock()
	defer m.keys.mu.Unlock()
	ring, err := m.Keyring(ctx)
	if err == nil {
		if m.keys.open, err = ring.Unlock(s); err != nil {
			return err
		}
		return nil
	}
	if !errors.Is(err, objstore.ErrNotFound) || !create {
		return err
	}
	open, err := crypt.NewKeys(s)
	if err != nil {
		return err
	}
	return m.saveKeys(ctx, nil, open)
}

// Unlocked tells whether the keyring is open.
func (m *Manager) Unlocked() bool {
	m.keys.mu.Lock()
	defer m.keys.mu.Unlock()
	return m.keys.open != nil
}

// saveKeys stores a keyring in the place of the one that it was made from; keys.mu is held.
func (m *Manager) saveKeys(ctx context.Context, old, now *crypt.Keys) error {
	raw := now.Encode()
	err := m.store.Update(context.WithoutCancel(ctx), kv.Durable, func(tx kv.Txn) error {
		b, err := tx.Get(ksKey, keyringKey)
		switch {
		case errors.Is(err, kv.ErrNotFound) && old == nil:
		case err != nil && !errors.Is(err, kv.ErrNotFound):
			return err
		case old == nil || err != nil || !bytes.Equal(b, old.Encode()):
			return errors.New("objstore: the keyring was changed by someone else")
		}
		tx.Put(ksKey, keyringKey, raw)
		return nil
	})
	if err != nil {
		return fmt.Errorf("store the keyring: %w", err)
	}
	m.keys.open = now
	if m.keys.saved != nil {
		if err := m.keys.saved(raw); err != nil {
			return fmt.Errorf("keep a copy of the keyring: %w", err)
		}
	}
	return nil
}

// changeKeys stores what change makes of the keyring.
func (m *Manager) changeKeys(ctx context.Context, change func(*crypt.Keys) (*crypt.Keys, error)) (*crypt.Keys, error) {
	m.keys.mu.Lock()
	defer m.keys.mu.Unlock()
	old := m.keys.open
	if old == nil {
		return nil, objstore.ErrLocked
	}
	now, err := change(old)
	if err != nil || now == old {
		return now, err
	}
	return now, m.saveKeys(ctx, old, now)
}

// NamespaceKeys returns the keys of a namespace, which gets some when it has none. While the keyring is locked the
// error matches objstore.ErrLocked.
func (m *Manager) NamespaceKeys(ctx context.Context, number uint32) (*crypt.NamespaceKeys, error) {
	k, err := m.changeKeys(ctx, func(k *crypt.Keys) (*crypt.Keys, error) { return k.Add(number), nil })
	if err != nil {
		return nil, err
	}
	return k.Namespace(number)
}

// RotateKey gives a namespace a new key, durably, and returns its keys. Data keys that are sealed with an older one
// stay so until they are rewrapped.
func (m *Manager) RotateKey(ctx context.Context, number uint32) (*crypt.NamespaceKeys, error) {
	k, err := m.changeKeys(ctx, func(k *crypt.Keys) (*crypt.Keys, error) { return k.Rotate(number) })
	if err != nil {
		return nil, err
	}
	return k.Namespace(number)
}

// ChangeSecret seals the keyring for another secret: from then on only that one opens it.
func (m *Manager) ChangeSecret(ctx context.Context, s crypt.Secret) error {
	_, err := m.changeKeys(ctx, func(k *crypt.Keys) (*crypt.Keys, error) { return k.Change(s) })
	return err
}
