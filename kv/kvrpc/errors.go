package kvrpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// Errors of the remote interface, beside those of package kv, to be matched with errors.Is.
var (
	// ErrResultForgotten: the write was applied, once, but the answer was lost and its result was too large
	// to be kept for a second answer.
	ErrResultForgotten = errors.New("kvrpc: the write was applied, but its result is no longer known")
	// ErrTooStale: no member could show the store as fresh as the read asked.
	ErrTooStale = errors.New("kvrpc: the member is too far behind")
	// ErrTooMany: the server serves no more streams or watches to this client.
	ErrTooMany = errors.New("kvrpc: too many streams or watches")
	// ErrDenied: the members do not accept the client's certificate; it was revoked, or is of another cluster.
	ErrDenied = errors.New("kvrpc: the members do not accept this client's certificate")
	// ErrClientClosed: the Client was closed.
	ErrClientClosed = fmt.Errorf("kvrpc: client is closed: %w", kv.ErrClosed)

	errUnregistered = errors.New("kvrpc: the write's client is not registered")
	errStale        = errors.New("kvrpc: an old copy of a write")
)

// ProcedureError is an error that a registered procedure returned; nothing was written.
type ProcedureError struct {
	Procedure string
	Message   string
	// Detail is what the procedure gave beside the message, see Detailed.
	Detail []byte
}

func (e *ProcedureError) Error() string {
	return fmt.Sprintf("kvrpc: procedure %s: %s", e.Procedure, e.Message)
}

// Detailed is an error of a procedure that carries data for its caller.
type Detailed interface {
	error
	Detail() []byte
}

// InvalidError is a request or a message that does not decode or makes no sense.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return "kvrpc: invalid request: " + e.Reason }

// remoteError is an error without a type of its own.
type remoteError struct{ message string }

func (e *remoteError) Error() string { return e.message }

// leaderHint is a NotLeaderError with the address of the leader.
type leaderHint struct {
	kv.NotLeaderError
	address string
}

func (e *leaderHint) Unwrap() error { return &e.NotLeaderError }

// encodeError puts an error into fields. address finds the address of a node.
func encodeError(err error, address func(node string) string) *kvpb.Error {
	e := &kvpb.Error{Message: err.Error()}
	var (
		conflict  *kv.ConflictError
		large     *kv.TooLargeError
		not       *kv.NotLeaderError
		corrupt   *kv.CorruptError
		compacted *kv.CompactedError
		fenced    *kv.FencedError
		quorum    *kv.NoQuorumError
		step      *kv.StepError
		bad       *InvalidError
		procedure *ProcedureError
	)
	switch {
	case errors.As(err, &procedure):
		e.Kind, e.What, e.Message, e.Value = kvpb.Error_PROCEDURE_FAILED, procedure.Procedure, procedure.Message, procedure.Detail
	case errors.Is(err, kv.ErrUnknownOutcome): // before what it is joined with
		e.Kind = kvpb.Error_UNKNOWN_OUTCOME
		if errors.As(err, &not) {
			e.Leader, e.LeaderAddress = not.Leader, address(not.Leader)
		}
	case errors.As(err, &not):
		e.Kind, e.Leader, e.LeaderAddress = kvpb.Error_NOT_LEADER, not.Leader, address(not.Leader)
	case errors.As(err, &conflict):
		e.Kind, e.Index, e.Found, e.Message = kvpb.Error_CONFLICT, int64(conflict.Index), conflict.Found, conflict.Reason
		e.Keyspace, e.Key = []byte(conflict.Keyspace), conflict.Key
	case errors.As(err, &large):
		e.Kind, e.What, e.Size, e.Max, e.Key = kvpb.Error_TOO_LARGE, large.What, int64(large.Size), int64(large.Max), large.KeyPreview
	case errors.As(err, &corrupt):
		e.Kind, e.What, e.Message = kvpb.Error_CORRUPT, corrupt.What, fmt.Sprint(corrupt.Err)
	case errors.As(err, &compacted):
		e.Kind, e.FirstIndex = kvpb.Error_COMPACTED, compacted.First
	case errors.As(err, &fenced):
		e.Kind, e.Holder = kvpb.Error_FENCED, fenced.Holder
	case errors.As(err, &quorum):
		e.Kind, e.Members = kvpb.Error_NO_QUORUM, quorum.Missing
		if quorum.Err != nil {
			e.Message = quorum.Err.Error()
		}
	case errors.As(err, &step):
		e.Kind, e.Message = kvpb.Error_INVALID, step.Error()
	case errors.As(err, &bad):
		e.Kind, e.Message = kvpb.Error_INVALID, bad.Reason
	case errors.Is(err, kv.ErrNotFound):
		e.Kind = kvpb.Error_NOT_FOUND
	case errors.Is(err, kv.ErrClosed):
		e.Kind = kvpb.Error_CLOSED
	case errors.Is(err, kv.ErrNoStore):
		e.Kind = kvpb.Error_NO_STORE
	case errors.Is(err, kv.ErrNoProcedure):
		e.Kind = kvpb.Error_NO_PROCEDURE
	case errors.Is(err, errUnregistered):
		e.Kind = kvpb.Error_UNREGISTERED
	case errors.Is(err, errStale):
		e.Kind = kvpb.Error_STALE_SEQUENCE
	case errors.Is(err, ErrResultForgotten):
		e.Kind = kvpb.Error_RESULT_FORGOTTEN
	case errors.Is(err, ErrTooStale):
		e.Kind = kvpb.Error_TOO_STALE
	case errors.Is(err, ErrTooMany):
		e.Kind = kvpb.Error_TOO_MANY
	case errors.Is(err, raftkv.ErrNoHash):
		e.Kind = kvpb.Error_NO_HASH
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Kind = kvpb.Error_CANCELLED
	}
	return e
}

// decodeError makes the error that errors.Is and errors.As know again.
func decodeError(e *kvpb.Error) error {
	wrap := func(err error) error {
		if e.Message == "" || e.Message == err.Error() {
			return err
		}
		return &told{err, e.Message}
	}
	switch e.Kind {
	case kvpb.Error_NOT_FOUND:
		return kv.ErrNotFound
	case kvpb.Error_CONFLICT:
		return &kv.ConflictError{Index: int(e.Index), Keyspace: kv.Keyspace(e.Keyspace), Key: e.Key, Found: e.Found, Reason: e.Message}
	case kvpb.Error_UNKNOWN_OUTCOME:
		if e.LeaderAddress != "" {
			return fmt.Errorf("%w: %w", kv.ErrUnknownOutcome, &leaderHint{kv.NotLeaderError{Leader: e.Leader}, e.LeaderAddress})
		}
		return wrap(kv.ErrUnknownOutcome)
	case kvpb.Error_CLOSED:
		return wrap(kv.ErrClosed)
	case kvpb.Error_NOT_LEADER:
		return &leaderHint{kv.NotLeaderError{Leader: e.Leader}, e.LeaderAddress}
	case kvpb.Error_TOO_LARGE:
		return &kv.TooLargeError{What: e.What, Size: int(e.Size), Max: int(e.Max), KeyPreview: e.Key}
	case kvpb.Error_CORRUPT:
		return &kv.CorruptError{What: e.What, Err: &remoteError{e.Message}}
	case kvpb.Error_NO_STORE:
		return wrap(kv.ErrNoStore)
	case kvpb.Error_NO_PROCEDURE:
		return wrap(kv.ErrNoProcedure)
	case kvpb.Error_COMPACTED:
		return &kv.CompactedError{First: e.FirstIndex}
	case kvpb.Error_FENCED:
		return &kv.FencedError{Holder: e.Holder}
	case kvpb.Error_NO_QUORUM:
		return &kv.NoQuorumError{Missing: e.Members, Err: &remoteError{e.Message}}
	case kvpb.Error_UNREGISTERED:
		return errUnregistered
	case kvpb.Error_STALE_SEQUENCE:
		return errStale
	case kvpb.Error_RESULT_FORGOTTEN:
		return ErrResultForgotten
	case kvpb.Error_INVALID:
		return &InvalidError{e.Message}
	case kvpb.Error_TOO_STALE:
		return wrap(ErrTooStale)
	case kvpb.Error_TOO_MANY:
		return wrap(ErrTooMany)
	case kvpb.Error_NO_HASH:
		return wrap(raftkv.ErrNoHash)
	case kvpb.Error_CANCELLED:
		return wrap(context.Canceled)
	case kvpb.Error_PROCEDURE_FAILED:
		return &ProcedureError{Procedure: e.What, Message: e.Message, Detail: e.Value}
	}
	return &remoteError{e.Message}
}

// told is an error as the other side worded it.
type told struct {
	is      error
	message string
}

func (e *told) Error() string { return e.message }
func (e *told) Unwrap() error { return e.is }

// code is the status of a unary call that fails with e.
func code(k kvpb.Error_Kind) codes.Code {
	switch k {
	case kvpb.Error_NOT_FOUND, kvpb.Error_NO_STORE, kvpb.Error_NO_PROCEDURE:
		return codes.NotFound
	case kvpb.Error_CONFLICT, kvpb.Error_STALE_SEQUENCE:
		return codes.Aborted
	case kvpb.Error_UNKNOWN_OUTCOME:
		return codes.Unknown
	case kvpb.Error_CLOSED, kvpb.Error_NOT_LEADER, kvpb.Error_NO_QUORUM, kvpb.Error_TOO_STALE:
		return codes.Unavailable
	case kvpb.Error_TOO_LARGE, kvpb.Error_INVALID:
		return codes.InvalidArgument
	case kvpb.Error_TOO_MANY:
		return codes.ResourceExhausted
	case kvpb.Error_CORRUPT:
		return codes.DataLoss
	case kvpb.Error_COMPACTED:
		return codes.OutOfRange
	case kvpb.Error_FENCED, kvpb.Error_UNREGISTERED, kvpb.Error_RESULT_FORGOTTEN, kvpb.Error_PROCEDURE_FAILED, kvpb.Error_NO_HASH:
		return codes.FailedPrecondition
	case kvpb.Error_CANCELLED:
		return codes.Canceled
	}
	return codes.Unknown
}

// toStatus is the error that a unary handler returns.
func toStatus(e *kvpb.Error) error {
	s := status.New(code(e.Kind), e.Message)
	if d, err := s.WithDetails(e); err == nil {
		s = d
	}
	return s.Err()
}

// fromStatus makes the error of a call that failed: the one in its details, or, when there is none, one
// that says that the connection failed. ok is false then.
func fromStatus(err error) (_ error, ok bool) {
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		if e, is := d.(*kvpb.Error); is {
			return decodeError(e), true
		}
	}
	return err, false
}

// unmarshalError decodes the error of an operation of an Exec stream.
func unmarshalError(b []byte) error {
	e := new(kvpb.Error)
	if err := proto.Unmarshal(b, e); err != nil {
		return invalid("%v", err)
	}
	return decodeError(e)
}
