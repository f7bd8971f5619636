package raftkv

import (
	"encoding/binary"
	"errors"
	"slices"
)

// voids tells which entries of the log every member skipped, see logpb. Whether an entry counts depends on
// those before it, so it is written down when it is applied: whoever reads the log later may begin in its
// middle. It is part of the state file.
type voids struct {
	since uint64   // known for entries from this one on; 0 in no file that was opened
	list  []uint64 // ascending
}

// add notes that the entry does not count.
func (v *voids) add(index uint64) { v.list = append(v.list, index) }

func (v *voids) has(index uint64) bool {
	_, found := slices.BinarySearch(v.list, index)
	return found
}

// forget drops what is known of entries before index. Copies of v keep it.
func (v *voids) forget(index uint64) {
	n, _ := slices.BinarySearch(v.list, index)
	v.list = slices.Clone(v.list[n:])
	v.since = max(v.since, index)
}

// marshal lays the record out as: since u64, the number of entries u32, their indices u64 each, CRC-32C of
// all before u32; little endian.
func (v *voids) marshal() []byte {
	b := binary.LittleEndian.AppendUint64(nil, v.since)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(v.list)))
	for _, i := range v.list {
		b = binary.LittleEndian.AppendUint64(b, i)
	}
	return binary.LittleEndian.AppendUint32(b, crc(b))
}

func parseVoids(b []byte) (v voids, err error) {
	if len(b) < 16 || len(b)%8 != 0 || uint64(len(b)-16)/8 != uint64(binary.LittleEndian.Uint32(b[8:])) {
		return v, errors.New("the list of void entries has the wrong length")
	}
	body := b[:len(b)-4]
	if crc(body) != binary.LittleEndian.Uint32(b[len(body):]) {
		return v, errors.New("the list of void entries does not match its checksum")
	}
	v.since = binary.LittleEndian.Uint64(b)
	for at := 12; at < len(body); at += 8 {
		v.list = append(v.list, binary.LittleEndian.Uint64(body[at:]))
	}
	if !slices.IsSorted(v.list) {
		return v, errors.New("the list of void entries is not in order")
	}
	return v, nil
}
