package control

import "time"

// Health of the whole, worst first.
type Health string

const (
	Lost     Health = "lost"     // some content cannot be read
	Degraded Health = "degraded" // everything can be read, with less redundancy than asked for
	OK       Health = "ok"
)

// Status is what `gabion status` shows. Sizes are bytes.
type Status struct {
	Health  Health   `json:"health"`
	Reasons []string `json:"reasons"` // why it is not ok, worst first

	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Data    string    `json:"data"`
	Cluster string    `json:"cluster"`
	Mount   string    `json:"mount"` // "" when not mounted
	DAV     string    `json:"dav"`   // "" when off

	Policies    []string    `json:"policies"` // of the filesystem's preset
	Presets     []Preset    `json:"presets"`
	Keys        Keys        `json:"keys"`
	Capacity    Capacity    `json:"capacity"`
	Disks       []Disk      `json:"disks"`
	Objects     Objects     `json:"objects"`
	Maintenance Maintenance `json:"maintenance"`
	KV          KV          `json:"kv"`
	Memory      Memory      `json:"memory"`
	Cache       *Cache      `json:"cache,omitempty"` // of fragments; nil: there is none
}

// Cache keeps fragments near. Sizes are bytes.
type Cache struct {
	On          []string `json:"on"` // what is kept: "read", "write"
	Hits        int64    `json:"hits"`
	Misses      int64    `json:"misses"`
	HitBytes    int64    `json:"hit_bytes"`
	MemoryUsed  int64    `json:"memory_used"`
	MemorySize  int64    `json:"memory_size"`
	Dir         string   `json:"dir,omitempty"`
	Used        int64    `json:"used"` // of the folder
	Size        int64    `json:"size"`
	Pages       int64    `json:"pages"`   // of 64 KiB
	Written     int64    `json:"written"` // to the folder
	Evicted     int64    `json:"evicted"` // pages
	Skipped     int64    `json:"skipped"` // pages that were not kept: the disk was behind or out of order
	Damaged     int64    `json:"damaged"` // files that were removed because something in them was wrong
	Late        int64    `json:"late"`    // reads that the disk did not answer in time
	WriteErrors int64    `json:"write_errors"`
	Loading     bool     `json:"loading,omitempty"`
	Error       string   `json:"error,omitempty"` // the last one, or why the folder is not used
}

// Capacity in bytes of user data, after coding, and of the disks themselves.
type Capacity struct {
	Total int64 `json:"total"`
	Used  int64 `json:"used"`
	Free  int64 `json:"free"`
	Files int64 `json:"files"`
}

// Disk is one ASD.
type Disk struct {
	ID    string `json:"id"`  // its number
	ASD   string `json:"asd"` // the id that is written on it
	Dir   string `json:"dir"`
	State string `json:"state"`           // "ok", "slow", "full", "disabled", "draining", "missing", "damaged" or "failed"
	Error string `json:"error,omitempty"` // what is wrong with it
	Total int64  `json:"total"`
	Used  int64  `json:"used"`
	Free  int64  `json:"free"`
	// Garbage is of deleted records, until compaction brings their space back; 0 for a disk of another process.
	Garbage int64 `json:"garbage"`
}

// Safety counts the objects that can lose Spare more fragments, of Full when all are there. They
// cannot be read when Spare is below 0.
type Safety struct {
	Spare   int   `json:"spare"`
	Full    int   `json:"full"`
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Objects says what there is, and what is less safe than it should be, least safe first.
type Objects struct {
	Total    int64    `json:"total"`
	Bytes    int64    `json:"bytes"`  // as given, after deduplication
	Stored   int64    `json:"stored"` // of all fragments
	Degraded []Safety `json:"degraded"`
}

// Maintenance is the work in the background: what it does now, and what it did since the start.
type Maintenance struct {
	Task      string `json:"task"`  // "" when idle
	Done      int64  `json:"done"`  // objects of the task
	Total     int64  `json:"total"` // as far as it is known
	Left      int64  `json:"left"`  // objects that wait to be looked at
	Healed    int64  `json:"healed"`
	Rebuilt   int64  `json:"rebuilt"`   // fragments
	Bytes     int64  `json:"bytes"`     // written for it
	Deleted   int64  `json:"deleted"`   // obsolete fragments
	Obsolete  int64  `json:"obsolete"`  // fragments that wait to be deleted, up to some ten thousand
	Collected int64  `json:"collected"` // fragments that were garbage
	Scrubbed  int64  `json:"scrubbed"`  // fragments
	Bad       int64  `json:"bad"`       // fragments that failed their checksum
	NoPlace   int64  `json:"no_place"`  // fragments that no disk could take
	Rewritten int64  `json:"rewritten"` // objects coded anew
	Moved     int64  `json:"moved"`     // fragments moved to emptier disks
	MovedSize int64  `json:"moved_bytes"`
	Compacted int64  `json:"compacted"` // bytes that the disks of this process have copied to bring space of what was deleted back
	Garbage   int64  `json:"garbage"`   // bytes of deleted records on them, whose space is not back yet
	Walks     []Walk `json:"walks"`     // passes over namespaces, under way or as they ended last
	Errors    int64  `json:"errors"`
	LastError string `json:"last_error,omitempty"`
}

// KV is the key-value store.
type KV struct {
	Leads        bool   `json:"leads"`
	Term         uint64 `json:"term"` // of Raft
	Applied      uint64 `json:"applied_index"`
	State        uint64 `json:"state_index"`   // the log up to here is in the state file
	PendingBytes int64  `json:"pending_bytes"` // sequenced, not committed
	RecentBytes  int64  `json:"recent_bytes"`  // committed, not in the state file
	StateBytes   int64  `json:"state_bytes"`   // size of the state file
	LogBytes     int64  `json:"log_bytes"`     // disk space of the log
	Transactions uint64 `json:"transactions"`  // sequenced since it was opened
	Batches      uint64 `json:"batches"`       // of them: log entries
	Error        string `json:"error,omitempty"`

	Remote *Remote `json:"remote,omitempty"` // when the store is on a cluster; figures above are the leader's
}

// Remote is the use of a store of a cluster.
type Remote struct {
	Cluster      string         `json:"cluster"`
	Store        string         `json:"store"`
	Owner        string         `json:"owner"`
	Connected    bool           `json:"connected"`  // to a member that leads
	Held         bool           `json:"held"`       // it is sure that nobody else uses the store
	Epoch        uint64         `json:"epoch"`      // how often the store has changed hands
	Reconnects   uint64         `json:"reconnects"` // since the start
	Members      []RemoteMember `json:"members"`
	MembersError string         `json:"members_error,omitempty"` // why they could not be asked
}

// RemoteMember is one member of the store.
type RemoteMember struct {
	Node    string `json:"node"`
	Address string `json:"address"`
	Role    string `json:"role"` // "leader", "follower", "learner", or "" when it does not answer
	Applied uint64 `json:"applied_index"`
	Lag     uint64 `json:"lag"` // log entries behind the furthest
	Error   string `json:"error,omitempty"`
}

// Memory of the process.
type Memory struct {
	RSS   int64 `json:"rss"`
	Heap  int64 `json:"heap"`
	Limit int64 `json:"limit"` // the soft limit of the heap
	Dirty int64 `json:"dirty"` // content that is not on the disks yet
}
