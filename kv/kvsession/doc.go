// Package kvsession is a kv.Store over a store of a cluster, for one user that has it exclusively: a
// mounted volume. Transactions are evaluated here, as if the store were embedded.
//
// What it promises is the contract of package kv, and beyond it:
//
//   - Nothing that Update returned for is lost when members are, not even Ordered updates: what is not
//     acknowledged as durable by the cluster is kept here and sent again, in order, to the next leader,
//     and applied once. While there is no leader, Durable updates, Sync and reads of what is not known
//     here wait; everything else goes on until Options.MaxPending is reached.
//   - A crash of the user leaves a prefix of its updates.
//   - While the session lasts, others' writes to the store are refused with kv.ErrFenced. When another
//     user takes the store (see Options.Steal), or the session was not heard of for its TTL and
//     someone else writes, the session is over: what it still sends is refused as a whole, and every call
//     fails with an error that matches kv.ErrFenced.
//   - A Linearizable view is never older than what another user of the store has written, and a Pending one
//     never by more than the time that the function takes: both are refused to begin while it
//     is not sure that the session still has the store. An owner that takes its own store over does so at
//     once; then the former session may answer Pending views for up to half its TTL. So the owner has to
//     see to it that there is one of it.
//
// How it works. The table (table.go) remembers rows that were read from the cluster and rows that were
// written here, in one ordered tree per keyspace, and between which of them there is nothing. A read that
// the table cannot answer asks the leader for the neighbourhood of the key (page.go, fetch.go). What
// transactions write goes into the table and into a batch (queue.go); batches go out in order over one
// gRPC stream, several at once (conn.go). The server applies each as one transaction, in which it also
// checks the session's fencing number and that the batch is the next one, and acknowledges it once it is
// durable.
//
// The leader reserves the store for TTL from the last renewal that it has verified to still lead after; the
// session trusts in half of that, counted from when it sent the renewal. A new leader counts from when it
// begins to.
package kvsession
