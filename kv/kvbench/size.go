package kvbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// SizeConfig of AtSize.
type SizeConfig struct {
	// Dir holds the store. What an earlier run left there is used again when it is complete.
	Dir string
	// Keys in the store; 10 million when 0.
	Keys int
	// ValueBytes of each value; 100 when 0. A key has 16 bytes.
	ValueBytes int
	// Duration of each phase under load; 20 s when 0.
	Duration time.Duration
	// Load is how many keys a second are overwritten beside the probes; 20000 when 0.
	Load int
	// Join starts another member in an empty directory, in a process of its own, which calls JoinMember
	// and runs until ctx ends. It returns the member's address, and a function that says which log entry
	// the member has applied. No member joins when it is nil.
	Join func(ctx context.Context) (addr string, applied func() uint64, err error)
	// Stalled is called while an operation takes longer than 200 ms; may be nil.
	Stalled func(what string)
	// Progress is told what is being done; may be nil.
	Progress func(format string, args ...any)
	Logger   *slog.Logger
}

func (c *SizeConfig) setDefaults() {
	if c.Keys == 0 {
		c.Keys = 10_000_000
	}
	if c.ValueBytes == 0 {
		c.ValueBytes = 100
	}
	if c.Duration == 0 {
		c.Duration = 20 * time.Second
	}
	if c.Load == 0 {
		c.Load = 20_000
	}
	if c.Stalled == nil {
		c.Stalled = func(string) {}
	}
	if c.Progress == nil {
		c.Progress = func(string, ...any) {}
	}
}

// AtSize fills a member with many keys and measures how it starts, how much memory it
// takes, and how long the slowest of steadily probing clients waits: while keys are overwritten all
// over, so that the flusher runs, and while a new member is sent a snapshot at the same time.
func AtSize(ctx context.Context, c SizeConfig) (rows []Row, err error) {
	c.setDefaults()
	b := &sizeBench{SizeConfig: c}
	for _, step := range []func(context.Context) error{b.fill, b.start, b.quiet, b.underLoad, b.join} {
		if err = step(ctx); err != nil {
			break
		}
	}
	if b.store != nil {
		err = errors.Join(err, b.sampleMemory("close", b.store.Close))
	}
	return b.rows, err
}

type sizeBench struct {
	SizeConfig
	store *raftkv.Store
	rows  []Row
}

func (b *sizeBench) row(name string, value float64, unit string) {
	b.rows = append(b.rows, Row{name, value, unit})
}

// memberOptions of a member that others can reach at addr.
func memberOptions(dir, id, addr string, log *slog.Logger) (raftkv.Options, string, error) {
	t, err := raft.NewTCPTransport(addr, nil, 3, 10*time.Second, nil)
	if err != nil {
		return raftkv.Options{}, "", err
	}
	return raftkv.Options{Dir: dir, ID: id, Transport: t, Logger: log}, string(t.LocalAddr()), nil
}

// JoinMember runs a member that waits to be added to the group of AtSize. It tells its address once, and
// then again and again which log entry it has applied.
func JoinMember(ctx context.Context, dir string, ready func(addr string), progress func(applied uint64)) error {
	o, addr, err := memberOptions(dir, "joiner", "127.0.0.1:0", nil)
	if err != nil {
		return err
	}
	o.Join = true
	s, err := raftkv.Open(ctx, o)
	if err != nil {
		return err
	}
	ready(addr)
	for {
		select {
		case <-ctx.Done():
			return s.Close()
		case <-time.After(50 * time.Millisecond):
			progress(s.AppliedIndex())
		}
	}
}

func (b *sizeBench) open(ctx context.Context) error {
	o, _, err := memberOptions(filepath.Join(b.Dir, "leader"), "leader", "127.0.0.1:0", b.Logger)
	if err != nil {
		return err
	}
	if b.store, err = raftkv.Open(ctx, o); err != nil {
		b.store = nil
		return err
	}
	return b.store.WaitReady(ctx)
}

// key returns the keys in their order: filling in another one rewrites most of the state file with each
// flush, which takes hours on a slow disk. The load and the probes choose among them at random.
func (b *sizeBench) key(i int) []byte {
	k := binary.BigEndian.AppendUint64(nil, uint64(i)*(math.MaxUint64/uint64(b.Keys)))
	return binary.BigEndian.AppendUint64(k, uint64(i))
}

// value is not compressible and says which key it belongs to.
func (b *sizeBench) value(i int) []byte {
	v := make([]byte, b.ValueBytes)
	r := rand.NewPCG(uint64(i), 1)
	for at := 0; at < len(v); at += 8 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], r.Uint64())
		copy(v[at:], w[:])
	}
	return v
}

var filledKey = []byte("filled")

// fill writes the keys. It notes with them how far it is, and goes on from there.
func (b *sizeBench) fill(ctx context.Context) error {
	if err := b.open(ctx); err != nil {
		return err
	}
	next, err := b.filled(ctx)
	if err != nil {
		return err
	}
	if next < b.Keys {
		began, from := time.Now(), next
		l := new(Latencies)
		if err := b.sampleMemory("fill", func() error { return b.fillKeys(ctx, next, l) }); err != nil {
			return err
		}
		b.row("fill", float64(b.Keys-from)/time.Since(began).Seconds(), "keys/s")
		b.latencies("fill: ordered update of 500 keys", l)
	}
	err = b.store.Close()
	b.store = nil
	return err
}

// filled returns how many keys an earlier run has written.
func (b *sizeBench) filled(ctx context.Context) (n int, err error) {
	err = b.store.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		v, err := r.Get("meta", filledKey)
		if errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		if err == nil {
			n, err = strconv.Atoi(string(v))
		}
		return err
	})
	return n, err
}

func (b *sizeBench) fillKeys(ctx context.Context, from int, l *Latencies) error {
	const perTxn = 500
	next := 0
	for i := from; i < b.Keys; i += perTxn {
		if i >= next {
			b.Progress("filling: %d of %d keys", i, b.Keys)
			next = i + max(perTxn, b.Keys/20)
		}
		began := time.Now()
		if err := b.store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
			end := min(i+perTxn, b.Keys)
			for j := i; j < end; j++ {
				tx.Put(keyspace, b.key(j), b.value(j))
			}
			tx.Put("meta", filledKey, strconv.AppendInt(nil, int64(end), 10))
			return nil
		}); err != nil {
			return err
		}
		l.Add(time.Since(began))
	}
	return b.store.Sync(ctx)
}

// start measures the time until the member answers a linearizable read.
func (b *sizeBench) start(ctx context.Context) error {
	b.Progress("starting")
	runtime.GC()
	began := time.Now()
	err := b.sampleMemory("start", func() error {
		if err := b.open(ctx); err != nil {
			return err
		}
		return b.get(ctx, 1)
	})
	b.row("start", time.Since(began).Seconds(), "s")
	st := b.store.Stats()
	b.row("state file", float64(st.StateBytes)/1e6, "MB")
	b.row("log", float64(st.LogBytes)/1e6, "MB")
	return err
}

func (b *sizeBench) get(ctx context.Context, i int) error {
	return b.store.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		v, err := r.Get(keyspace, b.key(i))
		if err == nil && len(v) != b.ValueBytes {
			err = fmt.Errorf("kvbench: a value of %d bytes, want %d", len(v), b.ValueBytes)
		}
		return err
	})
}

func (b *sizeBench) put(ctx context.Context, c kv.Commit, i int) error {
	return b.store.Update(ctx, c, func(tx kv.Txn) error {
		tx.Put(keyspace, b.key(i), b.value(i))
		return nil
	})
}

// probeKind is what one probing client does.
type probeKind struct {
	name string
	op   func(context.Context, int) error
	l    *Latencies
}

// probeDisk writes 4 KiB in place and syncs them, again and again: what the disk and the machine let
// anybody do at that time.
func (b *sizeBench) probeDisk(l *Latencies, over *atomic.Bool) error {
	f, err := os.Create(filepath.Join(b.Dir, "probe"))
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 4096)
	for again := true; again; again = !over.Load() {
		began := time.Now()
		if _, err := f.WriteAt(block, 0); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
		l.Add(time.Since(began))
		time.Sleep(time.Millisecond)
	}
	return nil
}

// probe runs while load does: clients that read and write one key after the other, with a short pause,
// and note how long each takes.
func (b *sizeBench) probe(ctx context.Context, phase string, load bool, during func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var w sync.WaitGroup
	var over atomic.Bool
	kinds := []probeKind{
		{"durable update", func(ctx context.Context, i int) error { return b.put(ctx, kv.Durable, i) }, new(Latencies)},
		{"ordered update", func(ctx context.Context, i int) error { return b.put(ctx, kv.Ordered, i) }, new(Latencies)},
		{"linearizable read", b.get, new(Latencies)},
	}
	errs := make([]error, len(kinds)+2)
	disk, machine := new(Latencies), new(Latencies)
	w.Go(func() { errs[len(kinds)+1] = b.probeDisk(disk, &over) })
	w.Go(func() { b.probeMachine(machine, &over) })
	for n, k := range kinds {
		w.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 7))
			for again := true; again; again = !over.Load() {
				began := time.Now()
				late := time.AfterFunc(stall, func() { b.Stalled(phase + ": " + k.name) })
				if err := k.op(ctx, r.IntN(b.Keys)); err != nil {
					errs[n] = fmt.Errorf("kvbench: %s: %s: %w", phase, k.name, err)
					return
				}
				late.Stop()
				k.l.Add(time.Since(began))
				time.Sleep(time.Millisecond)
			}
		})
	}
	if load {
		w.Go(func() { errs[len(kinds)] = b.overwrite(ctx, phase, &over) })
	}
	flushes := b.store.Stats().Flushes
	err := b.sampleMemory(phase, func() error { return during(ctx) })
	over.Store(true)
	w.Wait()
	if err = errors.Join(append(errs, err)...); err != nil {
		return err
	}
	b.row(phase+": flushes", float64(b.store.Stats().Flushes-flushes), "")
	kinds = append(kinds, probeKind{"bare sync of the disk", nil, disk}, probeKind{"bare wait for a processor", nil, machine})
	for _, k := range kinds {
		b.latencies(phase+": "+k.name, k.l)
	}
	return nil
}

func (b *sizeBench) latencies(name string, l *Latencies) {
	for _, q := range []struct {
		name  string
		share float64
	}{{"p50", .5}, {"p99", .99}, {"p99.9", .999}, {"max", 1}} {
		b.row(name+" "+q.name, l.Quantile(q.share).Seconds()*1e3, "ms")
	}
}

// probeMachine sleeps for a millisecond again and again and counts how much too long: as long as that, anything may wait for a
// processor.
func (b *sizeBench) probeMachine(l *Latencies, over *atomic.Bool) {
	for again := true; again; again = !over.Load() {
		began := time.Now()
		time.Sleep(time.Millisecond)
		l.Add(time.Since(began) - time.Millisecond)
	}
}

// overwrite is the load: ordered updates of ten keys each, at the configured rate if the store allows it.
func (b *sizeBench) overwrite(ctx context.Context, phase string, over *atomic.Bool) error {
	const perTxn = 10
	r := rand.New(rand.NewPCG(99, 7))
	began := time.Now()
	n := 0
	for again := true; again; again = !over.Load() {
		due := time.Duration(float64(n*perTxn) / float64(b.Load) * float64(time.Second))
		if ahead := due - time.Since(began); ahead > 0 {
			time.Sleep(ahead)
		}
		if err := b.store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
			for range perTxn {
				i := r.IntN(b.Keys)
				tx.Put(keyspace, b.key(i), b.value(i))
			}
			return nil
		}); err != nil {
			return err
		}
		n++
	}
	b.row(phase+": load reached", float64(n*perTxn)/time.Since(began).Seconds(), "keys/s")
	return nil
}

// quiet is what the others are to be compared with.
func (b *sizeBench) quiet(ctx context.Context) error {
	b.Progress("without load")
	return b.probe(ctx, "quiet", false, b.wait)
}

func (b *sizeBench) underLoad(ctx context.Context) error {
	b.Progress("under load")
	return b.probe(ctx, "flush", true, b.wait)
}

func (b *sizeBench) wait(ctx context.Context) error {
	select {
	case <-time.After(b.Duration):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join adds a new member and waits until it has everything.
func (b *sizeBench) join(ctx context.Context) error {
	if b.Join == nil {
		return nil
	}
	b.Progress("a new member")
	addr, applied, err := b.Join(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	return b.probe(ctx, "snapshot", true, func(ctx context.Context) error {
		if err := b.store.AddLearner(ctx, "joiner", addr); err != nil {
			return err
		}
		// A voter commits what it has: it is added when it has nearly everything.
		for goal := b.store.AppliedIndex(); applied() < goal; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
		b.row("snapshot: until the member had caught up", time.Since(began).Seconds(), "s")
		if err := b.store.AddVoter(ctx, "joiner", addr); err != nil {
			return err
		}
		return b.store.RemoveMember(ctx, "joiner")
	})
}

// stall is how long an operation may take.
const stall = 200 * time.Millisecond

// sampleMemory runs fn and notes the most memory that the process had meanwhile.
func (b *sizeBench) sampleMemory(phase string, fn func() error) error {
	stop := make(chan struct{})
	var w sync.WaitGroup
	var most, anon int64
	w.Go(func() {
		for {
			r, a := residentMemory()
			most, anon = max(most, r), max(anon, a)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	err := fn()
	close(stop)
	w.Wait()
	b.row(phase+": memory", float64(most)/(1<<20), "MiB")
	b.row(phase+": memory without mapped files", float64(anon)/(1<<20), "MiB")
	return err
}

// residentMemory returns what the process has in memory, and the part that is not of files; 0 where
// the system does not say.
func residentMemory() (all, anon int64) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		if name != "VmRSS" && name != "RssAnon" {
			continue
		}
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if name == "VmRSS" {
			all = n << 10
		} else {
			anon = n << 10
		}
	}
	return all, anon
}
