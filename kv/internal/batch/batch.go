// Package batch encodes the writes of transactions for their way to a member of a store: one batch has
// what several transactions wrote, in order.
//
//	+--------+---------+------ ... ------+--------------+
//	| "GSB"  | version | operations      | CRC32C, 4    |   little endian, of all before it
//	+--------+---------+------ ... ------+--------------+
//
//	operation:
//	+---------------------------+ . . . . . . . . . . .+-----------------+-----+ . . . . . . . . . . . . +
//	| uvarint 2*keyspace + del  : length 1 | its name   | uvarint length  | key | uvarint length | value  :
//	+---------------------------+ . . . . . . . . . . .+-----------------+-----+ . . . . . . . . . . . . +
//
// keyspace is the number of a keyspace in the order in which they appear, from 1; 0 stands for the next
// one, whose name follows. A delete (del = 1) has no value.
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/gabionfs/gabion/kv"
)

const (
	magic   = "GSB\x01" // and the version
	sumSize = 4
)

// Overhead bounds the bytes that one operation takes beside its key and value, unless it introduces a
// keyspace.
const Overhead = 3 + 3 + 4

// MaxSize bounds an encoded batch: the largest transaction, of operations as small as they come.
const MaxSize = 8 * kv.MaxBatch

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrMalformed is what every damaged batch gives.
var ErrMalformed = errors.New("malformed batch")

// Encoder builds one batch. The zero value is an empty one. Not safe for concurrent use.
type Encoder struct {
	buf   []byte
	names []kv.Keyspace
}

// Use gives an empty encoder memory to begin with. What was in it is lost.
func (e *Encoder) Use(buf []byte) { e.buf = buf[:0] }

// Grow makes room for n more bytes.
func (e *Encoder) Grow(n int) {
	if cap(e.buf)-len(e.buf) >= n+len(magic)+sumSize {
		return
	}
	b := make([]byte, len(e.buf), max(2*cap(e.buf), len(e.buf)+n+len(magic)+sumSize))
	copy(b, e.buf)
	e.buf = b
}

// Len is how many bytes the batch has until now.
func (e *Encoder) Len() int { return len(e.buf) }

// Put appends that key is set to value.
func (e *Encoder) Put(ks kv.Keyspace, key, value []byte) {
	e.key(ks, key, 0)
	e.buf = binary.AppendUvarint(e.buf, uint64(len(value)))
	e.buf = append(e.buf, value...)
}

// Delete appends that key is removed.
func (e *Encoder) Delete(ks kv.Keyspace, key []byte) { e.key(ks, key, 1) }

func (e *Encoder) key(ks kv.Keyspace, key []byte, del uint64) {
	if len(e.buf) == 0 {
		e.buf = append(e.buf, magic...)
	}
	e.buf = e.keyspace(e.buf, ks, del)
	e.buf = binary.AppendUvarint(e.buf, uint64(len(key)))
	e.buf = append(e.buf, key...)
}

func (e *Encoder) keyspace(b []byte, ks kv.Keyspace, del uint64) []byte {
	for i, name := range e.names {
		if name == ks {
			return binary.AppendUvarint(b, 2*uint64(i+1)+del)
		}
	}
	e.names = append(e.names, ks)
	b = append(b, byte(del), byte(len(ks)))
	return append(b, ks...)
}

// Finish returns the encoded batch. Nothing may be appended afterwards.
func (e *Encoder) Finish() []byte {
	if len(e.buf) == 0 {
		e.buf = append(e.buf, magic...)
	}
	return binary.LittleEndian.AppendUint32(e.buf, crc32.Checksum(e.buf, castagnoli))
}

// Decode calls fn with each operation of an encoded batch, in order, until fn returns an error. The
// slices are parts of data; value is nil for a delete and not nil otherwise. Damage is found before fn is called at all,
// unless its writer made it: keys and values over the limits of package kv match ErrMalformed too.
func Decode(data []byte, fn func(ks kv.Keyspace, key, value []byte) error) error {
	body := len(data) - sumSize
	if body < len(magic) || len(data) > MaxSize || string(data[:len(magic)]) != magic {
		return fmt.Errorf("%w: %d bytes do not begin as one", ErrMalformed, len(data))
	}
	if crc32.Checksum(data[:body], castagnoli) != binary.LittleEndian.Uint32(data[body:]) {
		return fmt.Errorf("%w: checksum", ErrMalformed)
	}
	d := decoder{rest: data[len(magic):body:body]}
	for len(d.rest) > 0 {
		ks, key, value, err := d.operation()
		if err != nil {
			return err
		}
		if err := fn(ks, key, value); err != nil {
			return err
		}
	}
	return nil
}

type decoder struct {
	rest  []byte
	names []kv.Keyspace
}

func (d *decoder) operation() (ks kv.Keyspace, key, value []byte, err error) {
	head, err := d.uvarint()
	if err != nil {
		return ks, nil, nil, err
	}
	switch n := head >> 1; {
	case n == 0:
		name, err := d.bytes(kv.MaxKeyspace, "keyspace")
		if err != nil {
			return ks, nil, nil, err
		}
		ks = kv.Keyspace(name)
		d.names = append(d.names, ks)
	case n > uint64(len(d.names)):
		return ks, nil, nil, fmt.Errorf("%w: keyspace %d of %d", ErrMalformed, n, len(d.names))
	default:
		ks = d.names[n-1]
	}
	if key, err = d.bytes(kv.MaxKey, "key"); err != nil {
		return ks, nil, nil, err
	}
	if head&1 == 0 {
		if value, err = d.bytes(kv.MaxValue, "value"); err != nil {
			return ks, nil, nil, err
		}
	}
	if err := kv.CheckKey(ks, key); err != nil {
		return ks, nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return ks, key, value, nil
}

func (d *decoder) uvarint() (uint64, error) {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		return 0, fmt.Errorf("%w: a number is cut off", ErrMalformed)
	}
	d.rest = d.rest[n:]
	return v, nil
}

func (d *decoder) bytes(limit uint64, what string) ([]byte, error) {
	n, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	if n > limit || n > uint64(len(d.rest)) {
		return nil, fmt.Errorf("%w: %s of %d bytes, %d are left", ErrMalformed, what, n, len(d.rest))
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b, nil
}
