package nsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// Op is what a step of a sequence does.
type Op uint8

const (
	// AssertExists: there must be an object of this name.
	AssertExists Op = 1 + iota
	// AssertAbsent: there must be none.
	AssertAbsent
	// AssertID: there must be one, and it must be that of upload ID.
	AssertID
	// Create makes the object of this name be Manifest, of upload Upload. The name must be free: a Delete
	// before it in the same sequence makes it so, which is how an object is exchanged atomically.
	Create
	// Remove deletes the object, if there is one.
	Remove
)

var opNames = map[Op]string{AssertExists: "assert that it exists", AssertAbsent: "assert that it is absent", AssertID: "assert its id", Create: "create", Remove: "delete"}

func (o Op) String() string { return opNames[o] }

// Step is one operation of a sequence on one object. Only the fields that its Op names count.
type Step struct {
	Op       Op
	Name     string
	ID       uint64
	Upload   Upload
	Manifest *manifest.Manifest
}

// MaxSequence is the largest number of steps that one sequence may have. The limits of a transaction of
// package kv hold as well.
const MaxSequence = 4096

// StepError says which step of a sequence could not be done, so that nothing was. It matches
// objstore.ErrExists or objstore.ErrNotFound where the name was, or was not, there, ErrAssert where an
// assert did not hold, and whatever Register returns.
type StepError struct {
	Index int
	Op    Op
	Name  string
	Found uint64 // id of the object of this name, 0: there is none
	Err   error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("objstore: step %d, %v of %q: %v", e.Index, e.Op, e.Name, e.Err)
}
func (e *StepError) Unwrap() error { return e.Err }

// ErrAssert is matched by the error of a sequence whose assert did not hold.
var ErrAssert = errors.New("objstore: an assert does not hold")

// ErrSequence is matched by the error of a sequence that makes no sense, or is too long.
var ErrSequence = errors.New("objstore: not a sequence")

// CheckSequence reports what is wrong with steps by themselves.
func CheckSequence(steps []Step) error {
	if n := len(steps); n > MaxSequence {
		return fmt.Errorf("%w: %d steps, at most %d are allowed", ErrSequence, n, MaxSequence)
	}
	uploads := make(map[uint64]bool)
	for i, s := range steps {
		err := checkName(s.Name)
		switch {
		case err != nil:
		case s.Op < AssertExists || s.Op > Remove:
			err = fmt.Errorf("unknown operation %d", s.Op)
		case s.Op == AssertID && s.ID == 0:
			err = errors.New("no id")
		case s.Op == Create && s.Manifest == nil:
			err = errors.New("no manifest")
		case s.Op == Create && s.Manifest.ID != s.Upload.ID:
			err = fmt.Errorf("manifest of id %d in upload %d", s.Manifest.ID, s.Upload.ID)
		case s.Op == Create && uploads[s.Upload.ID]:
			err = fmt.Errorf("upload %d becomes two objects", s.Upload.ID)
		case s.Op == Create:
			uploads[s.Upload.ID] = true
		}
		if err != nil {
			return fmt.Errorf("%w: step %d: %w", ErrSequence, i, err)
		}
	}
	return nil
}

// ApplySequence runs steps in order as one transaction, all or nothing; each sees what those before it did.
// It is sequenced but not synced, as Register is. Errors: *StepError, *RuleError, ErrSequence.
func (n *Manager) ApplySequence(ctx context.Context, steps []Step) error {
	if err := CheckSequence(steps); err != nil {
		return err
	}
	stamps := make(map[string]uint64)
	for _, s := range steps {
		if s.Op < Create {
			continue
		}
		stamps[s.Name] = n.cache.stamp(s.Name)
		if s.Op == Create {
			if err := n.checkNew(s.Name, s.Manifest); err != nil {
				return err
			}
		}
	}
	var after map[string]*manifest.Manifest
	err := n.update(ctx, kv.Ordered, func(tx kv.Txn) error {
		after = make(map[string]*manifest.Manifest)
		for i, s := range steps {
			if err := n.step(tx, s, after); err != nil {
				return n.stepError(tx, i, s, err)
			}
		}
		return nil
	})
	n.mutations.Add(1)
	for name, stamp := range stamps {
		if m := after[name]; err == nil && m != nil {
			n.cache.set(name, m, stamp)
		} else {
			n.cache.drop(name)
		}
	}
	return err
}

// stepError says more about an error that is not the store's own.
func (n *Manager) stepError(tx kv.Txn, i int, s Step, err error) error {
	for _, ours := range []error{objstore.ErrExists, objstore.ErrNotFound, ErrAssert, ErrExpired} {
		if errors.Is(err, ours) {
			e := &StepError{Index: i, Op: s.Op, Name: s.Name, Err: err}
			if m, gerr := n.get(tx, s.Name); gerr == nil {
				e.Found = m.ID
			}
			return e
		}
	}
	return err
}

func (n *Manager) step(tx kv.Txn, s Step, after map[string]*manifest.Manifest) error {
	switch s.Op {
	case Create:
		after[s.Name] = s.Manifest
		return n.create(tx, s.Upload, s.Name, s.Manifest, s.Manifest.Encode(nil))
	case Remove:
		after[s.Name] = nil
		return ignore(n.remove(tx, s.Name), objstore.ErrNotFound)
	}
	m, err := n.get(tx, s.Name)
	absent := errors.Is(err, objstore.ErrNotFound)
	switch {
	case err != nil && !absent:
		return err
	case s.Op == AssertAbsent && absent:
		return nil
	case absent:
		return fmt.Errorf("%w: %w", ErrAssert, objstore.ErrNotFound)
	case s.Op == AssertAbsent:
		return fmt.Errorf("%w: %w", ErrAssert, objstore.ErrExists)
	case s.Op == AssertID && m.ID != s.ID:
		return fmt.Errorf("%w: it has id %d, not %d", ErrAssert, m.ID, s.ID)
	}
	return nil
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
