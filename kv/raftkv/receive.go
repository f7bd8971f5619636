package raftkv

import (
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/gabionfs/gabion/kv"
)

func (s *Store) incoming() string { return filepath.Join(s.opts.Dir, incomingFile) }

// snapshotSink implements raft.SnapshotSink. Written to, it spills the stream to the incoming file in slices,
// holding back the last four bytes, which are the checksum.
type snapshotSink struct {
	store *Store
	meta  snapshotMeta
	file  *os.File
	out   sliceFile
	sum   hash.Hash32
	magic int    // bytes of the magic that were seen
	held  []byte // not written yet, always the last four bytes too
}

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
		k.file, k.out, k.sum = f, sliceFile{file: f}, crc32.New(castagnoli)
		k.held = make([]byte, 0, sliceBytes+4)
	}
	if rest := snapshotMagic[k.magic:]; rest != "" {
		m := min(len(rest), len(p))
		if string(p[:m]) != rest[:m] {
			return 0, errors.New("raftkv: what arrives is not a snapshot of a known version")
		}
		k.magic += m
		p = p[m:]
	}
	for len(p) > 0 {
		m := min(len(p), cap(k.held)-len(k.held))
		k.held = append(k.held, p[:m]...)
		if p = p[m:]; len(k.held) == cap(k.held) {
			if err := k.spill(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// spill writes what is held, without the last four bytes.
func (k *snapshotSink) spill() error {
	body := k.held[:max(0, len(k.held)-4)]
	k.sum.Write(body)
	_, err := k.out.Write(body)
	k.held = append(k.held[:0], k.held[len(body):]...)
	return err
}

func (k *snapshotSink) Close() error {
	if k.file == nil { // Persist has done everything
		return nil
	}
	defer k.file.Close()
	if err := k.spill(); err != nil {
		return err
	}
	if len(k.held) != 4 || binary.LittleEndian.Uint32(k.held) != k.sum.Sum32() {
		return errors.New("raftkv: the snapshot that arrived does not match its checksum")
	}
	if err := k.out.finish(); err != nil {
		return err
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
