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

	Policies    []string    `json:"policies"`
	Capacity    Capacity    `json:"capacity"`
	Disks       []Disk      `json:"disks"`
	Objects     Objects     `json:"objects"`
	Maintenance Maintenance `json:"maintenance"`
	KV          KV          `json:"kv"`
	Memory      Memory      `json:"memory"`
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
	ID    string `json:"id"`
	Dir   string `json:"dir"`
	State string `json:"state"`           // "ok", "missing", "failed", "disabled", "full", ...
	Error string `json:"error,omitempty"` // what is wrong with it
	Total int64  `json:"total"`
	Used  int64  `json:"used"`
	Free  int64  `json:"free"`
}

// Safety counts the objects that have lost Missing of their fragments, of those that survive Spare
// more losses.
type Safety struct {
	Policy  string `json:"policy"`
	Missing int    `json:"missing"` // fragments
	Spare   int    `json:"spare"`   // further losses that the objects survive; negative: lost
	Objects int64  `json:"objects"`
}

// Objects counts them by safety, least safe first. Objects with every fragment are in Total only.
type Objects struct {
	Total    int64    `json:"total"`
	Degraded []Safety `json:"degraded"`
}

// Maintenance is the work in the background.
type Maintenance struct {
	Running  string `json:"running"`  // what it does now, "" when idle
	Queued   int64  `json:"queued"`   // objects waiting
	Repaired int64  `json:"repaired"` // objects since the start
	Errors   int64  `json:"errors"`   // failed attempts since the start
}

// KV is the key-value store.
type KV struct {
	State   string `json:"state"`   // of this member: "leader", ...
	Term    uint64 `json:"term"`    // of Raft
	Applied uint64 `json:"applied"` // index that is in memory
	Durable uint64 `json:"durable"` // index that is in the base
	Pending int64  `json:"pending"` // batches that are sequenced and not committed
}

// Memory of the process.
type Memory struct {
	RSS   int64 `json:"rss"`
	Heap  int64 `json:"heap"`
	Limit int64 `json:"limit"` // the soft limit of the heap
}
