package data

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/zeebo/blake3"
)

// A volume whose namespace is encrypted keeps no content in the clear in the key-value store either: its inline
// rows are sealed, each bound to its key, and the key of the content hash follows from the namespace's secret, so
// that nobody without it can tell what content there is. Such a volume has instead of its hash key a row of
//
//	0   1                17
//	+---+-----------------+
//	| 1 | proof           |
//	+---+-----------------+
//
// where proof is the start of the hash of nothing under that key. Names, sizes and times are not hidden.
const sealedKeyLen = 1 + 16

// hashKey is how content of a volume is named.
type hashKey struct {
	key    [32]byte
	sealed bool // it is derived, and inline rows are sealed
}

// secretOf returns a key of the namespace for a purpose, or false when it is not encrypted, or locked.
func secretOf(ns objstore.Namespace, purpose string) ([32]byte, bool) {
	if s, ok := ns.(objstore.Secretive); ok {
		return s.Secret(purpose)
	}
	return [32]byte{}, false
}

// loadKey reads the volume's hash key; the error matches kv.ErrNotFound in a volume that is new, and
// objstore.ErrLocked in one that is encrypted when the key is not there.
func loadKey(r kv.Reader, ns objstore.Namespace) (k hashKey, err error) {
	row, err := r.Get(ksData, keyHash)
	if err != nil {
		return k, err
	}
	switch {
	case len(row) == len(k.key):
		copy(k.key[:], row)
		return k, nil
	case len(row) != sealedKeyLen || row[0] != 1:
		return k, &DamageError{"the key of the content hash", errShort}
	}
	k.sealed = true
	var ok bool
	if k.key, ok = secretOf(ns, "content ids"); !ok {
		return k, objstore.ErrLocked
	}
	if !bytes.Equal(k.proof(), row) {
		return k, fmt.Errorf("%w: it is not the key of this volume", objstore.ErrWrongKey)
	}
	return k, nil
}

// proof is the row of a key that is derived.
func (k *hashKey) proof() []byte {
	h, err := blake3.NewKeyed(k.key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return append([]byte{1}, h.Sum(nil)[:sealedKeyLen-1]...)
}

// makeKey chooses the hash key of a new volume and writes its row.
func makeKey(t kv.Txn, ns objstore.Namespace) (k hashKey, err error) {
	if k.key, k.sealed = secretOf(ns, "content ids"); k.sealed {
		t.Put(ksData, keyHash, k.proof())
		return k, nil
	}
	if _, err := rand.Read(k.key[:]); err != nil {
		return k, err
	}
	t.Put(ksData, keyHash, append([]byte(nil), k.key[:]...))
	return k, nil
}

// sealRows returns store with the inline rows of an encrypted volume in the clear; any other is returned as it is.
// While the volume is locked the rows have the right lengths, and that is all that they are good for.
func sealRows(ctx context.Context, store kv.Store, ns objstore.Namespace) (kv.Store, error) {
	sealed := false
	err := store.View(ctx, kv.Pending, func(r kv.Reader) error {
		k, err := loadKey(r, ns)
		sealed = k.sealed
		return err
	})
	_, can := secretOf(ns, "inline rows")
	switch {
	case errors.Is(err, kv.ErrNotFound):
		sealed = can // the volume is new
	case errors.Is(err, objstore.ErrLocked):
	case err != nil:
		return nil, err
	}
	if !sealed {
		return store, nil
	}
	key, ok := secretOf(ns, "inline rows")
	return &sealedStore{store, rowSealer{crypt.Key(key), ok}}, nil
}

// rowSealer seals and opens inline rows.
type rowSealer struct {
	key  crypt.Key
	open bool // the key is there
}

func bound(key []byte) []byte { return append([]byte(ksInline+"\x00"), key...) }

func (s *rowSealer) seal(key, value []byte) []byte {
	return s.key.SealBox(make([]byte, 0, len(value)+crypt.BoxOverhead), value, bound(key))
}

func (s *rowSealer) unseal(key, box []byte) ([]byte, error) {
	if len(box) <= crypt.BoxOverhead {
		return nil, &DamageError{fmt.Sprintf("inline row %x", key), errShort}
	}
	if !s.open {
		return box[:len(box)-crypt.BoxOverhead], nil
	}
	v, err := s.key.OpenBox(nil, box, bound(key))
	if err != nil {
		return nil, &DamageError{fmt.Sprintf("inline row %x", key), err}
	}
	return v, nil
}

// sealedStore is a kv.Store whose inline rows are sealed on the way in and opened on the way out.
type sealedStore struct {
	kv.Store
	rows rowSealer
}

func (s *sealedStore) Update(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) error {
	return s.Store.Update(ctx, c, func(t kv.Txn) error { return fn(&sealedTxn{sealedReader{t, &s.rows}, t}) })
}

func (s *sealedStore) View(ctx context.Context, l kv.Level, fn func(kv.Reader) error) error {
	return s.Store.View(ctx, l, func(r kv.Reader) error { return fn(&sealedReader{r, &s.rows}) })
}

type sealedReader struct {
	r    kv.Reader
	rows *rowSealer
}

func (s *sealedReader) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	v, err := s.r.Get(ks, key)
	if ks != ksInline || err != nil {
		return v, err
	}
	return s.rows.unseal(key, v)
}

func (s *sealedReader) Range(ks kv.Keyspace, r kv.Range, fn func(key, value []byte) bool) error {
	if ks != ksInline {
		return s.r.Range(ks, r, fn)
	}
	var bad error
	err := s.r.Range(ks, r, func(key, value []byte) bool {
		var v []byte
		if v, bad = s.rows.unseal(key, value); bad != nil {
			return false
		}
		return fn(key, v)
	})
	return errors.Join(err, bad)
}

type sealedTxn struct {
	sealedReader
	t kv.Txn
}

func (s *sealedTxn) Put(ks kv.Keyspace, key, value []byte) {
	if ks == ksInline {
		value = s.rows.seal(key, value)
	}
	s.t.Put(ks, key, value)
}

func (s *sealedTxn) Delete(ks kv.Keyspace, key []byte) { s.t.Delete(ks, key) }
