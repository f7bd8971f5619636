package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// ErrUnreachable matches every error that says that a server could not be reached, or that a call was cut off.
var ErrUnreachable = errors.New("remote: the disk's server cannot be reached")

// LinkError says how a call failed for the connection's sake. It is ErrUnreachable.
type LinkError struct {
	Op      string
	Address string
	// Sent tells that the request may have arrived: a put or a deletion may have happened.
	Sent bool
	Err  error
}

func (e *LinkError) Error() string {
	what := "not connected"
	if e.Sent {
		what = "cut off"
	}
	return fmt.Sprintf("remote: %s at %s: %s: %v", e.Op, e.Address, what, e.Err)
}

func (e *LinkError) Unwrap() error { return e.Err }

// Is makes a LinkError ErrUnreachable.
func (e *LinkError) Is(target error) bool { return target == ErrUnreachable }

// DiskError is what the other end said, when it is not the fragment's fault. It unwraps to an error of package
// objstore or asd where there is one for it.
type DiskError struct {
	Op, Address string
	Text        string
	Err         error // or nil
}

func (e *DiskError) Error() string {
	return fmt.Sprintf("remote: %s at %s: %s", e.Op, e.Address, e.Text)
}
func (e *DiskError) Unwrap() error { return e.Err }

// status is how a call ended.
type status uint8

const (
	statusOK status = iota
	statusNoFragment
	statusCorrupt
	statusFull
	statusClosed
	statusFailed
	statusMissing
	statusForeign
	statusClaimed // the text begins with the owner's id
	statusInUse
	statusNewer
	statusDamaged
	statusNotEmpty
	statusTimeout
	statusOther // the last one
)

// kinds are the errors that keep their identity on the way.
var kinds = []struct {
	s   status
	err error
}{
	{statusNoFragment, objstore.ErrNoFragment}, {statusFull, objstore.ErrFull}, {statusClosed, objstore.ErrClosed},
	{statusFailed, asd.ErrFailed}, {statusMissing, asd.ErrMissing}, {statusForeign, asd.ErrForeign},
	{statusClaimed, asd.ErrClaimed}, {statusInUse, asd.ErrInUse}, {statusNewer, asd.ErrNewer},
	{statusDamaged, asd.ErrDamaged}, {statusNotEmpty, asd.ErrNotEmpty},
	{statusTimeout, context.DeadlineExceeded},
}

// statusOf encodes an error.
func statusOf(err error) (status, string) {
	if err == nil {
		return statusOK, ""
	}
	text := err.Error()
	text = strings.ToValidUTF8(text[:min(len(text), maxText-40)], "")
	var corrupt *objstore.CorruptError
	if errors.As(err, &corrupt) {
		return statusCorrupt, text
	}
	var claimed *asd.ClaimedError
	if errors.As(err, &claimed) {
		return statusClaimed, claimed.Owner.String() + " " + text
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.s, text
		}
	}
	return statusOther, text
}

// errorOf is the inverse of statusOf.
func errorOf(s status, text string, o op, address string) error {
	switch s {
	case statusOK:
		return nil
	case statusNoFragment:
		return objstore.ErrNoFragment
	case statusCorrupt:
		return &objstore.CorruptError{What: "remote fragment", Err: errors.New(text)}
	case statusClaimed:
		owner, rest, _ := strings.Cut(text, " ")
		if id, err := asd.ParseID(owner); err == nil {
			return &DiskError{o.String(), address, rest, &asd.ClaimedError{Dir: address, Owner: id}}
		}
	}
	e := &DiskError{Op: o.String(), Address: address, Text: text}
	for _, k := range kinds {
		if k.s == s {
			e.Err = k.err
		}
	}
	return e
}
