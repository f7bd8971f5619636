package kvrpc

import (
	"context"
	"io"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// Member is what the server needs of a store: *raftkv.Store.
type Member interface {
	kv.Store
	// Epoch names the leadership under which this member evaluates now; 0 when it does not lead.
	Epoch() uint64
	// SyncSince waits until everything that was sequenced is durable, if it still leads under the epoch.
	SyncSince(ctx context.Context, epoch uint64) error
	// AppliedIndex is the index of the log up to which a stale view shows everything.
	AppliedIndex() uint64
	WaitApplied(ctx context.Context, index uint64) error
	ViewAt(ctx context.Context, l kv.Level, fn func(r kv.Reader, index uint64) error) (seen uint64, err error)
	// Age says how old a stale view may be.
	Age() time.Duration
	Watch(ctx context.Context, o raftkv.WatchOptions, fn func(index uint64, events []raftkv.Event) error) error
	Backup(ctx context.Context, w io.Writer) (index uint64, err error)
	// MarkHash and HashAt compare the contents of members at one index.
	MarkHash(ctx context.Context) (id string, index uint64, err error)
	HashAt(ctx context.Context, id string, index uint64) (raftkv.HashResult, error)
	Members() []raftkv.Member
	Stats() raftkv.Stats
}

var _ Member = (*raftkv.Store)(nil)

// Procedure is a transaction that clients call by name. It runs on the leader, under the rules for the
// function of kv.Store.Update: it may run more than once, has no effects outside tx, and is short. It must
// not use reserved keyspaces. What it returns belongs to the server. An error aborts the transaction and
// goes to the caller as a *ProcedureError, unless it is an error of package kv; see Detailed too.
type Procedure func(tx kv.Txn, args []byte) (result []byte, err error)
