package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// Sequence is a transaction that can be sent over a wire: asserts, then updates, all or nothing.
type Sequence struct {
	Asserts []Assert
	Updates []SequenceUpdate
}

// Assert is a condition on one key: that it is absent, or that it has exactly this value.
type Assert struct {
	Keyspace Keyspace
	Key      []byte
	Absent   bool   // the key must not exist; Value is ignored
	Exists   bool   // the key must exist, with whatever value; Value is ignored
	Value    []byte // otherwise the value that the key must have
}

// SequenceUpdate sets one key, or deletes it.
type SequenceUpdate struct {
	Keyspace Keyspace
	Key      []byte
	Delete   bool // Value is ignored
	Value    []byte
}

// MaxSequence is the largest number of asserts, and of updates, that one sequence may have.
const MaxSequence = 1 << 16

// ConflictError says which assert of a sequence did not hold. It matches ErrConflict.
type ConflictError struct {
	Index    int // of the assert in the sequence
	Keyspace Keyspace
	Key      []byte
	Found    bool // the key exists
	Reason   string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v: assert %d on %s/%q: %s", ErrConflict, e.Index, e.Keyspace, preview(e.Key), e.Reason)
}

// Is makes the error match ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// Apply runs a sequence as one transaction. When an assert does not hold nothing is written and the
// error is a *ConflictError about the first one; the limits of package kv hold for the whole sequence.
// The store keeps the slices of q's updates: they must not be modified afterwards.
func Apply(ctx context.Context, s Store, c Commit, q Sequence) error {
	if n := max(len(q.Asserts), len(q.Updates)); n > MaxSequence {
		return &TooLargeError{What: "sequence", Size: n, Max: MaxSequence}
	}
	for _, a := range q.Asserts {
		if err := CheckKey(a.Keyspace, a.Key); err != nil {
			return err
		}
	}
	return s.Update(ctx, c, func(tx Txn) error {
		for i, a := range q.Asserts {
			if err := a.check(tx, i); err != nil {
				return err
			}
		}
		for _, u := range q.Updates {
			if u.Delete {
				tx.Delete(u.Keyspace, u.Key)
			} else {
				tx.Put(u.Keyspace, u.Key, u.Value)
			}
		}
		return nil
	})
}

func (a Assert) check(r Reader, index int) error {
	got, err := r.Get(a.Keyspace, a.Key)
	found := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	reason := ""
	switch {
	case a.Absent && found:
		reason = "the key exists"
	case a.Absent:
	case !found:
		reason = "the key is absent"
	case !a.Exists && !bytes.Equal(got, a.Value):
		reason = "the value is another"
	}
	if reason == "" {
		return nil
	}
	return &ConflictError{Index: index, Keyspace: a.Keyspace, Key: bytes.Clone(a.Key), Found: found, Reason: reason}
}
