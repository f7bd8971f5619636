package kvrpc

import (
	"time"

	"github.com/gabionfs/gabion/kv"
)

// Limits of the interface, beside those of package kv.
const (
	// maxMessage is the largest message that either side accepts: a sequence of the largest size, with
	// what its steps have around their keys and values.
	maxMessage = kv.MaxBatch + 8<<20
	// maxRequests in one message of an Exec stream.
	maxRequests = 64 << 10
	// MaxGet is how many keys one Get may name.
	MaxGet = 4096
	// maxAnswer bounds the bytes of keys and values in one answer.
	maxAnswer = 16 << 20
	// defaultPage is how large a page of a range is when nothing is asked for.
	defaultPage = 1 << 20
	// maxStored is the largest result of a write that is kept for its repetition.
	maxStored = 64 << 10
	// Slots of a client, each with one write under way.
	Slots = 1024
	// clientBytes is the length of a client's identity.
	clientBytes = 16
	// maxArgs bounds the arguments and the result of a procedure.
	maxArgs = kv.MaxValue
	// maxName bounds names of stores and procedures.
	maxName = 255
	// maxWaiting is how many operations of one stream may be under way; the server stops reading then.
	maxWaiting = 64 << 10
	// maxWaitingBytes likewise.
	maxWaitingBytes = 64 << 20
	// watchBeat is how often a watch that has nothing to tell says so.
	watchBeat = 2 * time.Second
)
