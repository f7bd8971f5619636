package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// Errors of the administration, to be matched with errors.Is. A store that does not exist is
// kv.ErrNoStore, and a call that found no leader in time is kv.ErrNoQuorum.
var (
	// ErrExists: there is a store or a node of that name.
	ErrExists = errors.New("cluster: it exists already")
	// ErrNoNode: there is no node of that ID.
	ErrNoNode = errors.New("cluster: no such node")
	// ErrNoClient: no client of that name was made.
	ErrNoClient = errors.New("cluster: no such client")
	// ErrToken: the token gives no right to join, or no longer; the text says why.
	ErrToken = errors.New("cluster: the token is refused")
	// ErrRefused: the change makes no sense, or would lose something; the text says why.
	ErrRefused = errors.New("cluster: refused")
	// ErrDenied: the caller's certificate does not give the right to do this.
	ErrDenied = errors.New("cluster: permission denied")
)

var codeOf = map[error]codes.Code{
	ErrExists: codes.AlreadyExists, ErrNoNode: codes.NotFound, ErrNoClient: codes.NotFound, kv.ErrNoStore: codes.NotFound,
	ErrRefused: codes.FailedPrecondition, ErrDenied: codes.PermissionDenied,
}

// redirectError says who can answer.
type redirectError struct{ node, address string }

func (e *redirectError) Error() string {
	if e.node == "" {
		return "no leader is known"
	}
	return fmt.Sprintf("node %s leads, at %s", e.node, e.address)
}

// toStatus turns what a handler returns into what goes over the wire.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var re *redirectError
	if errors.As(err, &re) {
		s, derr := status.New(codes.Unavailable, err.Error()).WithDetails(
			&clusterpb.Redirect{Node: re.node, Address: re.address})
		if derr != nil {
			return derr
		}
		return s.Err()
	}
	for _, e := range []error{ErrExists, ErrNoNode, ErrNoClient, kv.ErrNoStore, ErrRefused, ErrDenied} {
		if errors.Is(err, e) {
			return status.Error(codeOf[e], err.Error())
		}
	}
	switch {
	case errors.Is(err, identity.ErrIdentity):
		return status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, kv.ErrClosed), errors.Is(err, kv.ErrUnknownOutcome), errors.Is(err, kv.ErrNoQuorum):
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

// refusedAlert is how a TLS peer says that it does not accept our certificate. It arrives after our side of
// the handshake is done, as the reason for which the connection ended.
const refusedAlert = "remote error: tls: bad certificate"

// remoteError is an error of a node, as the caller sees it.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// fromStatus turns what came over the wire into what a caller can match. retry says that another attempt,
// perhaps elsewhere, may succeed; to is where, when that is known.
func fromStatus(err error) (retry bool, to string, out error) {
	s, ok := status.FromError(err)
	if !ok {
		return false, "", err
	}
	for _, d := range s.Details() {
		if r, ok := d.(*clusterpb.Redirect); ok {
			return true, r.Address, &redirectError{r.Node, r.Address}
		}
	}
	kind := error(nil)
	switch s.Code() {
	case codes.AlreadyExists:
		kind = ErrExists
	case codes.NotFound:
		kind = ErrNoNode
		for _, e := range []error{kv.ErrNoStore, ErrNoClient} {
			if hasText(s.Message(), e) {
				kind = e
			}
		}
	case codes.FailedPrecondition:
		kind = ErrRefused
	case codes.PermissionDenied, codes.Unauthenticated:
		kind = ErrDenied
	case codes.DeadlineExceeded:
		kind = context.DeadlineExceeded
	case codes.Canceled:
		kind = context.Canceled
	case codes.Unavailable:
		if strings.Contains(s.Message(), refusedAlert) {
			return true, "", &remoteError{s.Message(), ErrDenied} // other nodes may know better
		}
		return true, "", &remoteError{s.Message(), kv.ErrNoQuorum}
	default:
		kind = errors.New(s.Code().String())
	}
	return false, "", &remoteError{s.Message(), kind}
}
