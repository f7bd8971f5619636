// Package kvrpc is the wire interface of the key-value store: protocol buffers over gRPC (kvpb), a server
// over the store members of this process, and a client.
//
// The Server answers for every store of which this process has a Member. The leader of a store answers
// everything, other members answer session and stale reads, watches, and who leads.
//
// The Client finds the leader of a store by itself, follows it, and sends again what is safe to send
// again. Requests of all its goroutines share one stream per store and member, many in a message.
//
// A write is applied once. It carries an identity, (client, slot, sequence), which the leader writes down
// in the same transaction; a copy of the write that comes later, to whichever member leads then, is
// answered with the result of the first. See once.go. So when a member dies between the commit and the
// answer, the client's second attempt tells what the first one did. Only when the deadline runs out
// before any member has answered, the caller gets an error that matches kv.ErrUnknownOutcome.
//
// Errors cross the wire in fields (kvpb.Error) and match with errors.Is and errors.As as they do locally.
package kvrpc
