package crypt

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/gabionfs/gabion/objstore"
)

// Keyring is the keys of all namespaces, sealed. It is what is stored, and immutable.
type Keyring struct {
	kdf     KDF
	salt    [saltLen]byte
	cost    cost
	entries []entry // by namespace and version
}

type entry struct {
	namespace, version uint32
	box                Box
}

// Kind returns which kind of secret opens the keyring.
func (r *Keyring) Kind() KDF { return r.kdf }

// Version returns the newest version of the key of a namespace, 0 when it has none.
func (r *Keyring) Version(namespace uint32) (v uint32) {
	for _, e := range r.entries {
		if e.namespace == namespace && namespace != 0 {
			v = e.version
		}
	}
	return v
}

const (
	ringMagic  = "GK\x01"
	ringHead   = 3 + 1 + saltLen + 4 + 4 + 1
	maxEntries = 1 << 20
	maxRing    = 64 << 20 // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the keyring's bytes.
func (r *Keyring) Encode() []byte {
	b := append([]byte(ringMagic), byte(r.kdf))
	b = append(b, r.salt[:]...)
	b = binary.LittleEndian.AppendUint32(b, r.cost.time)
	b = binary.LittleEndian.AppendUint32(b, r.cost.memory)
	b = append(b, r.cost.lanes)
	b = binary.AppendUvarint(b, uint64(len(r.entries)))
	for _, e := range r.entries {
		b = binary.AppendUvarint(b, uint64(e.namespace))
		b = binary.AppendUvarint(b, uint64(e.version))
		b = append(b, e.box[:]...)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// DecodeKeyring is the inverse of Encode. Damage is a *objstore.CorruptError.
func DecodeKeyring(b []byte) (*Keyring, error) {
	r, err := decodeRing(b)
	if err != nil {
		return nil, &objstore.CorruptError{What: "keyring", Err: err}
	}
	return r, nil
}

func decodeRing(b []byte) (*Keyring, error) {
	if len(b) < ringHead+1+4 || len(b) > maxRing || string(b[:2]) != ringMagic[:2] {
		return nil, errors.New("no magic, or of an impossible length")
	}
	body, tail := b[:len(b)-4], b[len(b)-4:]
	if got, want := crc32.Checksum(body, castagnoli), binary.LittleEndian.Uint32(tail); got != want {
		return nil, fmt.Errorf("checksum %08x, expected %08x", got, want)
	}
	if body[2] != ringMagic[2] {
		return nil, fmt.Errorf("version %d, this program knows %d", body[2], ringMagic[2])
	}
	r := &Keyring{kdf: KDF(body[3])}
	copy(r.salt[:], body[4:])
	r.cost = cost{binary.LittleEndian.Uint32(body[20:]), binary.LittleEndian.Uint32(body[24:]), body[28]}
	if r.kdf != KeyFile && r.kdf != Passphrase {
		return nil, fmt.Errorf("%v is not known", r.kdf)
	}
	if err := r.cost.check(r.kdf); err != nil {
		return nil, err
	}
	body = body[ringHead:]
	count, n := binary.Uvarint(body)
	if body = body[max(n, 0):]; n <= 0 || count > maxEntries || count > uint64(len(body))/(2+uint64(len(Box{}))) {
		return nil, fmt.Errorf("%d entries in %d bytes", count, len(body))
	}
	for range count {
		var e entry
		for _, v := range []*uint32{&e.namespace, &e.version} {
			x, n := binary.Uvarint(body)
			if n <= 0 || x > 1<<32-1 {
				return nil, errors.New("an entry ends early")
			}
			*v, body = uint32(x), body[n:]
		}
		if len(body) < len(e.box) {
			return nil, errors.New("an entry ends early")
		}
		body = body[copy(e.box[:], body):]
		if k := len(r.entries); k > 0 && compareEntries(r.entries[k-1], e) >= 0 {
			return nil, errors.New("entries out of order")
		}
		r.entries = append(r.entries, e)
	}
	if len(body) != 0 {
		return nil, fmt.Errorf("%d bytes too many", len(body))
	}
	if len(r.entries) == 0 || r.entries[0].namespace != 0 || r.entries[0].version != 0 {
		return nil, errors.New("no entry that tells a right key from a wrong one")
	}
	return r, nil
}

func compareEntries(a, b entry) int {
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.version, b.version))
}

// Keys is a keyring with the key to it. Immutable: changes return another.
type Keys struct {
	*Keyring
	key Key
}

// NewKeys returns a keyring without namespaces, for that secret.
func NewKeys(s Secret) (*Keys, error) { return newKeys(s, usualCost) }

func newKeys(s Secret, c cost) (*Keys, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	k := &Keys{Keyring: &Keyring{kdf: s.Kind}}
	if s.Kind == Passphrase {
		k.cost = c
	}
	_, _ = rand.Read(k.salt[:]) // never fails
	var err error
	if k.key, err = s.derive(k.salt[:], k.cost); err != nil {
		return nil, err
	}
	return k.with(0, 0, newKey()), nil
}

// entryOf says what an entry's box is bound to.
func entryOf(namespace, version uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte("gabion keyring entry"), namespace), version)
}

// with returns the keyring with one more entry.
func (k *Keys) with(namespace, version uint32, key Key) *Keys {
	ring := *k.Keyring
	e := entry{namespace, version, k.key.sealKey(&key, entryOf(namespace, version))}
	at, _ := slices.BinarySearchFunc(ring.entries, e, compareEntries)
	ring.entries = slices.Insert(slices.Clone(ring.entries), at, e)
	return &Keys{Keyring: &ring, key: k.key}
}

// Unlock opens a keyring. Another secret than its own gives an error that matches objstore.ErrWrongKey.
func (r *Keyring) Unlock(s Secret) (*Keys, error) {
	if s.Kind != r.kdf {
		return nil, fmt.Errorf("%w: it is a %v, and what is encrypted here opens with a %v", objstore.ErrWrongKey, s.Kind, r.kdf)
	}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", objstore.ErrWrongKey, err)
	}
	key, err := s.derive(r.salt[:], r.cost)
	if err != nil {
		return nil, err
	}
	k := &Keys{Keyring: r, key: key}
	if _, err := key.openKey(&r.entries[0].box, entryOf(0, 0)); err != nil {
		return nil, fmt.Errorf("%w: another %v was used when this was made", objstore.ErrWrongKey, r.kdf)
	}
	return k, nil
}

// Change returns the same keys, sealed for another secret.
func (k *Keys) Change(s Secret) (*Keys, error) {
	out, err := NewKeys(s)
	if err != nil {
		return nil, err
	}
	for _, e := range k.entries[1:] {
		key, err := k.key.openKey(&e.box, entryOf(e.namespace, e.version))
		if err != nil {
			return nil, fmt.Errorf("key %d of namespace %d: %w", e.version, e.namespace, err)
		}
		out = out.with(e.namespace, e.version, key)
	}
	return out, nil
}

// Add returns the keyring with a secret and a first key for a namespace, or the same one when it has them.
func (k *Keys) Add(namespace uint32) *Keys {
	if k.Version(namespace) > 0 {
		return k
	}
	return k.with(namespace, 0, newKey()).with(namespace, 1, newKey())
}

// Rotate returns the keyring with a new key for a namespace that has one already.
func (k *Keys) Rotate(namespace uint32) (*Keys, error) {
	v := k.Version(namespace)
	if v == 0 {
		return nil, fmt.Errorf("key of namespace %d: %w", namespace, objstore.ErrNotFound)
	}
	return k.with(namespace, v+1, newKey()), nil
}

// Namespace opens the keys of a namespace.
func (k *Keys) Namespace(namespace uint32) (*NamespaceKeys, error) {
	out := &NamespaceKeys{namespace: namespace, keys: make(map[uint32]Key)}
	for _, e := range k.entries {
		if e.namespace != namespace || namespace == 0 {
			continue
		}
		key, err := k.key.openKey(&e.box, entryOf(namespace, e.version))
		if err != nil {
			return nil, fmt.Errorf("key %d of namespace %d: %w", e.version, namespace, err)
		}
		if e.version == 0 {
			out.secret = key
			continue
		}
		out.keys[e.version], out.newest = key, e.version
	}
	if out.newest == 0 {
		return nil, fmt.Errorf("key of namespace %d: %w", namespace, objstore.ErrNotFound)
	}
	return out, nil
}
