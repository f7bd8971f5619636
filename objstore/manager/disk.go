package manager

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/objstore"
)

// State is how a disk does.
type State uint8

const (
	Up      State = iota
	Missing       // its folder is not there
	Damaged       // its folder is there but cannot be opened
	Failed        // it answers with errors
)

var stateNames = [...]string{"up", "missing", "damaged", "failed"}

func (s State) String() string { return stateNames[s] }

// Disk is one disk of the backend, in whatever state. Safe for concurrent use.
type Disk struct {
	Reads, Writes Latency
	Writing       atomic.Int32 // fragments of puts that are being written: how loaded it is

	mu     sync.Mutex
	record DiskRecord
	state  State
	err    error
	since  time.Time
	dev    *device // nil unless the state is Up
	stat   objstore.DiskStat

	fitness fitness

	full     atomic.Bool
	failures atomic.Int32 // in a row
	backlog  atomic.Int32 // writes that nobody waits for any longer
}

// device counts who is using a disk, so that it is closed after the last.
type device struct {
	objstore.Disk
	users  atomic.Int64 // the attachment itself is one
	closed chan struct{}
}

func (d *device) done() {
	if d.users.Add(-1) == 0 {
		go func() {
			defer close(d.closed)
			_ = d.Close() // what is wrong with it is known already
		}()
	}
}

func newDisk(r DiskRecord) *Disk {
	return &Disk{record: r, state: Missing, err: errors.New("not opened"), since: time.Now()}
}

// Record returns what is kept about the disk.
func (d *Disk) Record() DiskRecord {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.record
}

func (d *Disk) setRecord(r DiskRecord) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record = r
}

// ID returns the disk's number.
func (d *Disk) ID() objstore.DiskID { return d.Record().ID }

// ASD returns the id that is written on the disk.
func (d *Disk) ASD() string { return d.Record().ASD }

// Dir returns the folder where the disk was last seen.
func (d *Disk) Dir() string { return d.Record().Dir }

// Node returns the node that the disk is on.
func (d *Disk) Node() string { return d.Record().Node }

// Status is a picture of a disk.
type Status struct {
	DiskRecord
	State      State
	Err        error // why it is not up
	Since      time.Time
	Stat       objstore.DiskStat // as last seen
	Slow       bool
	ReadP95    time.Duration
	WriteP95   time.Duration
	Stragglers int
}

// Status returns a picture of the disk.
func (d *Disk) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Status{DiskRecord: d.record, State: d.state, Err: d.err, Since: d.since, Stat: d.stat, Slow: d.Reads.Slow() || d.fitness.unfit,
		ReadP95: d.Reads.P95(), WriteP95: d.Writes.P95(), Stragglers: int(d.backlog.Load())}
}

func (d *Disk) attach(dev objstore.Disk) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev != nil {
		return false
	}
	d.dev = &device{Disk: dev, closed: make(chan struct{})}
	d.dev.users.Store(1)
	d.state, d.err, d.since = Up, nil, time.Now()
	d.failures.Store(0)
	d.full.Store(false)
	return true
}

// detach reports whether the disk was up.
func (d *Disk) detach(s State, err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.dev
	d.dev = nil
	if d.state != s || was != nil {
		d.since = time.Now()
	}
	d.state, d.err = s, err
	if was != nil {
		was.done()
	}
	return was != nil
}

// MarkDown records why a disk that is not attached is not usable.
func (d *Disk) MarkDown(s State, err error) { d.detach(s, err) }

// Diagnose records anew why a disk that is down is not usable, and reports whether that is another state. It
// changes nothing about a disk that is up, nor since when the disk has been down.
func (d *Disk) Diagnose(s State, err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev != nil {
		return false
	}
	was := d.state
	d.state, d.err = s, err
	return was != s
}

// Shutdown takes the disk out of use and waits until it is closed: until the last user is done.
func (d *Disk) Shutdown() {
	d.mu.Lock()
	dev := d.dev
	d.mu.Unlock()
	if dev != nil && d.detach(Missing, objstore.ErrClosed) {
		<-dev.closed
	}
}

// Use returns the disk's device and a function to call when done with it, or an error that says why
// the disk is not up. A nil Disk is one that was retired meanwhile.
func (d *Disk) Use() (objstore.Disk, func(), error) {
	if d == nil {
		return nil, nil, errors.New("the disk is unknown or retired")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return nil, nil, fmt.Errorf("disk %d is %v: %w", d.record.ID, d.state, d.err)
	}
	d.dev.users.Add(1)
	return d.dev.Disk, d.dev.done, nil
}

// Patience is how long maintenance waits for one operation on a disk.
const Patience = time.Minute

// ErrHung: an operation has not come back. It may still be going on, with everything it was given.
var ErrHung = errors.New("objstore: a disk does not answer")

// Do runs fn with the disk's device, and returns after at most Patience: a disk that hangs must not hold
// up maintenance of the others. After ErrHung, or when ctx has ended, fn may still be running: what it
// uses must be left to it.
func (d *Disk) Do(ctx context.Context, fn func(objstore.Disk) error) error {
	return d.doWithin(ctx, Patience, fn)
}

func (d *Disk) doWithin(ctx context.Context, limit time.Duration, fn func(objstore.Disk) error) error {
	dev, done, err := d.Use()
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() {
		defer done()
		result <- fn(dev)
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case err := <-result:
		return err
	case <-t.C:
		return fmt.Errorf("disk %d, %v: %w", d.ID(), limit, ErrHung)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Readable tells whether fragments can be read from the disk.
func (d *Disk) Readable() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dev != nil
}

// Remote tells whether the disk is up, and of another process.
func (d *Disk) Remote() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return false
	}
	_, remote := d.dev.Disk.(objstore.RemoteDisk)
	return remote
}

// maxBacklog is how many writes that nobody waits for may pile up on a disk before it is given no more.
const maxBacklog = 4

// Writable tells whether new fragments should be put on the disk.
func (d *Disk) Writable() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dev != nil && d.record.Admin == Active && !d.full.Load() && d.backlog.Load() < maxBacklog && !d.fitness.unfit
}

// Busy tells whether the disk would be Writable but for the writes that have piled up on it, or are slow.
func (d *Disk) Busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dev != nil && d.record.Admin == Active && !d.full.Load() && (d.backlog.Load() >= maxBacklog || d.fitness.unfit)
}

// Kept tells whether fragments on the disk count as safe: it is up, and nobody wants it emptied.
func (d *Disk) Kept() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dev != nil && d.record.Admin == Active
}

// Full tells whether the disk refuses puts.
func (d *Disk) Full() bool { return d.full.Load() }

// Straggle counts a write that nobody waits for any longer; call the result when it is over.
func (d *Disk) Straggle() func() {
	d.backlog.Add(1)
	return func() { d.backlog.Add(-1) }
}

// maxFailures in a row take a disk out of use.
const maxFailures = 3

// Observe takes note of how an operation on the disk went. It reports true when the disk has failed
// often enough to be taken out of use; see Manager.Observe.
func (d *Disk) observe(err error) bool {
	var corrupt *objstore.CorruptError
	switch {
	case err == nil:
		if d.failures.Load() != 0 {
			d.failures.Store(0)
		}
		return false
	case errors.Is(err, objstore.ErrFull):
		d.full.Store(true)
		return false
	case errors.Is(err, objstore.ErrNoFragment), errors.As(err, &corrupt), errors.Is(err, context.Canceled),
		errors.Is(err, context.DeadlineExceeded):
		return false
	}
	return d.failures.Add(1) >= maxFailures
}

// Observe takes note of how an operation on a disk went. Failing a few times in a row takes it out
// of use.
func (m *Manager) Observe(d *Disk, err error) {
	if d.observe(err) && d.Readable() {
		m.Detach(d, Failed, err)
	}
}

// Refresh asks the disk whether it is there and how full it is. An error is why it should be detached.
func (d *Disk) Refresh(ctx context.Context) error {
	dev, done, err := d.Use()
	if err != nil {
		return nil // it is down already
	}
	defer done()
	if err := dev.Probe(ctx); err != nil {
		return err
	}
	return d.measure(ctx, dev)
}

// measure asks how full the disk is.
func (d *Disk) measure(ctx context.Context, dev objstore.Disk) error {
	stat, err := dev.Stat(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.stat = stat
	d.mu.Unlock()
	d.full.Store(stat.Full)
	return nil
}

// measureLimit is how long Measure waits for a disk.
const measureLimit = time.Second

// Measure asks the disks for which want holds how full they are now. What a disk that is down or hangs had
// to say last stays.
func (m *Manager) Measure(ctx context.Context, want func(*Disk) bool) {
	var wg sync.WaitGroup
	for _, d := range m.Disks() {
		if want(d) {
			wg.Go(func() {
				// An error is for those to find out who use the disk.
				_ = d.doWithin(ctx, measureLimit, func(dev objstore.Disk) error { return d.measure(ctx, dev) })
			})
		}
	}
	wg.Wait()
}

// Stat returns the disk's space as last seen by Refresh or Measure.
func (d *Disk) Stat() objstore.DiskStat {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stat
}
