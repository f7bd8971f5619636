package cluster

import (
	"log/slog"
	"net"
	"time"

	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// InitOptions of Init.
type InitOptions struct {
	// Dir is the node's directory, which must be empty or absent.
	Dir string
	// ID names the node; the machine's name and four random digits when empty. It never changes.
	ID string
	// Advertise is where others reach the node, host:port. When it is empty, it is where Open listens.
	Advertise string
	Logger    *slog.Logger
}

// JoinOptions of Join.
type JoinOptions struct {
	Dir, ID, Advertise string // as in InitOptions
	// Peers are addresses of nodes, tried before those that the token names.
	Peers []string
	// Token is what NewToken returned.
	Token string
	// Learner makes a node that never votes.
	Learner bool
	Logger  *slog.Logger
}

// Options of Open. Dir and one of Listen and Listener are required.
type Options struct {
	// Dir was made by Init or Join.
	Dir string
	// Listen is the address to listen on, host:port; the port may be 0.
	Listen string
	// Listener is used in place of Listen when it is set. The node closes it.
	Listener net.Listener
	// Advertise is where others reach the node; where it listens when empty.
	Advertise string
	// Peers are addresses of other nodes, for a node whose peers have all moved since it last ran.
	Peers []string
	// Procedures that clients may call by name.
	Procedures map[string]Procedure
	// Services are further protocols of the node's listener, by their ALPN names. Each is called in a goroutine of its own for
	// every connection of a node or client that the cluster admits, and has it from then on. Close waits for them.
	Services map[string]func(*mux.Conn)
	// Version is shown in the cluster's status.
	Version string
	Logger  *slog.Logger

	// HeartbeatTimeout is how long members wait for their leader; 1 s when 0.
	HeartbeatTimeout time.Duration
	// SyncTimeout is how long a sync of a log may take before the member steps down; 5 s when 0.
	SyncTimeout time.Duration
	// Tune may change the options of a member before it is opened.
	Tune func(store string, o *raftkv.Options)
}

func discard() *slog.Logger {
	return slog.New(slog.DiscardHandler)
}
