// Package cluster looks for histories that the cluster must not show. It runs real nodes, each on its own host of
// a small network, lets clients read and write while faults happen - processes are killed and stopped, the
// network loses what some send to others, a disk stalls, clocks jump, members come, go and hand over - and
// checks what every client saw:
//
//   - registers, in groups of three, read, written, tested and set and changed by sequences: the history of each
//     group must be linearizable (porcupine). A write whose outcome is unknown may have happened at any later
//     time, or never; one that failed with any other error must not have happened.
//   - counters, each with one writer, read with session consistency: no session ever goes back, nor misses what
//     its index covers.
//   - the same counters, read stale at any member: what is shown existed, and is no older than claimed.
//
// Every history has a seed, which chooses the operations and the faults; the moments at which they meet are the
// machine's.
package cluster
