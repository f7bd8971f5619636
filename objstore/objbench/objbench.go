// Package objbench measures the object layer beside what the machine allows: puts and gets of objects of several
// sizes by one and by many clients, the repair of a lost disk, and the erasure codes. Every figure that has a ceiling is
// taken in turns with it, so that their ratio means something on a machine that does other things as well; the
// figures themselves compare only within a run.
package objbench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/erasure"
	"github.com/gabionfs/gabion/objstore/manager"
)

// Row is one figure.
type Row struct {
	Name  string
	Value float64
	Unit  string
}

// Config says what to measure. The zero value measures everything, briefly.
type Config struct {
	Sizes   []int // of objects in bytes; nil means 4 KiB, 64 KiB, 1 MiB, 4 MiB and 64 MiB
	Clients []int // nil means 1 and 16
	// Rounds is how often a figure is taken, in turns with its ceiling; the median counts. 0 means 3.
	Rounds int
	// Time is how long the rounds of a figure take together; 0 means 1 s. Every client does its object at least once
	// in each, however long that takes.
	Time time.Duration
	// Bytes bounds what a round puts, beyond one object for each client; 0 means 256 MiB.
	Bytes int64
	// Progress is told what is measured next; nil is fine.
	Progress func(name string)
}

func (c *Config) defaults() {
	if c.Sizes == nil {
		c.Sizes = []int{4 << 10, 64 << 10, 1 << 20, 4 << 20, 64 << 20}
	}
	if c.Clients == nil {
		c.Clients = []int{1, 16}
	}
	if c.Rounds == 0 {
		c.Rounds = 3
	}
	if c.Time == 0 {
		c.Time = time.Second
	}
	if c.Bytes == 0 {
		c.Bytes = 256 << 20
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
}

// Pair is a figure beside what was the most that could be: medians, in MB/s of the user's data.
type Pair struct {
	Value   float64 `json:"value"`
	Ceiling float64 `json:"ceiling"`
	Percent float64 `json:"percent"` // the median of the rounds' ratios
}

// Cell is what objects of one size, by one policy and so many clients at a time, came to.
type Cell struct {
	Policy  string `json:"policy"` // (k,m)
	Size    int    `json:"size"`
	Clients int    `json:"clients"`
	// Put is beside parallel appends of the same fragments to as many files on the same disk, each durable as a put
	// is; see Ceiling.
	Put Pair `json:"put"`
	// Get, of objects that are in the page cache, is beside as many TCP connections over loopback that carry the same
	// bytes.
	Get Pair `json:"get"`
}

// Compare measures puts and gets in ns, whose objects are written by p, and the ceilings in dir, on the same disk.
// It calls emit with every cell. The data does not compress; every object that is read is compared at its ends and in
// its middle. What it has put it deletes.
func Compare(ctx context.Context, ns objstore.Namespace, p objstore.Policy, dir string, c Config, emit func(Cell) error) error {
	c.defaults()
	raw, err := newCeiling(dir, p.K, p.M)
	if err != nil {
		return err
	}
	defer raw.close()
	for _, size := range c.Sizes {
		for _, clients := range c.Clients {
			s := &session{ns: ns, c: &c, raw: raw, policy: p, size: size, clients: clients, data: noise(size + windows),
				prefix: fmt.Sprintf("bench/%d/%d/%d/", time.Now().UnixNano(), size, clients)}
			c.Progress(fmt.Sprintf("(%d,%d) %s by %d", p.K, p.M, SizeName(size), clients))
			cell, err := s.run(ctx)
			if err = errors.Join(err, s.cleanUp()); err != nil {
				return fmt.Errorf("bench %s by %d: %w", SizeName(size), clients, err)
			}
			if err := emit(cell); err != nil {
				return err
			}
		}
	}
	return nil
}

// SizeName writes a number of bytes as 4K or 64M.
func SizeName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dK", n>>10)
	}
	return fmt.Sprint(n)
}

// session is one cell.
type session struct {
	ns      objstore.Namespace
	c       *Config
	raw     *ceiling
	policy  objstore.Policy
	size    int
	clients int
	data    []byte // objects are windows of it, at an offset that follows from their number
	prefix  string
}

func (s *session) run(ctx context.Context) (Cell, error) {
	cell := Cell{Policy: fmt.Sprintf("(%d,%d)", s.policy.K, s.policy.M), Size: s.size, Clients: s.clients}
	wire, err := newLoopback(s.clients, s.data[:s.size])
	if err != nil {
		return cell, err
	}
	defer wire.close()
	most := max(int64(s.clients), min(s.c.Bytes/int64(s.size), maxObjects))
	chunks := shapeOf(s.size, s.policy)
	var puts, gets [][2]float64
	for round := range s.c.Rounds {
		if err := s.raw.reset(most * int64(chunks.count) * int64(chunks.fragment)); err != nil {
			return cell, err
		}
		first := int64(round) * most
		ceiling, _, err := s.slice(ctx, most, func(int, int64) error { return s.raw.put(chunks) })
		if err != nil {
			return cell, err
		}
		put, n, err := s.slice(ctx, most, func(_ int, i int64) error {
			_, err := s.ns.Put(ctx, s.name(first+i), s.object(first+i))
			return err
		})
		if err != nil {
			return cell, err
		}
		puts = append(puts, [2]float64{put, ceiling})
		pair, err := s.reads(ctx, wire, first, n)
		if err != nil {
			return cell, err
		}
		gets = append(gets, pair)
	}
	cell.Put, cell.Get = pair(puts), pair(gets)
	return cell, nil
}

// maxObjects bounds how many objects a round puts.
const maxObjects = 16384

// reads measures gets of n objects from the first on, and the loopback.
func (s *session) reads(ctx context.Context, wire *loopback, first, n int64) (pair [2]float64, err error) {
	bufs := make([][]byte, s.clients)
	for i := range bufs {
		bufs[i] = make([]byte, s.size)
	}
	get := func(client int, i int64) error {
		i = first + i%n
		p, want := bufs[client], s.object(i)
		if err := s.ns.ReadAt(ctx, s.name(i), 0, p); err != nil {
			return err
		}
		// Comparing all would measure the comparison; the ends and the middle find what was mixed up.
		for _, at := range []int{0, s.size / 2, s.size - 1} {
			if p[at] != want[at] {
				return fmt.Errorf("object %s: wrong byte at %d", s.name(i), at)
			}
		}
		return nil
	}
	if err := s.each(ctx, n, get); err != nil { // from the disk into the page cache
		return pair, err
	}
	if pair[1], _, err = s.slice(ctx, 1<<40, func(client int, _ int64) error { return wire.copy(client, bufs[client]) }); err != nil {
		return pair, err
	}
	pair[0], _, err = s.slice(ctx, 1<<40, get)
	return pair, err
}

// pair makes medians of what was measured in rounds: the figure and its ceiling.
func pair(rounds [][2]float64) Pair {
	column := func(fn func([2]float64) float64) float64 {
		var v []float64
		for _, r := range rounds {
			v = append(v, fn(r))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return Pair{
		Value:   column(func(r [2]float64) float64 { return r[0] }),
		Ceiling: column(func(r [2]float64) float64 { return r[1] }),
		Percent: column(func(r [2]float64) float64 { return 100 * r[0] / r[1] }),
	}
}

// windows is how many different objects a session has.
const windows = 4096

func (s *session) object(i int64) []byte { return s.data[i%windows:][:s.size] }
func (s *session) name(i int64) string   { return fmt.Sprintf("%s%d", s.prefix, i) }

// shape is how the fragments of an object are appended: so many chunks, each of fragments of so many bytes.
type shape struct{ count, fragment int }

// shapeOf returns what put writes of objects of size bytes that do not compress.
func shapeOf(size int, p objstore.Policy) shape {
	count, length := erasure.Chunks(int64(size), p.K, manager.DefaultFragmentSize, objstore.FrameSize)
	return shape{int(count), erasure.FragmentLen(int(length), p.K)}
}

func (s *session) cleanUp() error {
	ctx := context.Background()
	var names []string
	// More may have been put than were counted when a put failed.
	err := s.ns.List(ctx, s.prefix, s.prefix+"\xff", func(i objstore.Info) bool {
		names = append(names, i.Name)
		return true
	})
	return errors.Join(err, s.ns.Delete(ctx, names...))
}

// slice calls fn with 0, 1, 2 ... from all clients, for a round's time, but each client at least once and all together
// at most most times. It returns the user's data in MB/s, and how many calls there were.
func (s *session) slice(ctx context.Context, most int64, fn func(client int, i int64) error) (rate float64, n int64, err error) {
	begin := time.Now()
	last := begin.Add(s.c.Time / time.Duration(s.c.Rounds))
	var next, done atomic.Int64
	err = s.parallel(func(client int) error {
		for first := true; first || time.Now().Before(last); first = false {
			i := next.Add(1) - 1
			if i >= most {
				return nil
			}
			if err := errors.Join(ctx.Err(), fn(client, i)); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
	return float64(done.Load()) * float64(s.size) / time.Since(begin).Seconds() / 1e6, done.Load(), err
}

// each calls fn with 0 to n-1.
func (s *session) each(ctx context.Context, n int64, fn func(client int, i int64) error) error {
	var next atomic.Int64
	return s.parallel(func(client int) error {
		for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
			if err := errors.Join(ctx.Err(), fn(client, i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// parallel calls fn once for every client, at the same time.
func (s *session) parallel(fn func(client int) error) error {
	errs := make([]error, s.clients)
	var wg sync.WaitGroup
	for i := range s.clients {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}
