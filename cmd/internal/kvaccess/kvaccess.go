// Package kvaccess gives the kv commands one way to a store, wherever it is: Local is the store of a data
// directory, through the process that runs there or opened for the command; Remote is a store of a
// cluster.
//
// What one of them cannot do it answers with an *UnsupportedError, which says what can.
package kvaccess

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// Read says how fresh a read has to be.
type Read struct {
	Level  kv.Level      // Linearizable or Stale
	Index  uint64        // with Stale: the view shows at least this log index
	MaxAge time.Duration // with Stale: refuse a view that is older; 0 takes any
}

// Value is what a key has. The zero Value is that of an absent key.
type Value struct {
	Found bool
	Value []byte
}

// Pair is a key with its value.
type Pair struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value,omitempty"`
}

// Query asks for a range. It selects as kv.Range does; Limit 0 means all.
type Query struct {
	Keyspace kv.Keyspace
	kv.Range
	KeysOnly bool
}

// Applied is what came of a sequence.
type Applied struct {
	Index uint64 // of the log, at which it can be read; 0 when the store does not tell
	Steps []kv.StepResult
}

// WatchQuery asks for the changes of the keys that begin with Prefix.
type WatchQuery struct {
	Keyspace kv.Keyspace
	Prefix   []byte
	From     uint64 // the first log index of interest; 0 means from now on
}

// Event is one change.
type Event struct {
	Index   uint64 `json:"index"`
	Key     []byte `json:"key"`
	Value   []byte `json:"value,omitempty"`
	Deleted bool   `json:"deleted,omitempty"`
}

// Leader is the role of the member that writes go to.
const Leader = "leader"

// Member is one copy of the store. Numbers that it does not tell are 0.
type Member struct {
	Node    string `json:"node"`
	Address string `json:"address,omitempty"`
	Role    string `json:"role"` // "leader", "follower", "learner", or "" when it does not answer
	Term    uint64 `json:"term,omitempty"`
	Applied uint64 `json:"applied_index"`
	Error   string `json:"error,omitempty"` // why it does not serve

	Transactions uint64        `json:"transactions"` // sequenced here since it was opened
	Batches      uint64        `json:"batches"`
	StateIndex   uint64        `json:"state_index"`
	PendingBytes int64         `json:"pending_bytes"`
	RecentBytes  int64         `json:"recent_bytes"`
	StateBytes   int64         `json:"state_bytes"`
	LogBytes     int64         `json:"log_bytes"`
	Age          time.Duration `json:"age_ns"` // of a stale read here
}

// Pong is the answer of one member to a ping.
type Pong struct {
	Node    string        `json:"node"`
	Address string        `json:"address,omitempty"`
	Took    time.Duration `json:"took_ns"`
	Error   string        `json:"error,omitempty"`
}

// Sum is what a member holds at one index of the log.
type Sum struct {
	Node   string `json:"node"`
	Index  uint64 `json:"index"`
	Keys   uint64 `json:"keys"`
	SHA256 string `json:"sha256,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Store is what the kv commands work on. Safe for concurrent use.
type Store interface {
	// Get returns the values of keys, in their order, of one moment.
	Get(ctx context.Context, r Read, ks kv.Keyspace, keys [][]byte) ([]Value, error)
	// Exists tells which of keys exist, at one moment.
	Exists(ctx context.Context, r Read, ks kv.Keyspace, keys [][]byte) ([]bool, error)
	// Range calls fn with each pair of the range, and tells whether Limit cut it short. Long ranges are
	// read in pages: each is of one moment, the whole is not.
	Range(ctx context.Context, r Read, q Query, fn func(Pair) error) (more bool, err error)
	// Count returns the number of keys in a range.
	Count(ctx context.Context, r Read, q Query) (uint64, error)
	// Apply runs steps as one transaction, durably.
	Apply(ctx context.Context, steps []kv.Step) (Applied, error)
	// Call runs the procedure of that name, durably.
	Call(ctx context.Context, name string, args []byte) ([]byte, error)
	// Watch calls fn with the changes in their order until fn or ctx ends it.
	Watch(ctx context.Context, q WatchQuery, fn func(Event) error) error
	// Members returns what each copy of the store says about itself.
	Members(ctx context.Context) ([]Member, error)
	// Ping asks every member for an answer.
	Ping(ctx context.Context) ([]Pong, error)
	// Backup writes the store as it is at one index.
	Backup(ctx context.Context, w io.Writer) (index uint64, err error)
	// Restore fills the store, which must be empty, from a backup, and returns the number of its keys.
	Restore(ctx context.Context, r io.Reader) (keys uint64, err error)
	// Verify compares what the members hold at one index.
	Verify(ctx context.Context) ([]Sum, error)
	// Close lets go of the store.
	Close() error
}

// UnsupportedError says that a store cannot do something where it is.
type UnsupportedError struct {
	What    string // what cannot be done, as a clause
	Instead string // what to do instead
}

func (e *UnsupportedError) Error() string { return fmt.Sprintf("%s: %s", e.What, e.Instead) }
