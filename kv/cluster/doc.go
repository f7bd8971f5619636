// Package cluster runs a node: a process that hosts members of many replicated stores, behind one TLS
// listener, and moves them to where the cluster's directory says they shall be.
//
// The directory is a store of its own that every node has a copy of: up to five nodes vote in it, the
// others follow. It says which nodes and stores there are, who may join, and holds the key of the
// certificate authority. Everything else follows from it: each node opens and removes members of stores
// until it hosts what the directory says, and the leader of each store moves that store's configuration
// towards it, one step at a time, while the store is used. Every step may be cut off by a crash at any
// point and is taken again.
//
//	administration ──> directory ──> nodes open and remove members
//	                             └─> leaders add learners, promote those that caught up, remove, hand over
//
// What it promises:
//
//   - A member is never begun twice. A node notes that it has a member before it opens it, outside the
//     member's own folder; when the files are then missing or damaged, the member does not start, and
//     says so with the command that replaces the node. A member that forgot what it voted for or
//     acknowledged could lose what others rely on.
//   - A node that was removed is refused, at once where the removal is known, on its open connections too.
//   - Files of a member are removed only when the directory no longer knows the store, or when the
//     store's leader has said that its configuration goes on without the member.
//   - A peer that is lost silently holds up nothing but what needs it.
//
// Files of a node, in its directory:
//
//	node.pem       who it is: an identity.Bundle, with the addresses of some other nodes
//	join-ID.key    the private key while it is joining
//	addresses      where the nodes listen, as far as this one has heard: see addressBook
//	members/ID     one small file for each member that it has begun: see mark
//	stores/ID/     the member itself: see package raftkv
//
// It assumes of package raftkv that a member keeps what it acknowledged or stops.
package cluster

// The protocols on a node's listener.
const (
	protoGRPC = "h2"
	protoRaft = "gabion-raft/1"
	protoJoin = "gabion-join/1"
)

// Directory is the name of the store that knows all others. It is not open to clients.
const Directory = "directory"

// maxDirectoryVoters is how many nodes vote in the directory.
const maxDirectoryVoters = 5
