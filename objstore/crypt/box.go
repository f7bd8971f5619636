package crypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/gabionfs/gabion/objstore"
)

// KeyLen is the length of every key in bytes.
const KeyLen = 32

// Key is a symmetric key.
type Key [KeyLen]byte

const (
	boxNonce = 24
	tagLen   = 16
)

// BoxOverhead is how much longer a box is than its content.
const BoxOverhead = boxNonce + tagLen

// Box is a sealed key.
type Box [KeyLen + BoxOverhead]byte

// SealBox appends content, sealed with key and bound to what, to dst.
func (k *Key) SealBox(dst, content, what []byte) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, boxNonce)...)
	_, _ = rand.Read(dst[n:]) // never fails, see its documentation
	aead, nonce := k.box(dst[n:])
	return aead.Seal(dst, nonce, content, what)
}

// OpenBox appends the content of a box to dst. A box that was sealed with another key, for something else, or that
// is damaged gives a *objstore.CorruptError.
func (k *Key) OpenBox(dst, box, what []byte) ([]byte, error) {
	if len(box) < BoxOverhead {
		return nil, &objstore.CorruptError{What: "sealed box", Err: fmt.Errorf("%d bytes", len(box))}
	}
	aead, nonce := k.box(box[:boxNonce])
	out, err := aead.Open(dst, nonce, box[boxNonce:], what)
	if err != nil {
		return nil, &objstore.CorruptError{What: "sealed box", Err: err}
	}
	return out, nil
}

// box returns the cipher and the nonce of the box with that random nonce.
func (k *Key) box(random []byte) (cipher.AEAD, []byte) {
	h, err := blake3.NewKeyed(k[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	h.Write(random)
	var out [KeyLen + 12]byte
	_, _ = h.Digest().Read(out[:]) // of unlimited length
	return newGCM(out[:KeyLen]), out[KeyLen:]
}

func newGCM(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has the right length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the right block size
	}
	return aead
}

// sealKey seals a key.
func (k *Key) sealKey(content *Key, what []byte) (b Box) {
	k.SealBox(b[:0], content[:], what)
	return b
}

func (k *Key) openKey(b *Box, what []byte) (content Key, err error) {
	_, err = k.OpenBox(content[:0], b[:], what)
	return content, err
}

// newKey draws a key.
func newKey() (k Key) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}
