package batch

import (
	"encoding/binary"
	"hash/crc32"
)

// Sum appends the checksum, for inputs that get past it.
func Sum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}
