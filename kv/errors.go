package kv

import (
	"errors"
	"fmt"
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

// NotLeaderError is returned by a member that may not answer. Leader is the address of the member that
// may, or empty when none is known.
type NotLeaderError struct{ Leader string }

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "kv: not the leader, and no leader is known"
	}
	return "kv: not the leader; the leader is " + e.Leader
}

// TooLargeError reports a keyspace, key, value or batch over its limit.
type TooLargeError struct {
	What       string // "keyspace", "key", "value" or "batch"
	Size, Max  int    // bytes
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
