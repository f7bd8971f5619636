package raftkv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
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

// wholeView opens a view whose state file is a whole picture without the memory tables, as it is between
// flushes. A flush that is under way is waited for only while it writes: before that it waits for commits, and
// they may need the member that the snapshot is for.
func (n *snapshots) wholeView() (*view, state, error) {
	s := n.store
	s.mu.Lock()
	s.waiting++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	for {
		s.mu.Lock()
		progress := s.progress
		s.mu.Unlock()
		v := new(view)
		if err := v.open(s, true); err != nil {
			return nil, state{}, err
		}
		st, err := v.gen.state()
		if err == nil && st.mixed == 0 {
			return v, st, nil
		}
		v.close()
		if err != nil {
			return nil, st, err
		}
		select {
		case <-progress:
		case <-s.stop:
			return nil, st, s.closedError()
		}
	}
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
	v, st, err := n.wholeView()
	if err != nil {
		return nil, nil, err
	}
	// What goes over the wire gets new checksums there: nothing damaged may leave.
	if _, err = v.gen.verify(context.Background()); err != nil {
		v.close()
		return nil, nil, err
	}
	size := int64(len(snapshotMagic)) + v.gen.pin.Size() + 4
	stream, err := n.stream(v)
	if err != nil {
		return nil, nil, err
	}
	return st.snapshot.raft(size), stream, nil
}

// stream returns the snapshot of a view, which it closes. While a view is open the state file cannot
// reuse pages, and a peer may take its time: so the snapshot is copied first, if the disk has room.
func (n *snapshots) stream(v *view) (io.ReadCloser, error) {
	f, err := n.store.spool("snapshot")
	if err != nil {
		v.close()
		return nil, err
	}
	if err = writeSnapshot(f, v.gen.pin); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		v.close()
		return f, nil
	}
	_ = f.Close()
	if !errors.Is(err, unix.ENOSPC) {
		v.close()
		return nil, fmt.Errorf("raftkv: copy the state: %w", err)
	}
	n.store.log.Warn("no room for a copy of the state: it grows while a member receives it", "dir", n.store.opts.Dir)
	pr, pw := io.Pipe()
	go func() {
		defer v.close()
		pw.CloseWithError(writeSnapshot(pw, v.gen.pin))
	}()
	return pr, nil
}

func writeSnapshot(w io.Writer, tx *bolt.Tx) error {
	if _, err := io.WriteString(w, snapshotMagic); err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	if _, err := tx.WriteTo(io.MultiWriter(w, sum)); err != nil {
		return err
	}
	_, err := w.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

func (s *Store) incoming() string { return filepath.Join(s.opts.Dir, incomingFile) }

// snapshotSink implements raft.SnapshotSink. Written to, it spills the stream to the incoming file,
// holding back the last four bytes, which are the checksum.
type snapshotSink struct {
	store *Store
	meta  snapshotMeta
	file  *os.File
	sum   hash.Hash32
	magic int // bytes of the magic that were seen
	tail  []byte

	unsynced int // bytes written since the last sync
}

// syncEvery is how much of a snapshot is written between two syncs.
const syncEvery = 16 << 20

func (k *snapshotSink) ID() string {
	if k.file != nil {
		return receivedID
	}
	return snapshotID
}

func (k *snapshotSink) Write(p []byte) (int, error) {
	n := len(p)
	if k.file == nil {
		f, err := os.OpenFile(k.store.incoming()+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		k.file, k.sum = f, crc32.New(castagnoli)
	}
	if rest := snapshotMagic[k.magic:]; rest != "" {
		m := min(len(rest), len(p))
		if string(p[:m]) != rest[:m] {
			return 0, errors.New("raftkv: what arrives is not a snapshot of a known version")
		}
		k.magic += m
		p = p[m:]
	}
	p = append(k.tail, p...)
	body := max(0, len(p)-4)
	k.tail = append([]byte(nil), p[body:]...)
	k.sum.Write(p[:body])
	if _, err := k.file.Write(p[:body]); err != nil {
		return 0, err
	}
	// Bit by bit, so that the logs on the same disk need not wait for all of it at once.
	if k.unsynced += body; k.unsynced >= syncEvery {
		k.unsynced = 0
		if err := k.file.Sync(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (k *snapshotSink) Close() error {
	if k.file == nil { // Persist has done everything
		return nil
	}
	defer k.file.Close()
	if len(k.tail) != 4 || binary.LittleEndian.Uint32(k.tail) != k.sum.Sum32() {
		return errors.New("raftkv: the snapshot that arrived does not match its checksum")
	}
	if err := k.file.Sync(); err != nil {
		return err
	}
	k.store.snaps.received = k.meta
	return os.Rename(k.file.Name(), k.store.incoming())
}

func (k *snapshotSink) Cancel() error {
	if k.file == nil {
		return nil
	}
	return errors.Join(k.file.Close(), os.Remove(k.file.Name()))
}

// restore puts the received snapshot in the place of everything this member had.
func (s *Store) restore() error {
	s.endEpoch(nil, s.notLeader())
	s.cancelHashes()
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	open := func() (*generation, state, error) {
		dir := s.opts.Dir
		// The checksums of the old file must be gone before the new one is there.
		if err := os.Remove(filepath.Join(dir, sumsFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, state{}, err
		}
		if err := syncDir(dir); err != nil {
			return nil, state{}, err
		}
		if err := os.Rename(s.incoming(), filepath.Join(dir, stateFile)); err != nil {
			return nil, state{}, err
		}
		if err := syncDir(dir); err != nil {
			return nil, state{}, err
		}
		g, st, err := openBase(dir, s.opts.mapBytes, s.log)
		if err == nil && st.mixed != 0 {
			_ = g.pin.Rollback()
			err = errors.Join(&kv.CorruptError{What: s.incoming(), Err: errors.New("a snapshot in the middle of a flush")}, g.base.close())
		}
		return g, st, err
	}
	err := s.swapBase(open, func(st state) {
		s.active, s.flushing = newMemtable(), nil
		s.seq++
		s.committed = s.seq
		s.applied = st
		s.reached = max(s.reached, st.snapshot.Index)
		s.appliedChanged.notify()
		s.stats.restores++
	})
	if err != nil {
		s.fail(err)
	}
	return err
}
