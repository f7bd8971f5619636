package kv

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Op is what a step of a sequence does.
type Op uint8

const (
	// OpAssert: Key must have exactly Value.
	OpAssert Op = 1 + iota
	// OpAssertExists: Key must exist, with whatever value.
	OpAssertExists
	// OpAssertAbsent: Key must not exist.
	OpAssertAbsent
	// OpAssertRange: DigestRange of the keys from Key to To must be Digest. A nil To is no bound.
	OpAssertRange
	// OpGet tells Found and Value.
	OpGet
	// OpSet sets Key to Value.
	OpSet
	// OpDelete deletes Key, if it exists.
	OpDelete
	// OpDeletePrefix deletes the keys that begin with Key, which may be empty: at most Limit of them, in
	// order, or all when it is 0. Count tells how many.
	OpDeletePrefix
	// OpTestAndSet sets Key to Value, or deletes it when Remove is set, if it has the value Expect, or is
	// absent when ExpectAbsent is set. Found and Value tell what was there; Count is 1 when it was as
	// expected.
	OpTestAndSet
	// OpReplace sets Key to Value, or deletes it when Remove is set. Found and Value tell what was there.
	OpReplace
	// OpConfirm sets Key to Value unless it has that value. Found tells whether the key existed, Count is 1
	// when it was set.
	OpConfirm

	lastOp = OpConfirm
)

// Step is one operation of a sequence. Only the fields that its Op names count.
type Step struct {
	Op           Op
	Keyspace     Keyspace
	Key, To      []byte
	Value        []byte
	Expect       []byte
	ExpectAbsent bool
	Remove       bool
	Limit        int
	Digest       [sha256.Size]byte
}

// StepResult is what a step found and did; which fields mean something depends on its Op.
type StepResult struct {
	Found bool
	Value []byte
	Count uint64
}

// MaxSteps is the largest number of steps that one sequence may have.
const MaxSteps = 1 << 16

// ConflictError says which assert of a sequence did not hold. It matches ErrConflict.
type ConflictError struct {
	Index    int // of the step in the sequence
	Keyspace Keyspace
	Key      []byte
	Found    bool // the key exists
	Reason   string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v: step %d on %s/%q: %s", ErrConflict, e.Index, e.Keyspace, preview(e.Key), e.Reason)
}

// Is makes the error match ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// StepError reports a step that makes no sense.
type StepError struct {
	Index  int
	Reason string
}

func (e *StepError) Error() string { return fmt.Sprintf("kv: step %d: %s", e.Index, e.Reason) }

// CheckSteps reports steps outside the limits as a *TooLargeError, and steps that make no sense as a
// *StepError.
func CheckSteps(steps []Step) error {
	if n := len(steps); n > MaxSteps {
		return &TooLargeError{What: "sequence", Size: n, Max: MaxSteps}
	}
	size := 0
	for i := range steps {
		st := &steps[i]
		if st.Op < OpAssert || st.Op > lastOp {
			return &StepError{Index: i, Reason: fmt.Sprintf("unknown operation %d", st.Op)}
		}
		if st.Limit < 0 {
			return &StepError{Index: i, Reason: fmt.Sprintf("limit %d", st.Limit)}
		}
		key := st.Key
		if (st.Op == OpAssertRange || st.Op == OpDeletePrefix) && len(key) == 0 {
			key = []byte{0} // a bound may be empty
		}
		if err := CheckPut(st.Keyspace, key, st.Value); err != nil {
			return err
		}
		if size += len(st.Key) + len(st.To) + len(st.Value) + len(st.Expect); size > MaxBatch {
			return &TooLargeError{What: "sequence", Size: size, Max: MaxBatch}
		}
	}
	return nil
}

// Apply runs a sequence as one transaction: all of it or nothing. When an assert does not hold the error
// is a *ConflictError about the first one. The limits of package kv hold for the whole sequence, see
// CheckSteps. The store keeps the slices of the steps: they must not be modified afterwards.
func Apply(ctx context.Context, s Store, c Commit, steps []Step) ([]StepResult, error) {
	if err := CheckSteps(steps); err != nil {
		return nil, err
	}
	var results []StepResult
	err := s.Update(ctx, c, func(tx Txn) (err error) {
		results, err = Evaluate(tx, steps)
		return err
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// Evaluate runs the steps in order inside a transaction. Each sees what those before it wrote. There is
// one result per step; results do not share memory with the transaction. An error is to be returned from
// the transaction's function, so that nothing is written. The steps have passed CheckSteps.
func Evaluate(tx Txn, steps []Step) ([]StepResult, error) {
	results := make([]StepResult, len(steps))
	told := 0
	for i := range steps {
		if err := steps[i].run(tx, i, &results[i]); err != nil {
			return nil, err
		}
		if told += len(results[i].Value); told > MaxBatch {
			return nil, &TooLargeError{What: "result", Size: told, Max: MaxBatch, KeyPreview: preview(steps[i].Key)}
		}
	}
	return results, nil
}

func (st *Step) run(tx Txn, index int, res *StepResult) (err error) {
	switch st.Op {
	case OpSet:
		tx.Put(st.Keyspace, st.Key, st.Value)
		return nil
	case OpDelete:
		tx.Delete(st.Keyspace, st.Key)
		return nil
	case OpDeletePrefix:
		res.Count, err = st.deletePrefix(tx)
		return err
	case OpAssertRange:
		return st.assertRange(tx, index)
	}
	old, err := tx.Get(st.Keyspace, st.Key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	found := err == nil
	switch st.Op {
	case OpAssert, OpAssertExists, OpAssertAbsent:
		return st.assert(index, found, old)
	case OpGet:
		res.Found, res.Value = found, bytes.Clone(old)
	case OpReplace:
		res.Found, res.Value = found, bytes.Clone(old)
		st.put(tx)
	case OpTestAndSet:
		res.Found, res.Value = found, bytes.Clone(old)
		if found != st.ExpectAbsent && (st.ExpectAbsent || bytes.Equal(old, st.Expect)) {
			res.Count = 1
			st.put(tx)
		}
	case OpConfirm:
		if res.Found = found; !found || !bytes.Equal(old, st.Value) {
			res.Count = 1
			tx.Put(st.Keyspace, st.Key, st.Value)
		}
	default:
		return &StepError{Index: index, Reason: fmt.Sprintf("unknown operation %d", st.Op)}
	}
	return nil
}

// put sets the key to what it shall be.
func (st *Step) put(tx Txn) {
	if st.Remove {
		tx.Delete(st.Keyspace, st.Key)
	} else {
		tx.Put(st.Keyspace, st.Key, st.Value)
	}
}

func (st *Step) assert(index int, found bool, value []byte) error {
	reason := ""
	switch {
	case st.Op == OpAssertAbsent && found:
		reason = "the key exists"
	case st.Op == OpAssertAbsent:
	case !found:
		reason = "the key is absent"
	case st.Op == OpAssert && !bytes.Equal(value, st.Value):
		reason = "the value is another"
	}
	if reason == "" {
		return nil
	}
	return st.conflict(index, found, reason)
}

func (st *Step) conflict(index int, found bool, reason string) error {
	return &ConflictError{Index: index, Keyspace: st.Keyspace, Key: bytes.Clone(st.Key), Found: found, Reason: reason}
}

func (st *Step) assertRange(tx Txn, index int) error {
	sum, n, err := DigestRange(tx, st.Keyspace, Range{From: st.Key, To: st.To})
	if err == nil && sum != st.Digest {
		return st.conflict(index, n > 0, "the range is another")
	}
	return err
}

func (st *Step) deletePrefix(tx Txn) (uint64, error) {
	r := Prefix(st.Key)
	r.Limit = st.Limit
	var keys [][]byte
	size := 0
	err := tx.Range(st.Keyspace, r, func(key, _ []byte) bool {
		keys = append(keys, bytes.Clone(key))
		size += len(key)
		return size <= MaxBatch // the transaction is going to fail
	})
	if err != nil {
		return 0, err
	}
	for _, key := range keys {
		tx.Delete(st.Keyspace, key)
	}
	return uint64(len(keys)), nil
}
