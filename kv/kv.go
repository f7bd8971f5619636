// Package kv is the vocabulary of gabion's key-value store: keyspaces of ordered byte keys, and
// transactions over them.
//
// A Store is one independent set of keyspaces. It promises:
//
//   - Transactions are serializable: they behave as if they ran one after the other, in the order in
//     which they were sequenced.
//   - A transaction is atomic: after a crash either all of its puts and deletes are there or none.
//   - Nothing is reordered. A crash leaves a prefix of the sequence; everything that a returned
//     Durable update or a returned Sync covered is in that prefix.
//   - When consistency cannot be kept an update fails with a typed error; it is never faked.
//
// Implementations live below this package: kv/memkv is the reference model, kv/raftkv the replicated
// store. kv/kvtest is the suite that every implementation passes.
package kv

import "context"

// Limits that every Store enforces. Exceeding one fails the update with a *TooLargeError and leaves
// the store as it was.
const (
	MaxKeyspace = 64       // bytes in a keyspace's name, at least 1
	MaxKey      = 64 << 10 // bytes in a key, at least 1
	MaxValue    = 8 << 20  // bytes in a value, 0 allowed
	MaxBatch    = 32 << 20 // bytes of keys and values in one transaction
)

// Keyspace names a table of ordered byte keys. A keyspace exists as soon as it is written to; reading
// one that was never written finds nothing.
type Keyspace string

// SystemKeyspace holds what the machinery around a store keeps in it: leases, the record of what remote
// clients had applied, marks. Names that begin with a zero byte are reserved for it; whoever lets others
// choose keyspaces refuses them.
const SystemKeyspace Keyspace = "\x00system"

// Reserved says whether the keyspace is one that only the machinery around a store uses.
func (ks Keyspace) Reserved() bool { return len(ks) > 0 && ks[0] == 0 }

// Commit is the strength with which an update is committed.
type Commit uint8

const (
	// Durable: Update returns once the batch is committed by a quorum and on stable storage.
	Durable Commit = iota
	// Ordered: Update returns as soon as the batch is sequenced. Later transactions see it. It becomes
	// durable in order, within 100 ms or at the next Sync or Durable update, whichever is first.
	Ordered
)

// Level is how fresh a View is.
type Level uint8

const (
	// Linearizable: the view shows everything that was acknowledged before View was called, and View
	// does not return before everything it showed is committed.
	Linearizable Level = iota
	// Pending: the view also shows batches that are sequenced but not yet committed, and does not wait
	// for them. It is what a session uses that must see its own Ordered updates. Leader only.
	Pending
	// Stale: the view of this member, however old, without asking anyone.
	Stale
)

// Range selects the keys k with From <= k < To of one keyspace, in ascending byte order, or descending
// when Reverse is set. A nil From starts at the first key; a nil To ends after the last. Limit is the
// largest number of keys delivered; 0 means no limit.
type Range struct {
	From, To []byte
	Reverse  bool
	Limit    int
}

// Prefix returns the range of all keys that begin with p.
func Prefix(p []byte) Range {
	to := append([]byte(nil), p...)
	for i := len(to) - 1; i >= 0; i-- {
		if to[i]++; to[i] != 0 {
			return Range{From: p, To: to[:i+1]}
		}
	}
	return Range{From: p}
}

// Reader is a consistent view of a store. It is valid only inside the function that it was passed to,
// and so are the slices it returns; they must not be modified. Not safe for concurrent use.
type Reader interface {
	// Get returns the value of key, or ErrNotFound.
	Get(ks Keyspace, key []byte) ([]byte, error)
	// Range calls fn with each key in r, in order, until fn returns false.
	// fn must not write to the transaction it reads from.
	Range(ks Keyspace, r Range, fn func(key, value []byte) bool) error
}

// Txn is a transaction under evaluation: a Reader that also sees the transaction's own writes.
type Txn interface {
	Reader
	// Put sets key to value. The transaction keeps both slices: the caller must not modify them
	// afterwards. A slice that this transaction's Get or Range handed out may be put again. A key or value over the limits fails the whole update.
	Put(ks Keyspace, key, value []byte)
	// Delete removes key; deleting an absent key does nothing. The transaction keeps the slice.
	Delete(ks Keyspace, key []byte)
}

// Store is one independent set of keyspaces. Safe for concurrent use.
type Store interface {
	// Update evaluates fn and commits what it wrote with the strength of c. When fn returns an error,
	// nothing is written and Update returns that error as it is. fn runs at most a few times, must have
	// no side effect outside the transaction that cannot be repeated, must be short (other transactions
	// wait for it) and must not call the store. The context cancels waiting, never a batch that was
	// already sequenced: then Update returns an error that matches ErrUnknownOutcome.
	Update(ctx context.Context, c Commit, fn func(Txn) error) error
	// View evaluates fn over a consistent view of freshness l, under the same rules for fn.
	View(ctx context.Context, l Level, fn func(Reader) error) error
	// Sync waits until everything that was sequenced before the call is durable.
	Sync(ctx context.Context) error
	// Close stops the store after making everything that was sequenced durable. Calls after Close, and
	// calls that Close overtakes, return an error that matches ErrClosed.
	Close() error
}
