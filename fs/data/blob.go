package data

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
)

// blobRow says how often a blob is referenced and where its bytes are.
type blobRow struct {
	refs   uint64
	pack   uint64
	off, n uint64 // of the blob in the pack's object
}

func (r *blobRow) encode() []byte {
	b := make([]byte, 0, 24)
	for _, v := range [...]uint64{r.refs, r.pack, r.off, r.n} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeBlob(b []byte) (r blobRow, err error) {
	b, err = uvarints(b, &r.refs, &r.pack, &r.off, &r.n)
	switch {
	case err != nil:
		return r, err
	case len(b) != 0:
		return r, errors.New("bytes after the row")
	case r.n == 0 || r.n > BlockSize || r.off > maxPack:
		return r, fmt.Errorf("blob of %d bytes at %d", r.n, r.off)
	}
	return r, nil
}

// getBlob returns kv.ErrNotFound when the blob has no row: nobody references it any more.
func getBlob(r kv.Reader, h *Hash) (blobRow, error) {
	v, err := r.Get(ksBlob, h[:])
	if err != nil {
		return blobRow{}, err
	}
	row, err := decodeBlob(v)
	if err != nil {
		return row, &DamageError{fmt.Sprintf("row of blob %x", h[:8]), err}
	}
	return row, nil
}

// packRow counts what is alive in one object.
type packRow struct {
	solo  bool   // one blob, no index; hash is its name
	blobs uint64 // blobs with a row
	live  uint64 // bytes of those
	total uint64 // bytes of all blobs that were put
	hash  Hash
}

const flagSolo = 1

// sparse reports whether a shared pack is mostly garbage, and so worth rewriting.
func (r *packRow) sparse() bool { return !r.solo && r.live*2 < r.total }

func (r *packRow) encode() []byte {
	b := make([]byte, 0, 48)
	var flags uint64
	if r.solo {
		flags = flagSolo
	}
	for _, v := range [...]uint64{flags, r.blobs, r.live, r.total} {
		b = binary.AppendUvarint(b, v)
	}
	if r.solo {
		b = append(b, r.hash[:]...)
	}
	return b
}

func decodePack(b []byte) (r packRow, err error) {
	var flags uint64
	if b, err = uvarints(b, &flags, &r.blobs, &r.live, &r.total); err != nil {
		return r, err
	}
	r.solo = flags&flagSolo != 0
	want := 0
	if r.solo {
		want = len(r.hash)
	}
	if flags&^flagSolo != 0 || len(b) != want || r.live > r.total || r.total > maxPack {
		return r, fmt.Errorf("flags %#x, %d of %d bytes alive, %d bytes left", flags, r.live, r.total, len(b))
	}
	copy(r.hash[:], b)
	return r, nil
}

func getPack(r kv.Reader, pack uint64) (packRow, error) {
	v, err := r.Get(ksPack, u64key(pack))
	if err != nil {
		return packRow{}, err
	}
	row, err := decodePack(v)
	if err != nil {
		return row, &DamageError{fmt.Sprintf("row of pack %d", pack), err}
	}
	return row, nil
}
