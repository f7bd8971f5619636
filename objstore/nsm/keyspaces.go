package nsm

import "github.com/gabionfs/gabion/kv"

// Keyspaces returns all keyspaces that a Manager keeps anything in, to measure them.
func Keyspaces() []kv.Keyspace {
	return []kv.Keyspace{ksManifest, ksCount, ksDegraded, ksObsolete, ksParked, ksAlloc, ksHold, ksLease, ksHome, ksChange, ksInbox}
}
