package crypt

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/gabionfs/gabion/objstore"
)

// NamespaceKeys are the keys of one namespace. Immutable, and safe for concurrent use.
type NamespaceKeys struct {
	namespace uint32
	secret    Key
	keys      map[uint32]Key // by version
	newest    uint32
}

// Newest returns the version of the key that seals new data keys.
func (n *NamespaceKeys) Newest() uint32 { return n.newest }

// Secret derives a key for a purpose. It does not change when the key of the namespace is rotated.
func (n *NamespaceKeys) Secret(purpose string) [KeyLen]byte {
	h, err := blake3.NewKeyed(n.secret[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	_, _ = h.WriteString("gabion secret of a namespace: " + purpose)
	var out Key
	h.Sum(out[:0])
	return out
}

// Wrapped is the data key of an object, sealed with a key of the namespace.
type Wrapped struct {
	Key uint32 // version of the namespace's key
	Box Box
}

func (n *NamespaceKeys) dataKeyOf(upload uint64, version uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte("gabion data key"), n.namespace)
	b = binary.BigEndian.AppendUint64(b, upload)
	return binary.BigEndian.AppendUint32(b, version)
}

// NewObject draws a data key for an upload.
func (n *NamespaceKeys) NewObject(upload uint64) (*Object, *Wrapped) {
	data, k := newKey(), n.keys[n.newest]
	return n.object(upload, &data), &Wrapped{n.newest, k.sealKey(&data, n.dataKeyOf(upload, n.newest))}
}

// Object opens the data key of an upload. One that is not of this namespace and upload gives an error that matches
// objstore.ErrWrongKey.
func (n *NamespaceKeys) Object(upload uint64, w *Wrapped) (*Object, error) {
	data, err := n.unwrap(upload, w)
	if err != nil {
		return nil, err
	}
	return n.object(upload, &data), nil
}

func (n *NamespaceKeys) unwrap(upload uint64, w *Wrapped) (Key, error) {
	k, ok := n.keys[w.Key]
	if !ok {
		return Key{}, fmt.Errorf("%w: the object needs key %d of the namespace, known are up to %d", objstore.ErrWrongKey, w.Key, n.newest)
	}
	data, err := k.openKey(&w.Box, n.dataKeyOf(upload, w.Key))
	if err != nil {
		return Key{}, fmt.Errorf("%w: data key of upload %d: %w", objstore.ErrWrongKey, upload, err)
	}
	return data, nil
}

// Rewrap seals the data key of an upload with the newest key.
func (n *NamespaceKeys) Rewrap(upload uint64, w *Wrapped) (*Wrapped, error) {
	data, err := n.unwrap(upload, w)
	if err != nil {
		return nil, err
	}
	k := n.keys[n.newest]
	return &Wrapped{n.newest, k.sealKey(&data, n.dataKeyOf(upload, n.newest))}, nil
}

// Overhead is how much longer a sealed frame is than its content.
const Overhead = tagLen

// Object seals and opens the frames of one upload. Safe for concurrent use.
type Object struct {
	aead      cipher.AEAD
	namespace uint32
	upload    uint64
}

func (n *NamespaceKeys) object(upload uint64, data *Key) *Object {
	return &Object{newGCM(data[:]), n.namespace, upload}
}

// Position says which frame of an object is meant.
type Position struct {
	Encoding    uint32 // of its chunk
	Frame       uint32 // in the encoding
	Offset      int64  // in the object
	Len         int    // decoded
	Compression objstore.Compression
}

const aadLen = 28

// bind returns the nonce and the associated data of a frame.
func (o *Object) bind(p Position) (nonce [12]byte, aad [aadLen]byte) {
	binary.BigEndian.PutUint32(nonce[0:], p.Encoding)
	binary.BigEndian.PutUint32(nonce[8:], p.Frame)
	copy(aad[:], "GF\x01")
	binary.BigEndian.PutUint32(aad[3:], o.namespace)
	binary.BigEndian.PutUint64(aad[7:], o.upload)
	binary.BigEndian.PutUint64(aad[15:], uint64(p.Offset))
	binary.BigEndian.PutUint32(aad[23:], uint32(p.Len))
	aad[27] = byte(p.Compression)
	return nonce, aad
}

// Seal appends content, the frame at p, sealed, to dst. They do not overlap.
func (o *Object) Seal(dst, content []byte, p Position) []byte {
	nonce, aad := o.bind(p)
	return o.aead.Seal(dst, nonce[:], content, aad[:])
}

// Open appends the content of a sealed frame to dst, which may be sealed[:0]. A frame that is damaged or belongs
// elsewhere gives a *objstore.CorruptError.
func (o *Object) Open(dst, sealed []byte, p Position) ([]byte, error) {
	nonce, aad := o.bind(p)
	out, err := o.aead.Open(dst, nonce[:], sealed, aad[:])
	if err != nil {
		return nil, &objstore.CorruptError{What: "sealed frame", Err: err}
	}
	return out, nil
}
