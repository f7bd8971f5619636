package asdbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore/asd"
)

// Compaction says how to measure what compaction costs those who use the ASD meanwhile, and what an iteration in the
// order of the keys gives before and after it. The keys come in random order, so that before, they lie anywhere.
type Compaction struct {
	Bytes   int64         // of payloads, half of which is deleted; zero means 1 GiB
	Size    int           // of each; zero means 64 KiB
	Readers int           // zero means 4
	Writers int           // durable, zero means 2
	For     time.Duration // how long to measure without compaction, and at least with it; zero means 5 s
	Emit    func(Row)
}

func (c *Compaction) defaults() {
	if c.Bytes == 0 {
		c.Bytes = 1 << 30
	}
	if c.Size == 0 {
		c.Size = 64 << 10
	}
	if c.Readers == 0 {
		c.Readers = 4
	}
	if c.Writers == 0 {
		c.Writers = 2
	}
	if c.For == 0 {
		c.For = 5 * time.Second
	}
}

// compacting is one run.
type compacting struct {
	Compaction
	bench
	a     *asd.ASD
	dir   string
	total int64
	live  []int64 // numbers of the records that are there
}

// Run measures in a new folder below dir and removes it afterwards.
func (c Compaction) Run(ctx context.Context, dir string) (err error) {
	c.defaults()
	dir, err = os.MkdirTemp(dir, "asdcompact-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &compacting{Compaction: c, bench: bench{ctx: ctx, Config: Config{Emit: c.Emit}}, dir: filepath.Join(dir, "asd"), total: c.Bytes / int64(c.Size)}
	if _, err := asd.Format(r.dir, asd.ID{1}); err != nil {
		return err
	}
	if r.a, err = asd.Open(ctx, r.dir, asd.Options{Compaction: asd.Compaction{Mode: asd.CompactManual}, SegmentSize: 64 << 20}); err != nil {
		return err
	}
	r.asds = []*asd.ASD{r.a}
	defer func() { err = errors.Join(err, r.a.Close()) }()
	if err := r.prepare(); err != nil {
		return err
	}
	if err := r.iterate("before compaction"); err != nil {
		return err
	}
	idle, err := r.load("alone", nil)
	if err != nil {
		return err
	}
	busy, err := r.load("during compaction", r.a.Compact)
	if err != nil {
		return err
	}
	for i, what := range []string{"gets", "durable puts"} {
		r.emit("times p99 alone", float64(busy[i].P99)/float64(max(idle[i].P99, 1)), "%s during compaction", what)
	}
	if err := r.a.Compact(ctx); err != nil { // what the load has left
		return err
	}
	return errors.Join(r.iterate("after compaction"), r.sequential())
}

func (r *compacting) key(i int64) []byte {
	return binary.BigEndian.AppendUint64([]byte("r"), uint64(i)*0x9E3779B97F4A7C15)
}

// prepare writes all records and deletes every other one.
func (r *compacting) prepare() error {
	p := make([]byte, r.Size)
	rand.NewChaCha8([32]byte{7}).Read(p)
	for i := range r.total {
		var b asd.Batch
		binary.LittleEndian.PutUint64(p, uint64(i))
		b.Put(r.key(i), nil, p)
		if _, err := r.a.Apply(r.ctx, &b, asd.Written); err != nil {
			return err
		}
	}
	gen := rand.New(rand.NewPCG(1, 2))
	for i := range r.total {
		if gen.IntN(2) == 0 {
			r.live = append(r.live, i)
			continue
		}
		var b asd.Batch
		b.Delete(r.key(i))
		if _, err := r.a.Apply(r.ctx, &b, asd.Written); err != nil {
			return err
		}
	}
	if len(r.live) == 0 {
		return errors.New("too few records")
	}
	return r.a.Sync(r.ctx)
}

// load reads and writes for the time, and until fn is done. It returns the latencies of gets and of puts.
func (r *compacting) load(when string, fn func(context.Context) error) (l [2]asd.Latency, err error) {
	if err := r.evict(); err != nil {
		return l, err
	}
	var hist [2]asd.Histogram
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	worker := func(h *asd.Histogram, seed uint64, op func(gen *rand.Rand, buf []byte) error) {
		wg.Go(func() {
			gen := rand.New(rand.NewPCG(seed, 1))
			buf := make([]byte, r.Size)
			for ctx.Err() == nil {
				began := time.Now()
				if err := op(gen, buf); err != nil {
					if ctx.Err() == nil {
						cancel(err)
					}
					return
				}
				h.Add(time.Since(began))
			}
		})
	}
	for w := range r.Readers {
		worker(&hist[0], uint64(w), func(gen *rand.Rand, buf []byte) error {
			i := r.live[gen.IntN(len(r.live))]
			p, err := r.a.Get(ctx, r.key(i), buf)
			if err == nil && binary.LittleEndian.Uint64(p) != uint64(i) {
				err = fmt.Errorf("record %d: wrong content", i)
			}
			return err
		})
	}
	for w := range r.Writers {
		worker(&hist[1], uint64(w), func(gen *rand.Rand, buf []byte) error {
			var b asd.Batch
			b.Put(fmt.Appendf(nil, "w%d/%d", w, gen.IntN(1000)), nil, buf)
			_, err := r.a.Apply(ctx, &b, asd.Durable)
			return err
		})
	}
	began, compacted := time.Now(), r.a.Stat().BytesCompacted
	if fn != nil {
		if err := fn(ctx); err != nil {
			cancel(err)
		}
		secs := time.Since(began).Seconds()
		r.emit("s", secs, "compaction under load")
		r.emit("MB/s copied", float64(r.a.Stat().BytesCompacted-compacted)/1e6/secs, "compaction under load")
	} else {
		select {
		case <-ctx.Done():
		case <-time.After(r.For):
		}
	}
	cause := context.Cause(ctx)
	cancel(nil)
	wg.Wait()
	secs := time.Since(began).Seconds()
	for i, what := range []string{"gets", "durable puts"} {
		l[i] = hist[i].Summary()
		r.emit("/s", float64(l[i].Count)/secs, "%s of %s, %s", what, sizeName(r.Size), when)
		r.emit("ms p50", l[i].P50.Seconds()*1e3, "%s of %s, %s", what, sizeName(r.Size), when)
		r.emit("ms p99", l[i].P99.Seconds()*1e3, "%s of %s, %s", what, sizeName(r.Size), when)
	}
	return l, cause
}

// iterate reads all records in the order of their keys.
func (r *compacting) iterate(when string) error {
	if err := r.evict(); err != nil {
		return err
	}
	var bytes int64
	began := time.Now()
	err := r.a.Iterate(r.ctx, []byte("r"), []byte("s"), func(rec asd.Record) error {
		bytes += int64(len(rec.Payload))
		return rec.Err
	})
	if err != nil {
		return err
	}
	if bytes != int64(len(r.live))*int64(r.Size) {
		return fmt.Errorf("%d bytes in %d records", bytes, len(r.live))
	}
	r.emit("MB/s", float64(bytes)/1e6/time.Since(began).Seconds(), "iteration in the order of keys, %s", when)
	return nil
}

// sequential reads the segment files from one end to the other: what the disk gives.
func (r *compacting) sequential() error {
	list, err := filepath.Glob(filepath.Join(r.dir, "segments", "*"))
	if err != nil {
		return err
	}
	buf := asd.NewBuffer(1 << 20)
	var bytes int64
	began := time.Now()
	for _, name := range list {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		for {
			n, err := f.Read(buf)
			bytes += int64(n)
			if n == 0 || err != nil {
				break
			}
		}
		f.Close()
	}
	r.emit("MB/s", float64(bytes)/1e6/time.Since(began).Seconds(), "the same segments, raw, from end to end")
	return nil
}
