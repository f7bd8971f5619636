package raftkv

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/hashicorp/raft"
)

// Options of Open. Only Dir is required.
type Options struct {
	// Dir holds everything the member stores. It is created when it does not exist. One process at a
	// time may open it.
	Dir string
	// ID names the member within its group and never changes; "1" when empty.
	ID string
	// Logger receives what an operator should know; nothing is logged when it is nil.
	Logger *slog.Logger
	// Transport connects the members. With nil there is no network and the member is alone. The store
	// closes it.
	Transport raft.Transport
	// Bootstrap is the first configuration of a new group, the same for each of its members; this
	// member alone when nil. Ignored when Dir has a state.
	Bootstrap []raft.Server
	// Join opens a new member without a configuration: the leader of an existing group adds it.
	Join bool

	// FlushBytes is how much the memory tables gather before they are written to the state file;
	// 48 MiB when 0. Up to twice as much is held before updates wait.
	FlushBytes int64
	// SegmentBytes is the size of a file of the log; 16 MiB when 0.
	SegmentBytes int64
	// MaxPending bounds the bytes that are sequenced and not committed; 16 MiB when 0.
	MaxPending int64
	// Window is how long an Ordered update may wait for company before its batch goes to the log;
	// 100 ms when 0, which is also the most that is allowed.
	Window time.Duration
	// HeartbeatTimeout is how long a follower waits for its leader before it starts an election, and
	// how long a leader goes on without hearing from a quorum; 1 s when 0.
	HeartbeatTimeout time.Duration
	// MinLog is how many bytes of log are kept at least, although the state file has them, for watchers and
	// for members that lag: one that misses more gets the whole state. 64 MiB when 0; a member without a
	// network keeps nothing then.
	MinLog int64
	// SyncTimeout is how long a write to the log may take before a member of a larger group ends its
	// leadership and keeps silent until the disk answers, so that another one can lead; 3 s when 0.
	SyncTimeout time.Duration

	mapBytes  int                  // address space for the state file at first; firstMap when 0
	partBytes int64                // pages of the state file that one of its transactions changes; defaultPart when 0
	syncLog   func(*os.File) error // makes the log durable; fdatasync when nil
}

func (o *Options) setDefaults() error {
	if o.Dir == "" {
		return errors.New("raftkv: Options.Dir is empty")
	}
	if o.ID == "" {
		o.ID = "1"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FlushBytes == 0 {
		o.FlushBytes = 48 << 20
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.MaxPending == 0 {
		o.MaxPending = 16 << 20
	}
	if o.Window == 0 || o.Window > 100*time.Millisecond {
		o.Window = 100 * time.Millisecond
	}
	if o.HeartbeatTimeout == 0 {
		o.HeartbeatTimeout = time.Second
	}
	if o.mapBytes == 0 {
		o.mapBytes = firstMap
	}
	if o.partBytes == 0 {
		o.partBytes = defaultPart
	}
	if o.SyncTimeout == 0 {
		o.SyncTimeout = 3 * time.Second
	}
	if o.MinLog == 0 && o.Transport != nil {
		o.MinLog = 64 << 20
	}
	return nil
}

func (o *Options) raftConfig(notify chan<- bool, log *slog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(o.ID)
	c.HeartbeatTimeout = o.HeartbeatTimeout
	c.ElectionTimeout = o.HeartbeatTimeout
	c.LeaderLeaseTimeout = o.HeartbeatTimeout / 2
	c.CommitTimeout = max(o.HeartbeatTimeout/20, time.Millisecond)
	c.MaxAppendEntries = 16 // an entry is a batch, often some hundred KiB
	c.TrailingLogs = 0
	if o.MinLog > 0 {
		c.TrailingLogs = 1 // see retained
	}
	// The flusher asks for snapshots, see flush.go; raft never takes one by itself.
	c.SnapshotInterval = 365 * 24 * time.Hour
	c.SnapshotThreshold = math.MaxUint64
	c.NoSnapshotRestoreOnStart = true
	c.NotifyCh = notify
	c.NoLegacyTelemetry = true
	c.Logger = newHCLog(log)
	return c
}
