// Package maint looks after objects without being asked: it finishes degraded writes, rebuilds what was
// on lost disks, empties disks that are to be retired, deletes obsolete fragments, collects garbage and
// scrubs.
//
// It promises:
//
//   - The least safe objects come first.
//   - A fragment is deleted only after the change that made it obsolete is durable.
//   - Garbage is a fragment that no manifest refers to and, because its upload's epoch has expired, none
//     ever will.
//   - It reads and writes no more than its budget of bytes per second.
//
// Work is found by events (a disk that came or went, a degraded write, a bad fragment, a deletion) and
// periodically, in case an event was lost with a process.
//
// Locks: work is held shared while fragments are written for objects that exist (heal), and exclusively
// while garbage is told from fragments (collect).
package maint

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Options for New. KV, Disks and Namespaces must be set.
type Options struct {
	KV         kv.Store
	Disks      *manager.Manager
	Namespaces func() []*client.Namespace // all of them
	Logger     *slog.Logger
	// Stores returns those of all namespace managers; nil: all namespaces are in KV.
	Stores func() []kv.Store

	// Rate bounds the bytes per second that heal and scrub read and write; 0 means 256 MiB/s,
	// negative no limit.
	Rate int64
	// RepairDelay is how long a disk may be down before what was on it is rebuilt; 0 means 10 s,
	// negative at once.
	RepairDelay time.Duration
	// CollectEvery and ScrubEvery are the periods of garbage collection and scrub; 0 means 1 h and
	// 7 days, negative never.
	CollectEvery, ScrubEvery time.Duration
	// UploadGrace is how long collection waits for uploads that began before it; those that take
	// longer are refused. 0 means 10 minutes.
	UploadGrace time.Duration
	// RetireAfter is how long a disk must be down, in one life of the process, to be retired once nothing refers
	// to it any more; 0 means 24 h, negative never.
	RetireAfter time.Duration
	// BalanceWithin is how much the used fractions of disks may differ before fragments are moved; 0 means 0.03,
	// negative any.
	BalanceWithin float64

	// Agent names this process among those that maintain the same backend at the same time. Only one process at
	// a time may have a name. "" is alone: there are no leases.
	Agent string
	// LeaseTime is how long an agent may be silent before others take over its namespaces; 0 means 15 s.
	LeaseTime time.Duration
	// Clock tells the time of the schedule; nil means time.Now.
	Clock func() time.Time
}

// Maint is the maintenance of one backend. Safe for concurrent use.
type Maint struct {
	o     Options
	log   *slog.Logger
	spend *limiter

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	degradedFrom  map[*nsm.Manager]uint64 // where the next retry begins; only the loop looks at it
	lookedForDead time.Time               // only the loop looks at it

	agency  *agency    // of the backend manager's store; nil: alone
	farMu   sync.Mutex // guards far; taken alone
	far     []*agency  // of other stores
	started time.Time  // by Options.Clock

	wake chan struct{}
	work sync.RWMutex // see the package comment

	labelling    sync.Mutex                                 // held while labels are written; guards what follows
	labels       map[string]map[objstore.FragmentKey]string // what is known to be on disks, by ASD
	namesOnDisks map[uint32]bool                            // namespaces whose labels are on one disk at least
	keyring      []byte                                     // the copy that is to be on the disks

	mu   sync.Mutex // guards what follows
	todo todo
	prog Progress
}

// todo is what is known to be waiting.
type todo struct {
	obsolete map[*nsm.Manager]bool
	degraded map[object]bool
	bad      map[object]map[objstore.FragmentKey]bool
	survey   bool // look at all objects: a disk came or went
	more     bool // something was forgotten because there was too much: survey when there is time
	balance  bool // look whether fragments should move
	walk     bool // go on with walks
}

type object struct {
	ns   *nsm.Manager
	name string
}

// maxTodo bounds the objects that are remembered one by one.
const maxTodo = 10000

func (t *todo) reset() {
	*t = todo{obsolete: map[*nsm.Manager]bool{}, degraded: map[object]bool{}, bad: map[object]map[objstore.FragmentKey]bool{}}
}

// New returns the maintenance of a backend; nothing happens before Start. Close it.
func New(o Options) *Maint {
	if o.Rate == 0 {
		o.Rate = 256 << 20
	}
	setDefault(&o.RepairDelay, 10*time.Second)
	setDefault(&o.CollectEvery, time.Hour)
	setDefault(&o.ScrubEvery, 7*24*time.Hour)
	setDefault(&o.UploadGrace, 10*time.Minute)
	setDefault(&o.RetireAfter, 24*time.Hour)
	setDefault(&o.LeaseTime, 15*time.Second)
	if o.BalanceWithin == 0 {
		o.BalanceWithin = 0.03
	}
	if o.Stores == nil {
		o.Stores = func() []kv.Store { return []kv.Store{o.KV} }
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Maint{o: o, log: o.Logger, spend: newLimiter(o.Rate), degradedFrom: make(map[*nsm.Manager]uint64),
		labels: make(map[string]map[objstore.FragmentKey]string), namesOnDisks: make(map[uint32]bool), wake: make(chan struct{}, 1)}
	m.ctx, m.cancel = context.WithCancel(objstore.Background(context.Background()))
	m.started = o.Clock()
	if o.Agent != "" {
		m.agency = newAgency(o.KV, o.Agent, o.LeaseTime)
	}
	m.todo.reset()
	return m
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// Close stops maintenance. What it was doing stays half done, which is always safe.
func (m *Maint) Close() {
	m.cancel()
	m.wg.Wait()
	m.giveBack()
}

func (m *Maint) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Degraded implements client.Trouble.
func (m *Maint) Degraded(ns *nsm.Manager, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.todo.degraded) >= maxTodo {
		m.todo.more = true
		return
	}
	m.todo.degraded[object{ns, name}] = true
	m.nudge()
}

// Bad implements client.Trouble.
func (m *Maint) Bad(ns *nsm.Manager, name string, key objstore.FragmentKey, disk objstore.DiskID, err error) {
	m.seenBad(ns, name, key, disk, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.todo.bad) >= maxTodo {
		m.todo.more = true
		return
	}
	o := object{ns, name}
	if m.todo.bad[o] == nil {
		m.todo.bad[o] = make(map[objstore.FragmentKey]bool)
	}
	m.todo.bad[o][key] = true
	m.nudge()
}

func (m *Maint) seenBad(ns *nsm.Manager, name string, key objstore.FragmentKey, disk objstore.DiskID, err error) {
	m.log.Warn("bad fragment", "namespace", ns.Name(), "object", name, "fragment", key.String(), "disk", disk, "error", err)
	m.note(func(p *Progress) { p.BadSeen++ })
}

// Obsolete implements client.Trouble.
func (m *Maint) Obsolete(ns *nsm.Manager) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.todo.obsolete[ns] = true
	m.nudge()
}

// DisksChanged says that a disk came or went.
func (m *Maint) DisksChanged() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.todo.survey = true
	m.nudge()
}

// Start begins to work in the background.
func (m *Maint) Start() {
	m.mu.Lock()
	m.todo.survey = true // what happened while nobody watched
	for _, ns := range m.o.Namespaces() {
		m.todo.obsolete[ns.NSM()] = true
	}
	m.mu.Unlock()
	m.todoLater()
	m.nudge()
	m.wg.Go(m.loop)
	if m.agency != nil {
		m.wg.Go(m.beats)
	}
}

// namespace returns the client's namespace of a manager, nil when it is gone.
func (m *Maint) namespace(n *nsm.Manager) *client.Namespace {
	for _, ns := range m.o.Namespaces() {
		if ns.NSM() == n {
			return ns
		}
	}
	return nil
}
