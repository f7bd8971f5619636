package raftkv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv/raftlog"
)

// logDir holds the replicated log and the vote.
const logDir = "log"

// Store is one member of a replicated kv.Store. Safe for concurrent use.
//
// Lock order: life, flushMu, seqMu, mu, then the locks inside memtable and generation.
type Store struct {
	opts Options
	log  *slog.Logger
	lock *os.File

	raft   *raft.Raft
	wal    *raftlog.Log
	snaps  *snapshots
	link   *link // to the peers; nil without a network
	opened time.Time
	replay uint64 // the last log entry that was there when the store was opened
	holds  holds

	raftStopped sync.Once
	raftStop    raft.Future

	life    sync.RWMutex // held shared by every call, exclusively by the end of Close
	closing atomic.Bool
	failed  atomic.Pointer[error]
	stop    chan struct{} // closed when the store stops, for whatever reason
	stopped sync.Once
	workers sync.WaitGroup

	// flushMu is held by whoever changes the state file.
	flushMu   sync.Mutex
	flushCut  bool  // a flush was given up half way; guarded by flushMu
	replaying bool  // openFiles applies what a flush was writing; no other goroutine runs then
	partBytes int64 // pages that the next part of a flush changes; guarded by flushMu

	// seqMu is held while a transaction is evaluated and sequenced.
	seqMu sync.Mutex
	chunk []byte // unused rest of the chunk that log entries are encoded into

	// mu guards the rest. It is held briefly: never while a caller's function runs or a file is touched.
	mu          sync.Mutex
	genReady    sync.Cond   // gen is not nil again
	gen         *generation // nil while the state file is being exchanged
	active      *memtable
	flushing    *sealedTable  // or nil
	views       []*view       // open ones, in no order
	seq         uint64        // of the last sequenced transaction; local to this process
	committed   uint64        // of the last committed one
	applied     state         // what has been applied to the memtables; snapshot is the last one taken
	epoch       *epoch        // while this member leads, or nil
	epochs      uint64        // that this member has begun
	snapshotLag uint64        // entries that the state file has beyond the index of the last snapshot
	lost        bool          // acknowledged Ordered updates were discarded, and no Sync has said so yet
	waiting     int           // snapshots that wait for the end of a flush
	progress    chan struct{} // closed and replaced whenever a commit or a flush makes room
	pace        pacer
	round       *round // that the next question to the quorum is for, or nil
	stats       counters

	reached        uint64 // the last log entry that raft has given to the FSM, applied now or before
	appliedChanged signal // of it and applied
	hashes         []*hashJob

	kick       chan struct{} // wakes the proposer
	flushKick  chan struct{} // wakes the flusher
	verifyKick chan struct{} // wakes a verifier
	verifiers  sync.WaitGroup
	forgotten  chan struct{} // closed when raft has stopped
	endings    chan *epoch   // epochs that ended although this member may still lead
	notify     chan bool     // leadership, from raft
	proposals  chan proposal // to the reaper
	ready      chan struct{} // closed and replaced when an epoch begins
}

// Open opens the member that lives in o.Dir, creating it when the directory is empty. When it is the
// only voter it returns as soon as the store can be written to; otherwise it returns at once, and
// WaitReady waits for a leader.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	fresh, err := prepareDir(o.Dir)
	if err != nil {
		return nil, err
	}
	s := newStore(o)
	if s.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	if err := checkFormat(o.Dir, o.ID, fresh); err != nil {
		return nil, err
	}
	if err := s.openFiles(); err != nil {
		return nil, err
	}
	lone, err := s.startRaft()
	if err != nil {
		return nil, err
	}
	s.workers.Go(s.lead)
	s.workers.Go(s.propose)
	s.workers.Go(s.reap)
	s.workers.Go(s.flushLoop)
	s.workers.Go(s.trimLoop)
	s.workers.Go(s.watchDisk)
	for range verifiers {
		s.verifiers.Go(s.verify)
	}
	if lone {
		if err := s.WaitReady(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newStore(o Options) *Store {
	s := &Store{
		opts:       o,
		partBytes:  o.partBytes,
		log:        o.Logger,
		opened:     time.Now(),
		stop:       make(chan struct{}),
		progress:   make(chan struct{}),
		ready:      make(chan struct{}),
		kick:       make(chan struct{}, 1),
		flushKick:  make(chan struct{}, 1),
		verifyKick: make(chan struct{}, 1), forgotten: make(chan struct{}),
		endings:   make(chan *epoch, 1),
		notify:    make(chan bool, 16),
		proposals: make(chan proposal, maxInFlight),
		active:    newMemtable(),
	}
	s.genReady.L = &s.mu
	return s
}

// isLone says whether the latest configuration has this member as its only server.
func (s *Store) isLone() bool {
	servers := s.raft.GetConfiguration().Configuration().Servers
	return len(servers) == 1 && servers[0].ID == raft.ServerID(s.opts.ID)
}

// WaitReady waits until this member leads and can be written to. On a member that follows it waits
// until it leads or ctx is over.
func (s *Store) WaitReady(ctx context.Context) error {
	for {
		s.mu.Lock()
		leads, ready := s.epoch != nil, s.ready
		s.mu.Unlock()
		if leads {
			return nil
		}
		select {
		case <-ready:
		case <-s.stop:
			return s.closedError()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// enter begins a call; leave ends it.
func (s *Store) enter() error {
	s.life.RLock()
	if s.closing.Load() || s.failed.Load() != nil {
		s.life.RUnlock()
		return s.closedError()
	}
	return nil
}

func (s *Store) leave() { s.life.RUnlock() }

func (s *Store) closedError() error {
	if cause := s.failed.Load(); cause != nil {
		return fmt.Errorf("%w: %w", kv.ErrClosed, *cause)
	}
	return kv.ErrClosed
}

// fail stops the store for good: what it promised can no longer be kept.
func (s *Store) fail(cause error) {
	if !s.failed.CompareAndSwap(nil, &cause) {
		return
	}
	s.log.Error("kv store stopped", "dir", s.opts.Dir, "cause", cause)
	if s.link != nil {
		s.link.gone.Store(true) // raft may be stuck and still send heartbeats
	}
	s.halt()
	go func() { // may be called from raft's own goroutines
		s.mu.Lock()
		s.genReady.Broadcast()
		s.mu.Unlock()
		s.endEpoch(nil, s.closedError())
		if s.raft != nil {
			s.stopRaft()
		}
	}()
}

// stopRaft tells raft to stop; the future waits until it has.
func (s *Store) stopRaft() raft.Future {
	s.raftStopped.Do(func() { s.raftStop = s.raft.Shutdown() })
	return s.raftStop
}

func (s *Store) halt() { s.stopped.Do(func() { close(s.stop) }) }

// Close implements kv.Store.
func (s *Store) Close() error {
	if !s.closing.CompareAndSwap(false, true) {
		return kv.ErrClosed
	}
	err := s.drain()
	s.halt()
	s.endEpoch(nil, kv.ErrClosed)
	s.life.Lock() // every call has ended
	defer s.life.Unlock()
	return errors.Join(err, s.release())
}

// drain waits until everything that was sequenced is committed.
func (s *Store) drain() error {
	s.seqMu.Lock() // a transaction that is being evaluated is sequenced first
	s.mu.Lock()
	e, seq := s.epoch, s.seq
	s.mu.Unlock()
	s.seqMu.Unlock()
	if e == nil {
		return nil
	}
	return s.waitCommitted(context.Background(), e, seq)
}

// release stops the goroutines and closes the files.
func (s *Store) release() error {
	var errs []error
	if s.raft != nil {
		s.endVerifiers()
		errs = append(errs, s.stopRaft().Error())
	}
	close(s.forgotten)
	s.verifiers.Wait()
	if s.link != nil {
		s.link.stop()
	}
	s.workers.Wait()
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	s.mu.Lock()
	gen := s.gen
	s.gen = nil
	s.mu.Unlock()
	if gen != nil {
		s.retire(gen)
		errs = append(errs, gen.base.close())
	}
	if s.wal != nil {
		errs = append(errs, s.wal.Close())
	}
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

// abandon undoes a failed Open.
func (s *Store) abandon() {
	s.closing.Store(true)
	s.halt()
	_ = s.release()
}

// sleep waits for d or the end of the store.
func (s *Store) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.stop:
		return false
	}
}
