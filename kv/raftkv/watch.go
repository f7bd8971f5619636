package raftkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
)

// WatchOptions say what to watch.
type WatchOptions struct {
	// Keyspace to watch. When it is empty, all are watched that are not reserved.
	Keyspace kv.Keyspace
	// Prefix of the keys.
	Prefix []byte
	// From is the index of the first log entry to deliver: the one after the last that was seen, or after
	// the one that ViewAt told. 0 begins with what is not applied yet.
	From uint64
}

// Event is one change of a key. It may be kept.
type Event struct {
	Keyspace kv.Keyspace
	Key      []byte
	Value    []byte
	Deleted  bool
}

// progressEvery is how often a watch that sees nothing of interest tells how far it is.
const progressEvery = time.Second

// Watch calls fn with the changes of each log entry that has any, in order, until ctx is over, fn returns
// an error, which Watch returns, or the store is closed. Each entry that is committed is delivered once,
// whole, on any member, and nothing else is. Now and then fn is called with an index and no events: there
// are none up to there, and a watch may be resumed behind it.
//
// Entries are read from the log while it has them, so fn may take its time and holds nobody up but Close.
// When the log does not reach back to the next entry any more, the error is a *kv.CompactedError; see
// Options.MinLog.
func (s *Store) Watch(ctx context.Context, o WatchOptions, fn func(index uint64, events []Event) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	next, told := o.From, o.From
	for {
		s.mu.Lock()
		reached, changed := s.reached, s.appliedChanged.wait()
		s.mu.Unlock()
		if next == 0 {
			next, told = reached+1, reached+1
		}
		for ; next <= reached; next++ {
			events, err := s.eventsOf(next, &o)
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.closing.Load() || s.failed.Load() != nil {
				return s.closedError()
			}
			if len(events) == 0 {
				continue
			}
			if err := fn(next, events); err != nil {
				return err
			}
			told = next + 1
		}
		select {
		case <-changed:
		case <-tick.C:
			if told < next {
				if err := fn(next-1, nil); err != nil {
					return err
				}
				told = next
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stop:
			return s.closedError()
		}
	}
}

// eventsOf reads the changes that one applied log entry made.
func (s *Store) eventsOf(index uint64, o *WatchOptions) ([]Event, error) {
	s.mu.Lock()
	since, void := s.applied.voids.since, s.applied.voids.has(index)
	s.mu.Unlock()
	if index < since {
		return nil, s.compacted(since)
	}
	if void {
		return nil, nil
	}
	var l raft.Log
	if err := s.wal.GetLog(index, &l); errors.Is(err, raft.ErrLogNotFound) {
		return nil, s.compacted(since)
	} else if err != nil {
		return nil, err
	}
	if l.Type != raft.LogCommand {
		return nil, nil
	}
	var events []Event
	_, err := decodeBatch(l.Data, func(op op) error {
		if o.wants(op.ks, op.key) {
			e := Event{Keyspace: op.ks, Key: op.key, Deleted: op.sealed == nil}
			if !e.Deleted {
				e.Value = op.sealed[: len(op.sealed)-sealSize : len(op.sealed)-sealSize]
			}
			events = append(events, e)
		}
		return nil
	})
	if err != nil {
		return nil, &kv.CorruptError{What: fmt.Sprintf("log entry %d", index), Err: err}
	}
	return events, nil
}

func (o *WatchOptions) wants(ks kv.Keyspace, key []byte) bool {
	if o.Keyspace == "" && ks.Reserved() || o.Keyspace != "" && o.Keyspace != ks {
		return false
	}
	return bytes.HasPrefix(key, o.Prefix)
}

// compacted says where a watch may begin.
func (s *Store) compacted(since uint64) error {
	first, err := s.wal.FirstIndex()
	if err != nil {
		return err
	}
	if first == 0 {
		s.mu.Lock()
		first = s.reached + 1
		s.mu.Unlock()
	}
	return &kv.CompactedError{First: max(first, since)}
}
