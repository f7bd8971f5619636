package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/local"
)

// keyOptions are the backend's, about encryption. A copy of the keyring is kept in the data directory.
func keyOptions(d *datadir.Dir, o Options) (local.KeyOptions, error) {
	restore, err := d.Keyring()
	if err != nil {
		return local.KeyOptions{}, err
	}
	return local.KeyOptions{Secret: o.Secret, Create: !o.Quiet, Restore: restore, Save: func(ring []byte) error {
		old, err := d.Keyring()
		if err != nil || string(old) == string(ring) {
			return err
		}
		return d.WriteKeyring(ring)
	}}, nil
}

// openVolume opens the filesystem. In a node that is quiet it stays closed while it is encrypted and the key was
// not given: everything but its content can be looked at and mended all the same.
func (n *Node) openVolume(ctx context.Context, o volume.Options) error {
	v, err := volume.Open(ctx, n.kv, n.content, o)
	switch {
	case errors.Is(err, objstore.ErrLocked) && n.o.Quiet:
		return nil
	case errors.Is(err, objstore.ErrLocked):
		return explainLocked(err)
	case err != nil:
		return fmt.Errorf("open the filesystem: %w", err)
	}
	n.volume = v
	n.session = v.Session(nil)
	return nil
}

// explainLocked says what to do about objstore.ErrLocked.
func explainLocked(err error) error {
	if !errors.Is(err, objstore.ErrLocked) {
		return err
	}
	return fmt.Errorf("the filesystem is encrypted: give --key-file or --passphrase-file, as when it was made: %w", err)
}

// Keys tells how things are with encryption.
func (n *Node) Keys(ctx context.Context) (control.Keys, error) {
	k := control.Keys{Namespaces: []control.NamespaceKey{}}
	s, err := n.objects.Keys(ctx)
	if err != nil || !s.Present {
		return k, err
	}
	k.Present, k.Unlocked, k.Secret = true, s.Unlocked, s.Kind.String()
	for _, ns := range s.Namespaces {
		k.Namespaces = append(k.Namespaces, control.NamespaceKey{Namespace: ns.Name, Version: ns.Version})
	}
	return k, nil
}

// RotateKey gives a namespace a new key.
func (n *Node) RotateKey(ctx context.Context, q control.RotateRequest) (control.Rotated, error) {
	r, err := n.objects.RotateKey(ctx, q.Namespace, q.Resume, nil)
	return control.Rotated{Objects: r.Objects, Changed: r.Changed}, err
}

// ChangeSecret makes another secret the one that is needed.
func (n *Node) ChangeSecret(ctx context.Context, s control.Secret) (control.Keys, error) {
	secret := crypt.Secret{Kind: crypt.KeyFile, Bytes: s.Bytes}
	if s.Passphrase {
		secret.Kind = crypt.Passphrase
	}
	if err := secret.Check(); err != nil {
		return control.Keys{}, fmt.Errorf("%w: %w", control.ErrBadRequest, err)
	}
	if err := n.objects.ChangeSecret(ctx, secret); err != nil {
		return control.Keys{}, err
	}
	return n.Keys(ctx)
}
