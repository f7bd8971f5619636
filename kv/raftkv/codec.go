package raftkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gabionfs/gabion/kv"
)

// This file reads and writes logpb.WriteBatch by hand: the encoder appends operations to a chunk that
// later is the log entry, and the decoder returns slices of the entry, so that a value is copied once
// on its way from the transaction into the log, the memory tables and the state file. codec_test.go
// holds it against the generated code.

const (
	tagTerm     = 1<<3 | 1 // fixed64
	tagNumber   = 2<<3 | 1 // fixed64
	tagOps      = 3<<3 | 2 // bytes
	tagKeyspace = 1<<3 | 2
	tagKey      = 2<<3 | 2
	tagSealed   = 3<<3 | 2

	headerSize = 2 * (1 + 8)
	sealSize   = 4 // bytes of checksum behind a value

	// maxEntry bounds a log entry that is decoded or stored: one transaction of the largest size, whose
	// operations may be as small as a one-byte key, has the worst ratio of framing to content.
	maxEntry = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers where a value belongs as well as what it is: the lengths of the keyspace's name and of the
// key, 32 bits each, then both, then the value. The first part is short and taken byte by byte: as a slice
// it would be allocated anew for each value.
func checksum(ks kv.Keyspace, key, value []byte) uint32 {
	c := ^uint32(0)
	for _, n := range [2]uint32{uint32(len(ks)), uint32(len(key))} {
		for range 4 {
			c = castagnoli[byte(c)^byte(n)] ^ c>>8
			n >>= 8
		}
	}
	for i := range len(ks) {
		c = castagnoli[byte(c)^ks[i]] ^ c>>8
	}
	c = crc32.Update(^c, castagnoli, key)
	return crc32.Update(c, castagnoli, value)
}

var errSeal = errors.New("a value does not match its checksum")

// unseal returns the value in a sealed value after verifying it.
func unseal(ks kv.Keyspace, key, sealed []byte) ([]byte, error) {
	n := len(sealed) - sealSize
	if n < 0 || binary.LittleEndian.Uint32(sealed[n:]) != checksum(ks, key, sealed[:n]) {
		return nil, fmt.Errorf("%w: %d bytes under key %.32q of %q", errSeal, len(sealed), key, ks)
	}
	return sealed[:n:n], nil
}

// op is one operation of a batch. sealed is nil for a delete.
type op struct {
	ks     kv.Keyspace
	key    []byte
	sealed []byte
}

// opSize is the encoded size of the operation's message, without its own tag and length.
func opSize(ks kv.Keyspace, key, value []byte, deleted bool) int {
	n := 1 + protowire.SizeBytes(len(ks)) + 1 + protowire.SizeBytes(len(key))
	if !deleted {
		n += 1 + protowire.SizeBytes(len(value)+sealSize)
	}
	return n
}

func appendHeader(b []byte, term, number uint64) []byte {
	b = binary.LittleEndian.AppendUint64(append(b, tagTerm), term)
	return binary.LittleEndian.AppendUint64(append(b, tagNumber), number)
}

// appendOp appends an operation and returns, as slices of b, what the memory tables keep of it.
func appendOp(b []byte, ks kv.Keyspace, key, value []byte, deleted bool) (out, ownKey, sealed []byte) {
	b = protowire.AppendVarint(append(b, tagOps), uint64(opSize(ks, key, value, deleted)))
	b = protowire.AppendVarint(append(b, tagKeyspace), uint64(len(ks)))
	b = append(b, ks...)
	b = protowire.AppendVarint(append(b, tagKey), uint64(len(key)))
	b = append(b, key...)
	ownKey = b[len(b)-len(key) : len(b) : len(b)]
	if deleted {
		return b, ownKey, nil
	}
	b = protowire.AppendVarint(append(b, tagSealed), uint64(len(value)+sealSize))
	start := len(b)
	b = append(b, value...)
	b = binary.LittleEndian.AppendUint32(b, checksum(ks, key, value))
	return b, ownKey, b[start:len(b):len(b)]
}

// header is the front of a batch.
type header struct{ term, number uint64 }

// decodeHeader reads the two numbers where this package's encoder puts them, and searches for them
// otherwise.
func decodeHeader(b []byte) (header, error) {
	if len(b) >= headerSize && b[0] == tagTerm && b[9] == tagNumber {
		return header{binary.LittleEndian.Uint64(b[1:]), binary.LittleEndian.Uint64(b[10:])}, nil
	}
	return decodeBatch(b, nil)
}

var errBatch = errors.New("malformed write batch")

// decodeBatch reads a whole batch and calls fn with each operation; fn may be nil. The slices are part
// of b. Every seal is verified.
func decodeBatch(b []byte, fn func(op) error) (h header, err error) {
	if len(b) > maxEntry {
		return h, fmt.Errorf("%w: %d bytes", errBatch, len(b))
	}
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return h, fmt.Errorf("%w: %v", errBatch, protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case num == 1 && typ == protowire.Fixed64Type:
			h.term, n = protowire.ConsumeFixed64(b)
		case num == 2 && typ == protowire.Fixed64Type:
			h.number, n = protowire.ConsumeFixed64(b)
		case num == 3 && typ == protowire.BytesType:
			var msg []byte
			if msg, n = protowire.ConsumeBytes(b); n >= 0 {
				o, err := decodeOp(msg)
				if err != nil {
					return h, err
				}
				if fn != nil {
					if err := fn(o); err != nil {
						return h, err
					}
				}
			}
		default: // a field of a later version
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return h, fmt.Errorf("%w: %v", errBatch, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return h, nil
}

// consumeTag is protowire's, with the upper bound on field numbers that generated code has.
func consumeTag(b []byte) (protowire.Number, protowire.Type, int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n >= 0 && num > protowire.MaxValidNumber {
		return 0, 0, -1
	}
	return num, typ, n
}

func decodeOp(b []byte) (o op, err error) {
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return o, fmt.Errorf("%w: %v", errBatch, protowire.ParseError(n))
		}
		b = b[n:]
		if num >= 1 && num <= 3 && typ == protowire.BytesType {
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				v = v[:len(v):len(v)]
				switch num {
				case 1:
					o.ks = kv.Keyspace(v)
				case 2:
					o.key = v
				case 3:
					o.sealed = v
				}
			}
		} else {
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return o, fmt.Errorf("%w: %v", errBatch, protowire.ParseError(n))
		}
		b = b[n:]
	}
	if err := kv.CheckKey(o.ks, o.key); err != nil {
		return o, fmt.Errorf("%w: %w", errBatch, err)
	}
	if o.sealed == nil {
		return o, nil
	}
	if len(o.sealed) > kv.MaxValue+sealSize {
		return o, fmt.Errorf("%w: a value of %d bytes", errBatch, len(o.sealed))
	}
	if _, err := unseal(o.ks, o.key, o.sealed); err != nil {
		return o, err
	}
	return o, nil
}
