package data

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Keyspaces of this package; doc.go draws them.
const (
	ksExtent kv.Keyspace = "extent"
	ksInline kv.Keyspace = "inline"
	ksFold   kv.Keyspace = "fold"
	ksBlob   kv.Keyspace = "blob"
	ksPack   kv.Keyspace = "pack"
	ksDead   kv.Keyspace = "dead"
	ksDoomed kv.Keyspace = "doomed"
	ksData   kv.Keyspace = "data"
)

var (
	// Rows of ksData.
	keyHash    = []byte("key")
	keyNext    = []byte("next")
	keySettled = []byte("settled")
)

// BlockSize is the alignment of blocks in a file and the largest blob.
const BlockSize = 4 << 20

var errShort = errors.New("value ends early")

// DamageError reports a row that does not decode or contradicts another.
type DamageError struct {
	What string
	Err  error
}

func (e *DamageError) Error() string { return fmt.Sprintf("data: %s is damaged: %v", e.What, e.Err) }
func (e *DamageError) Unwrap() error { return e.Err }

func u64key(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func extentKey(content uint64, block uint32) []byte {
	k := make([]byte, 12)
	binary.BigEndian.PutUint64(k, content)
	binary.BigEndian.PutUint32(k[8:], block)
	return k
}

func inlineKey(content uint64, block, off uint32) []byte {
	k := make([]byte, 16)
	binary.BigEndian.PutUint64(k, content)
	binary.BigEndian.PutUint32(k[8:], block)
	binary.BigEndian.PutUint32(k[12:], off)
	return k
}

// splitInlineKey is the inverse of inlineKey.
func splitInlineKey(k []byte) (content uint64, block, off uint32, ok bool) {
	if len(k) != 16 {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint64(k), binary.BigEndian.Uint32(k[8:]), binary.BigEndian.Uint32(k[12:]), true
}

// objectName is the name of a pack's object in the namespace. Names sort as ids do.
func objectName(pack uint64) string { return fmt.Sprintf("%016x", pack) }

// uvarints decodes len(out) unsigned varints from b and returns the rest.
func uvarints(b []byte, out ...*uint64) ([]byte, error) {
	for _, p := range out {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errShort
		}
		*p, b = v, b[n:]
	}
	return b, nil
}

func withLimit(r kv.Range, n int) kv.Range {
	r.Limit = n
	return r
}

// blockOf returns the block of an extent's key.
func blockOf(k []byte) uint32 { return binary.BigEndian.Uint32(k[8:]) }

func parseIno(k []byte) (fs.Ino, bool) {
	if len(k) != 8 {
		return 0, false
	}
	return fs.Ino(binary.BigEndian.Uint64(k)), true
}
