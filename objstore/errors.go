package objstore

import (
	"errors"
	"fmt"
)

// Errors of the object layer, to be matched with errors.Is.
var (
	// ErrNotFound: there is no object, namespace or preset of that name.
	ErrNotFound = errors.New("objstore: not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("objstore: already exists")
	// ErrFull: the disks that a policy needs have no space left; deletes still work.
	ErrFull = errors.New("objstore: no space left on the disks")
	// ErrNoQuorum: fewer disks are usable than any policy of the preset needs; nothing was written.
	ErrNoQuorum = errors.New("objstore: too few usable disks for any policy")
	// ErrReadOnly: whoever the namespace belongs to lets others only read it.
	ErrReadOnly = errors.New("objstore: read only")
	// ErrLocked: what is asked for is encrypted, and its key was not given.
	ErrLocked = errors.New("objstore: encrypted, and the key was not given")
	// ErrWrongKey: the key that was given does not fit.
	ErrWrongKey = errors.New("objstore: the key does not fit")
	// ErrMoving: the namespace is being moved and was not to be had for longer than anyone should wait. Nothing
	// was done; it can be tried again.
	ErrMoving = errors.New("objstore: the namespace is being moved, try again")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("objstore: store is closed")
)

// LostError reports an object that cannot be read: fewer than k fragments of a chunk are intact.
type LostError struct {
	Namespace, Name string
	Chunk           int
	Intact, Need    int // fragments
	Err             error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("objstore: object %s/%q chunk %d: %d intact fragments, %d needed: %v",
		e.Namespace, e.Name, e.Chunk, e.Intact, e.Need, e.Err)
}
func (e *LostError) Unwrap() error { return e.Err }

// CorruptError reports a stored structure that does not decode or does not match its checksum.
type CorruptError struct {
	What string
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("objstore: %s is damaged: %v", e.What, e.Err)
}
func (e *CorruptError) Unwrap() error { return e.Err }
