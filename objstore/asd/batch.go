package asd

import (
	"fmt"
	"hash/crc32"
)

// BlockSize is the unit of verification: every payload carries a CRC32C per block of this many bytes,
// and a partial read reads and verifies the blocks that it touches.
const BlockSize = 64 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is a list of asserts, puts and deletes that Apply carries out all or nothing. The asserts are
// checked against the state before the batch. When a key is put or deleted twice in a batch, the last one counts.
//
// A batch keeps references to the slices that it is given: keys, infos and payloads must not change
// until Apply returns. The zero value is empty and ready for use; a batch may be used again after Reset. Not
// safe for concurrent use.
type Batch struct {
	asserts []assert
	ops     []op
	bytes   int64
}

type assert struct {
	key     []byte
	kind    assertKind
	version uint64
}

type assertKind uint8

const (
	assertAbsent assertKind = iota
	assertExists
	assertVersion
)

func (as *assert) want() string {
	switch as.kind {
	case assertAbsent:
		return "absent"
	case assertExists:
		return "exists"
	}
	return fmt.Sprintf("version %d", as.version)
}

// op is a put or a delete on its way into a frame.
type op struct {
	kind    opKind
	damaged bool
	key     []byte
	info    []byte
	payload [][]byte
	size    int
	crcs    []byte // 4 bytes per block
	aligned bool   // the payload can be written from where it is

	// Of a move, which is a put of a record that is already there:
	move           bool
	seq            uint64
	prevLo, prevHi uint64
	from           location
}

type opKind uint8

const (
	opPut    opKind = 1
	opDelete opKind = 2
)

// AssertAbsent requires that there is no record under key.
func (b *Batch) AssertAbsent(key []byte) {
	b.asserts = append(b.asserts, assert{key: key, kind: assertAbsent})
}

// AssertExists requires that there is a record under key.
func (b *Batch) AssertExists(key []byte) {
	b.asserts = append(b.asserts, assert{key: key, kind: assertExists})
}

// AssertVersion requires that there is a record under key and that it has the given version, as
// Apply, Head or Range returned it.
func (b *Batch) AssertVersion(key []byte, version uint64) {
	b.asserts = append(b.asserts, assert{key: key, kind: assertVersion, version: version})
}

// Put stores a record under key, replacing the one that is there. Info is opaque to the ASD: it is what
// would be needed to rebuild the manifest that refers to this record. The payload is the
// concatenation of the slices.
//
// A payload of 32 KiB or more is written without being copied when every slice begins at a multiple of
// 4096 in memory and all but the last are a multiple of 4096 long; see BufferPool.
func (b *Batch) Put(key, info []byte, payload ...[]byte) {
	o := op{kind: opPut, key: key, info: info, payload: payload}
	for _, p := range payload {
		o.size += len(p)
	}
	b.bytes += int64(len(key) + len(info) + o.size)
	b.ops = append(b.ops, o)
}

// Delete removes the record under key, if there is one.
func (b *Batch) Delete(key []byte) {
	b.bytes += int64(len(key))
	b.ops = append(b.ops, op{kind: opDelete, key: key})
}

// Len returns the number of puts and deletes.
func (b *Batch) Len() int { return len(b.ops) }

// Bytes returns the bytes in keys, infos and payloads.
func (b *Batch) Bytes() int64 { return b.bytes }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	clear(b.asserts)
	clear(b.ops)
	b.asserts, b.ops, b.bytes = b.asserts[:0], b.ops[:0], 0
}

// prepare checks the limits and computes everything that needs no lock: checksums, alignment, sizes.
func (b *Batch) prepare(maxBytes int64) error {
	if len(b.ops) > MaxBatchOps || len(b.asserts) > MaxBatchOps {
		return fmt.Errorf("batch of %d operations and %d asserts: %w of %d", len(b.ops), len(b.asserts), ErrTooLarge, MaxBatchOps)
	}
	for i := range b.asserts {
		if err := checkKey(b.asserts[i].key); err != nil {
			return err
		}
	}
	var total int64
	for i := range b.ops {
		o := &b.ops[i]
		if err := checkKey(o.key); err != nil {
			return err
		}
		if len(o.info) > MaxInfo {
			return fmt.Errorf("info of %q, %d bytes: %w of %d", o.key, len(o.info), ErrTooLarge, MaxInfo)
		}
		if o.kind == opPut && !o.move {
			o.aligned = o.size >= minAligned && isAligned(o.payload)
			if o.crcs == nil {
				o.crcs = blockCRCs(o.payload, o.size)
			}
		}
		total += o.metaLen() + pageCeil(int64(o.size))
	}
	if total > maxBytes {
		return fmt.Errorf("batch of %d bytes: %w of %d", total, ErrTooLarge, maxBytes)
	}
	return nil
}

func checkKey(key []byte) error {
	if len(key) == 0 {
		return fmt.Errorf("empty key: %w", ErrInvalid)
	}
	if len(key) > MaxKey {
		return fmt.Errorf("key of %d bytes: %w of %d", len(key), ErrTooLarge, MaxKey)
	}
	return nil
}

// blockCRCs returns the checksums of the blocks of the concatenated slices.
func blockCRCs(payload [][]byte, size int) []byte {
	if size == 0 {
		return nil
	}
	out := make([]byte, 0, 4*blocks(size))
	var crc uint32
	var n int
	for _, p := range payload {
		for len(p) > 0 {
			m := min(len(p), BlockSize-n)
			crc = crc32.Update(crc, castagnoli, p[:m])
			p = p[m:]
			if n += m; n == BlockSize {
				out = le.AppendUint32(out, crc)
				crc, n = 0, 0
			}
		}
	}
	if n > 0 {
		out = le.AppendUint32(out, crc)
	}
	return out
}

func blocks(size int) int { return (size + BlockSize - 1) / BlockSize }
