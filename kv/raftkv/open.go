package raftkv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv/raftlog"
)

func (s *Store) openFiles() error {
	// What a crash left: a snapshot that was not received whole, files that were to be removed.
	_ = os.Remove(filepath.Join(s.opts.Dir, incomingFile))
	if err := s.removeSpools(); err != nil {
		return err
	}
	var err error
	s.wal, err = raftlog.Open(raftlog.Options{
		Dir: filepath.Join(s.opts.Dir, logDir), Logger: s.log, OnFailure: s.fail, SegmentBytes: s.opts.SegmentBytes,
		Sync: s.opts.syncLog,
	})
	if err != nil {
		return err
	}
	first, _ := s.wal.FirstIndex()
	last, _ := s.wal.LastIndex()
	_, err = s.wal.GetUint64([]byte("CurrentTerm"))
	known := last != 0 || err == nil // raft has run here
	s.replay = last
	path := filepath.Join(s.opts.Dir, stateFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && !known {
		if err := createBase(path); err != nil {
			return fmt.Errorf("raftkv: create %s: %w", path, err)
		}
	}
	gen, st, err := openBase(s.opts.Dir, s.opts.mapBytes, s.log)
	if err != nil {
		return err
	}
	s.gen, s.applied, s.reached = gen, st, st.snapshot.Index
	s.snaps = &snapshots{store: s}
	stale, err := s.isStale(first, last)
	switch {
	case err != nil:
		return err
	case first > st.applied+1:
		return &kv.CorruptError{What: path, Err: fmt.Errorf("it ends at log entry %d, but the log begins at %d", st.applied, first)}
	case stale:
		return s.wal.DeleteRange(first, last)
	case last < st.mixed:
		return &kv.CorruptError{What: path, Err: fmt.Errorf("it has parts of log entry %d, but the log ends at %d", st.mixed, last)}
	}
	return s.finishFlush()
}

// isStale says whether the log is one that a received snapshot has made obsolete, and that a crash kept
// from being dropped: it ends before the snapshot, or has another entry where the snapshot ends.
func (s *Store) isStale(first, last uint64) (bool, error) {
	snap := s.applied.snapshot
	if last == 0 || snap.Index < first {
		return false, nil
	}
	if last < snap.Index {
		return true, nil
	}
	var l raft.Log
	if err := s.wal.GetLog(snap.Index, &l); err != nil {
		return false, err
	}
	return l.Term != snap.Term, nil
}

// finishFlush applies what a flush was writing when the process ended, all of which was committed. The
// state file has some of its keys and not the others.
func (s *Store) finishFlush() error {
	s.replaying = true // it is no more than a table, and opening does not wait for a flush
	defer func() { s.replaying = false }()
	for i := s.applied.applied + 1; i <= s.applied.mixed; i++ {
		var l raft.Log
		if err := s.wal.GetLog(i, &l); err != nil {
			return fmt.Errorf("raftkv: %w", err)
		}
		if err := s.apply(&l); err != nil {
			return err
		}
	}
	if cut := s.applied.mixed != 0; cut {
		s.applied.mixed = 0
		s.sealActive() // the flusher begins with it
	}
	return nil
}

// startRaft starts the consensus and reports whether this member is the only voter.
func (s *Store) startRaft() (lone bool, err error) {
	var trans raft.Transport
	var local *loneTransport
	cfg := s.opts.raftConfig(s.notify, s.log)
	if s.opts.Transport == nil {
		local = newLoneTransport(s.opts.ID)
		trans = local
	} else {
		s.link = newLink(s.opts.Transport, &s.holds)
		cfg.PreVoteDisabled = !s.link.canPreVote()
		trans = s.link
	}
	if err := s.bootstrap(cfg, trans); err != nil {
		return false, fmt.Errorf("raftkv: bootstrap: %w", err)
	}
	if s.raft, err = raft.NewRaft(cfg, fsm{s}, retained{s.wal, s.opts.MinLog, &s.holds}, s.wal, s.snaps, trans); err != nil {
		return false, fmt.Errorf("raftkv: start: %w", err)
	}
	switch lone = s.isLone(); {
	case lone && local != nil:
		local.campaign()
	case lone:
		s.workers.Go(s.link.campaign)
	}
	return lone, nil
}

// bootstrap gives a new group its first configuration.
func (s *Store) bootstrap(cfg *raft.Config, trans raft.Transport) error {
	if last, _ := s.wal.LastIndex(); last != 0 || s.applied.snapshot.Index != 0 || s.opts.Join {
		return nil
	}
	servers := s.opts.Bootstrap
	if servers == nil {
		servers = []raft.Server{{ID: cfg.LocalID, Address: trans.LocalAddr()}}
	}
	c := raft.Configuration{Servers: servers}
	known, err := raft.HasExistingState(s.wal, s.wal, s.snaps)
	if err != nil {
		return err
	}
	if known {
		// A crash in the middle of the bootstrap: the term is set, the entry is missing. Every member
		// begins with the same entry, so it can be added now.
		return s.wal.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)})
	}
	return raft.BootstrapCluster(cfg, s.wal, s.wal, s.snaps, trans, c)
}
