package raftkv

import (
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// state is what the state file knows about itself: which part of the log it contains.
type state struct {
	applied uint64 // index of the last log entry it contains
	term    uint64 // of the last batch that was applied, see logpb
	number  uint64

	// mixed is the log entry up to which some keys are newer than applied says: a flush is under way. The
	// file is a consistent picture once the entries up to there have been applied on top of it. 0: none.
	mixed uint64

	snapshot snapshotMeta // the last Raft snapshot; its index may be behind or ahead of applied
	voids    voids        // in a record of its own
}

const stateVersion = 2

// marshal lays the record out as: version u32, applied u64, term u64, number u64, mixed u64 (since version
// 2), the snapshot (see snapshotMeta.append), CRC-32C of all before as u32; little endian.
func (st state) marshal() []byte {
	b := binary.LittleEndian.AppendUint32(nil, stateVersion)
	b = binary.LittleEndian.AppendUint64(b, st.applied)
	b = binary.LittleEndian.AppendUint64(b, st.term)
	b = binary.LittleEndian.AppendUint64(b, st.number)
	b = binary.LittleEndian.AppendUint64(b, st.mixed)
	b = st.snapshot.append(b)
	return binary.LittleEndian.AppendUint32(b, crc(b))
}

func unmarshalState(b []byte) (st state, err error) {
	if len(b) < 4+4*8+4 {
		return st, errors.New("the state record is too short")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc(body) != sum {
		return st, errors.New("the state record does not match its checksum")
	}
	v := binary.LittleEndian.Uint32(body)
	if v < 1 || v > stateVersion {
		return st, fmt.Errorf("the state record has version %d, known is %d", v, stateVersion)
	}
	st.applied = binary.LittleEndian.Uint64(body[4:])
	st.term = binary.LittleEndian.Uint64(body[12:])
	st.number = binary.LittleEndian.Uint64(body[20:])
	rest := body[28:]
	if v >= 2 {
		st.mixed, rest = binary.LittleEndian.Uint64(rest), rest[8:]
	}
	st.snapshot, err = parseSnapshotMeta(rest)
	return st, err
}

func putState(tx *bolt.Tx, st state) error {
	m, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	if err := m.Put(voidsKey, st.voids.marshal()); err != nil {
		return err
	}
	return m.Put(stateKey, st.marshal())
}
