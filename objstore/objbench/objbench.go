// Package objbench measures the object layer: puts and gets of objects of several sizes by one and by
// many clients, and the erasure codes. Figures of one run are comparable with each other; figures of
// different days are not.
package objbench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/erasure"
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
	// Bytes is how much each row moves at most; 0 means 256 MiB.
	Bytes int64
	// Time is how long a row takes at most; 0 means 2 s.
	Time time.Duration
	// Cold is called between puts and gets, to drop caches; nil measures warm gets.
	Cold func() error
	// Progress is told the name of each row before it is measured; nil is fine.
	Progress func(name string)
}

func (c *Config) defaults() {
	if c.Sizes == nil {
		c.Sizes = []int{4 << 10, 64 << 10, 1 << 20, 4 << 20, 64 << 20}
	}
	if c.Clients == nil {
		c.Clients = []int{1, 16}
	}
	if c.Bytes == 0 {
		c.Bytes = 256 << 20
	}
	if c.Time == 0 {
		c.Time = 2 * time.Second
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
}

// Run measures puts and gets in ns. The data does not compress. Every byte that is read is compared.
// What it has put it deletes.
func Run(ctx context.Context, ns objstore.Namespace, c Config) ([]Row, error) {
	c.defaults()
	var rows []Row
	for _, size := range c.Sizes {
		for _, clients := range c.Clients {
			r, err := runSize(ctx, ns, &c, size, clients)
			rows = append(rows, r...)
			if err != nil {
				return rows, fmt.Errorf("bench %s by %d: %w", sizeName(size), clients, err)
			}
		}
	}
	return rows, nil
}

func sizeName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dK", n>>10)
	}
	return fmt.Sprint(n)
}

// session is one size by so many clients.
type session struct {
	ns      objstore.Namespace
	c       *Config
	size    int
	clients int
	data    []byte // objects are windows of it, at an offset that follows from their number
	prefix  string
	count   int64 // objects that were put
}

func runSize(ctx context.Context, ns objstore.Namespace, c *Config, size, clients int) (rows []Row, err error) {
	s := &session{ns: ns, c: c, size: size, clients: clients, data: noise(size + windows),
		prefix: fmt.Sprintf("bench/%d/%d/%d/", time.Now().UnixNano(), size, clients)}
	defer func() { err = errors.Join(err, s.cleanUp()) }()
	label := fmt.Sprintf("%s by %d", sizeName(size), clients)
	c.Progress("put " + label)
	put, err := s.measure(ctx, max(1, c.Bytes/int64(size)), func(i int64, _ []byte) error {
		_, err := ns.Put(ctx, s.name(i), s.object(i))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.count = put.count
	if c.Cold != nil {
		if err := c.Cold(); err != nil {
			return nil, err
		}
	}
	c.Progress("get " + label)
	get, err := s.measure(ctx, s.count, func(i int64, p []byte) error {
		if err := ns.ReadAt(ctx, s.name(i), 0, p); err != nil {
			return err
		}
		want := s.object(i)
		// Comparing all would measure the comparison; the ends and the middle find what was mixed up.
		for _, at := range []int{0, s.size / 2, s.size - 1} {
			if p[at] != want[at] {
				return fmt.Errorf("object %s: wrong byte at %d", s.name(i), at)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return append(put.rows("put "+label, size), get.rows("get "+label, size)...), nil
}

// windows is how many different objects a session has.
const windows = 4096

func (s *session) object(i int64) []byte { return s.data[i%windows:][:s.size] }
func (s *session) name(i int64) string   { return fmt.Sprintf("%s%d", s.prefix, i) }

func (s *session) cleanUp() error {
	var names []string
	// More may have been put than were counted when a put failed.
	err := s.ns.List(context.Background(), s.prefix, s.prefix+"\xff", func(i objstore.Info) bool {
		names = append(names, i.Name)
		return true
	})
	return errors.Join(err, s.ns.Delete(context.Background(), names...))
}

// result is what one row measured.
type result struct {
	count int64
	took  time.Duration
}

func (r result) rows(name string, size int) []Row {
	sec := r.took.Seconds()
	return []Row{
		{name, float64(r.count) * float64(size) / sec / 1e6, "MB/s"},
		{name, float64(r.count) / sec, "/s"},
	}
}

// measure calls fn with 0, 1, 2 ... from all clients, at most n times and for no longer than the time.
func (s *session) measure(ctx context.Context, n int64, fn func(i int64, p []byte) error) (result, error) {
	var next, done atomic.Int64
	var failed atomic.Pointer[error]
	begin := time.Now()
	var wg sync.WaitGroup
	for range s.clients {
		wg.Go(func() {
			p := make([]byte, s.size)
			for ctx.Err() == nil && failed.Load() == nil && time.Since(begin) < s.c.Time {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				if err := fn(i, p); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	r := result{done.Load(), time.Since(begin)}
	if err := failed.Load(); err != nil {
		return r, *err
	}
	return r, ctx.Err()
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

// Erasure measures the codes on one core, with fragments of 1 MiB.
func Erasure(ctx context.Context) ([]Row, error) {
	const fragment = 1 << 20
	var rows []Row
	for _, km := range [][2]int{{2, 1}, {4, 2}, {8, 2}, {8, 3}} {
		if err := ctx.Err(); err != nil {
			return rows, err
		}
		code, err := erasure.New(km[0], km[1])
		if err != nil {
			return rows, err
		}
		size := km[0] * fragment
		buf := make([]byte, code.BufferLen(size))
		copy(buf, noise(size))
		shards := code.Split(buf, size)
		encode, err := rate(size, func() error { return code.Encode(shards) })
		if err != nil {
			return rows, err
		}
		wanted := make([]bool, len(shards))
		reconstruct, err := rate(size, func() error {
			for i := range km[1] {
				wanted[i], shards[i] = true, shards[i][:0]
			}
			return code.Reconstruct(shards, wanted)
		})
		if err != nil {
			return rows, err
		}
		rows = append(rows, Row{fmt.Sprintf("encode (%d,%d)", km[0], km[1]), encode, "GB/s"},
			Row{fmt.Sprintf("reconstruct (%d,%d), %d lost", km[0], km[1], km[1]), reconstruct, "GB/s"})
	}
	return rows, nil
}

// rate repeats fn for a moment and returns gigabytes per second.
func rate(bytes int, fn func() error) (float64, error) {
	if err := fn(); err != nil {
		return 0, err
	}
	begin, n := time.Now(), 0
	for time.Since(begin) < 200*time.Millisecond {
		if err := fn(); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) * float64(bytes) / time.Since(begin).Seconds() / 1e9, nil
}
