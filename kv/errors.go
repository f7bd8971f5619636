package kv

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that every Store returns, to be matched with errors.Is.
var (
	// ErrNotFound: the key is absent.
	ErrNotFound = errors.New("kv: key not found")
	// ErrConflict: an assert of a sequence did not hold; nothing was written.
	ErrConflict = errors.New("kv: assertion failed")
	// ErrUnknownOutcome: the write was cut off and may or may not have happened.
	ErrUnknownOutcome = errors.New("kv: the outcome of the write is unknown")
	// ErrClosed: the store was closed, or stopped itself because its log could not be made durable.
	ErrClosed = errors.New("kv: store is closed")
)

// Errors of replicated and remote stores, to be matched with errors.Is.
var (
	// ErrNoQuorum: too few members answer for the store to write, or to read what is certainly the latest.
	ErrNoQuorum = errors.New("kv: no quorum of members")
	// ErrCompacted: the log does not reach back to where a watch wants to begin.
	ErrCompacted = errors.New("kv: compacted")
	// ErrFenced: another user holds the store exclusively.
	ErrFenced = errors.New("kv: another user holds the store")
	// ErrNoStore: there is no store of that name.
	ErrNoStore = errors.New("kv: no such store")
	// ErrNoProcedure: no procedure of that name is registered.
	ErrNoProcedure = errors.New("kv: no such procedure")
)

// NotLeaderError is returned by a member that may not answer. Leader is the address of the member that
// may, or empty when none is known.
type NotLeaderError struct{ Leader string }

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "kv: not the leader, and no leader is known"
	}
	return "kv: not the leader; the leader is " + e.Leader
}

// NoQuorumError is ErrNoQuorum with what is known about its cause. Missing are the IDs of the voters that
// do not answer; it may be empty. Err is what the call ran into, for example context.DeadlineExceeded.
type NoQuorumError struct {
	Missing []string
	Err     error
}

func (e *NoQuorumError) Error() string {
	s := ErrNoQuorum.Error()
	if len(e.Missing) > 0 {
		s += ": no answer from " + strings.Join(e.Missing, ", ")
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes the error match ErrNoQuorum.
func (e *NoQuorumError) Is(target error) bool { return target == ErrNoQuorum }
func (e *NoQuorumError) Unwrap() error        { return e.Err }

// CompactedError is ErrCompacted; First is the lowest index that a watch can begin at now.
type CompactedError struct{ First uint64 }

func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v: the log begins at index %d", ErrCompacted, e.First)
}

// Is makes the error match ErrCompacted.
func (e *CompactedError) Is(target error) bool { return target == ErrCompacted }

// FencedError is ErrFenced; Holder says who holds the store, as far as known.
type FencedError struct{ Holder string }

func (e *FencedError) Error() string {
	if e.Holder == "" {
		return ErrFenced.Error()
	}
	return ErrFenced.Error() + ": " + e.Holder
}

// Is makes the error match ErrFenced.
func (e *FencedError) Is(target error) bool { return target == ErrFenced }

// TooLargeError reports a keyspace, key, value or batch over its limit.
type TooLargeError struct {
	What       string // "keyspace", "key", "value", "batch", "sequence" or "result"
	Size, Max  int    // bytes; of a sequence with too many steps, steps
	KeyPreview []byte // the first bytes of the key, for the log
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("kv: %s of %d bytes, allowed are 1 to %d (key %q)", e.What, e.Size, e.Max, e.KeyPreview)
}

// CorruptError reports stored state that does not decode or does not match its checksum.
type CorruptError struct {
	What string // the file or structure
	Err  error
}

func (e *CorruptError) Error() string { return fmt.Sprintf("kv: %s is damaged: %v", e.What, e.Err) }
func (e *CorruptError) Unwrap() error { return e.Err }
