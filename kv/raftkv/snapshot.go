package raftkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/raft"
)

// A snapshot is not a second copy: it is the state file, which contains at least everything up to the
// snapshot's index. What it contains beyond is committed, and a member that is sent it skips the log
// entries that are in it, so it does no harm.
//
// Over the wire a snapshot is the magic below, the bbolt file as one read transaction sees it, and the
// CRC-32C of that file as four bytes, little endian.
const snapshotMagic = "gabion kv snap 1"

// The two snapshots there can be: the state file, and one that was just received.
const (
	snapshotID = "state"
	receivedID = "received"
)

// snapshotMeta is what raft wants to know about a snapshot.
type snapshotMeta struct {
	Index, Term uint64
	ConfigIndex uint64
	Config      []byte // raft.EncodeConfiguration
}

func (m snapshotMeta) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, m.Index)
	b = binary.LittleEndian.AppendUint64(b, m.Term)
	b = binary.LittleEndian.AppendUint64(b, m.ConfigIndex)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Config)))
	return append(b, m.Config...)
}

func parseSnapshotMeta(b []byte) (m snapshotMeta, err error) {
	const fixed = 3*8 + 4
	if len(b) < fixed || uint64(len(b)-fixed) != uint64(binary.LittleEndian.Uint32(b[24:])) {
		return m, errors.New("the snapshot's description has the wrong length")
	}
	m.Index = binary.LittleEndian.Uint64(b)
	m.Term = binary.LittleEndian.Uint64(b[8:])
	m.ConfigIndex = binary.LittleEndian.Uint64(b[16:])
	if len(b) > fixed {
		m.Config = append([]byte(nil), b[fixed:]...)
	}
	return m, nil
}

func (m snapshotMeta) raft(size int64) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: snapshotID, Index: m.Index, Term: m.Term, Size: size,
		Configuration: raft.DecodeConfiguration(m.Config), ConfigurationIndex: m.ConfigIndex,
	}
}

// snapshot implements raft.FSMSnapshot.
type snapshot struct{ s *Store }

func (n snapshot) Persist(sink raft.SnapshotSink) error { return n.s.flush(&sink.(*snapshotSink).meta) }
func (snapshot) Release()                               {}

// snapshots implements raft.SnapshotStore over the state file.
type snapshots struct {
	store    *Store
	received snapshotMeta // of the incoming file; used by raft's main goroutine, then the FSM's
}

var _ raft.SnapshotStore = (*snapshots)(nil)

// List implements raft.SnapshotStore.
func (n *snapshots) List() ([]*raft.SnapshotMeta, error) {
	n.store.mu.Lock()
	m := n.store.applied.snapshot
	n.store.mu.Unlock()
	if m.Index == 0 {
		return nil, nil
	}
	return []*raft.SnapshotMeta{m.raft(0)}, nil
}

// Create implements raft.SnapshotStore. The sink is either passed to Persist, or written to with a
// snapshot that the leader sends.
func (n *snapshots) Create(_ raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &snapshotSink{
		store: n.store,
		meta:  snapshotMeta{Index: index, Term: term, ConfigIndex: ci, Config: raft.EncodeConfiguration(c)},
	}, nil
}

// Open implements raft.SnapshotStore: it streams the state file as it is now.
func (n *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	switch id {
	case receivedID: // restore takes the file itself
		return n.received.raft(0), io.NopCloser(strings.NewReader("")), nil
	case snapshotID:
	default:
		return nil, nil, fmt.Errorf("raftkv: no snapshot %q", id)
	}
	return n.store.openSnapshot()
}
