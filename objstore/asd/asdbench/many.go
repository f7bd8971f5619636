package asdbench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// Many says how to measure one ASD with many records. Every phase runs in a process of its own, so that its memory
// can be told, and the page cache is emptied of the ASD's files before each.
type Many struct {
	Records int64 // zero means 1,000,000
	Payload int   // bytes of each; zero means 512
	// Child makes the command that runs RunChild with these arguments and its output on standard output.
	Child func(args ...string) *exec.Cmd
	Emit  func(Row)
}

// The phases, which are the first argument of a child.
const (
	phaseFill   = "fill"   // writes all records and closes
	phaseRead   = "read"   // opens, looks up and iterates, and closes
	phaseChurn  = "churn"  // overwrites until it is killed
	phaseReopen = "reopen" // opens after that, and compares
)

// manyBatch is how many records the writers put at a time.
const (
	manyBatch   = 256
	manyWriters = 8
	manyLookups = 200_000
	churnAcks   = 6400 // batches of churn before it is killed; more than the index takes between two flushes
)

// Run measures in a new folder below dir and removes it afterwards.
func (m Many) Run(ctx context.Context, dir string) (err error) {
	if m.Records == 0 {
		m.Records = 1_000_000
	}
	if m.Payload == 0 {
		m.Payload = 512
	}
	dir, err = os.MkdirTemp(dir, "asdmany-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := filepath.Join(dir, "asd")
	if _, err := asd.Format(d, asd.ID{1}); err != nil {
		return err
	}
	for _, phase := range []string{phaseFill, phaseRead, phaseChurn, phaseReopen} {
		if err := evictDir(d); err != nil {
			return err
		}
		if err := m.phase(ctx, phase, d); err != nil {
			return fmt.Errorf("%s: %w", phase, err)
		}
	}
	return nil
}

// phase runs one child and passes its rows on. The one that churns is killed when it has done enough.
func (m Many) phase(ctx context.Context, phase, dir string) error {
	c := m.Child(phase, dir, fmt.Sprint(m.Records), fmt.Sprint(m.Payload))
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.Process.Kill() })
	defer stop()
	killed := false
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		var r Row
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			continue
		}
		if phase == phaseChurn && !killed && r.Name == rowAcks && r.Value >= min(churnAcks, float64(m.Records/manyBatch/2)) {
			killed = true
			if err := c.Process.Kill(); err != nil {
				return err
			}
		}
		if m.Emit != nil && r.Name != rowAcks {
			m.Emit(r)
		}
	}
	if err = c.Wait(); killed || ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// rowAcks is how churn says what it has done; it is not a figure.
const rowAcks = "acks"

// child is one phase in its process.
type child struct {
	ctx     context.Context
	a       *asd.ASD
	out     *json.Encoder
	records int64
	payload int
}

// RunChild carries out one phase: the arguments are the phase, the folder, the number of records and the
// bytes of each.
func RunChild(ctx context.Context, out io.Writer, args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("want a phase, a folder, a number of records and of bytes, got %q", args)
	}
	c := &child{ctx: ctx, out: json.NewEncoder(out)}
	if _, err := fmt.Sscan(args[2]+" "+args[3], &c.records, &c.payload); err != nil {
		return err
	}
	began := time.Now()
	a, err := asd.Open(ctx, args[1], asd.Options{})
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	c.a = a
	switch args[0] {
	case phaseFill:
		err = c.fill()
	case phaseRead:
		c.emit("s", took, "open after a clean stop, cold")
		c.memory("after the open")
		err = c.read()
	case phaseChurn:
		return c.churn() // ends by being killed
	case phaseReopen:
		c.emit("s", took, "open after kill -9, cold")
		c.memory("after the open after kill -9")
		err = c.check()
	default:
		err = fmt.Errorf("no phase %q", args[0])
	}
	began = time.Now()
	err = errors.Join(err, a.Close())
	if args[0] == phaseFill {
		c.emit("s", time.Since(began).Seconds(), "close")
	}
	return err
}

func (c *child) emit(unit string, value float64, format string, args ...any) {
	c.out.Encode(Row{Name: fmt.Sprintf(format, args...), Value: value, Unit: unit})
}

// key returns the key of a record as the object layer would make it. Records that follow each other by
// number lie anywhere in the order of the keys: the hard case for an index. Numbers from records on are absent.
func (c *child) key(b []byte, i int64) []byte {
	object := uint64(i) * 0x9E3779B97F4A7C15 // odd, so that no two are the same
	return objstore.FragmentKey{Namespace: 7, Object: object, Fragment: uint8(object % 12)}.Append(b[:0])
}

// content fills p with what record i has in a generation.
func content(p []byte, i int64, generation uint64) {
	binary.LittleEndian.PutUint64(p, uint64(i))
	binary.LittleEndian.PutUint64(p[8:], generation)
	x := uint64(i)*0x9E3779B97F4A7C15 ^ generation
	for at := 16; at+8 <= len(p); at += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[at:], x)
	}
}

// write puts batches from..to of a generation.
func (c *child) write(from, to int64, generation uint64, number func(int64) int64, done func() error) (secs float64, err error) {
	b := bench{ctx: c.ctx}
	bufs := make([][]byte, manyWriters)
	keys := make([][]byte, manyWriters)
	batches := make([]asd.Batch, manyWriters)
	for w := range bufs {
		bufs[w] = make([]byte, manyBatch*c.payload)
		keys[w] = make([]byte, manyBatch*objstore.FragmentKeyLen)
	}
	secs, _, err = b.each(manyWriters, (to-from+manyBatch-1)/manyBatch, func(w int, n int64) error {
		batches[w].Reset()
		first := from + n*manyBatch
		for i := first; i < min(first+manyBatch, to); i++ {
			at := int(i - first)
			p := bufs[w][at*c.payload:][:c.payload]
			k := keys[w][at*objstore.FragmentKeyLen:][:0:objstore.FragmentKeyLen]
			r := number(i)
			content(p, r, generation)
			batches[w].Put(c.key(k, r), nil, p)
		}
		if _, err := c.a.Apply(c.ctx, &batches[w], asd.Durable); err != nil {
			return err
		}
		return done()
	})
	return secs, err
}

func same(i int64) int64 { return i }

func (c *child) fill() error {
	secs, err := c.write(0, c.records, 0, same, func() error { return nil })
	if err != nil {
		return err
	}
	c.emit("/s", float64(c.records)/secs, "durable puts of %d records, %d at a time by %d", c.records, manyBatch, manyWriters)
	c.memory("of the writer")
	st := c.a.Stat()
	if st.Records != c.records {
		return fmt.Errorf("%d records, want %d", st.Records, c.records)
	}
	c.emit("B", float64(st.IndexBytes)/float64(c.records), "index on disk, for each record")
	return nil
}

func (c *child) read() error {
	r := rand.New(rand.NewPCG(1, 2))
	present := func() int64 { return r.Int64N(c.records) }
	absent := func() int64 { return c.records + r.Int64N(c.records) }
	for _, l := range []struct {
		name string
		next func() int64
		want bool
	}{
		{"lookup of absent keys, cold", absent, false},
		{"lookup of absent keys, warm", absent, false},
		{"lookup of present keys, cold", present, true},
		{"lookup of present keys, warm", present, true},
	} {
		if err := c.lookups(l.name, l.next, l.want); err != nil {
			return err
		}
	}
	c.memory("after the lookups")
	return c.iterate()
}

// lookups measures how many keys are looked up in a second, and what they read.
func (c *child) lookups(name string, next func() int64, want bool) error {
	before, device := c.a.Stat(), deviceReads()
	key := make([]byte, 0, objstore.FragmentKeyLen)
	n := min(manyLookups, c.records)
	began := time.Now()
	for range n {
		ok, err := c.a.Exists(c.ctx, c.key(key, next()))
		if err != nil {
			return err
		}
		if ok[0] != want {
			return fmt.Errorf("a lookup found %v, want %v", ok[0], want)
		}
	}
	secs := time.Since(began).Seconds()
	after := c.a.Stat()
	c.emit("/s", float64(n)/secs, "%s", name)
	c.emit("reads each", float64(after.IndexReads-before.IndexReads)/float64(n), "%s", name)
	c.emit("B each from the disk", float64(deviceReads()-device)/float64(n), "%s", name)
	return nil
}

// iterate lists all keys in order.
func (c *child) iterate() error {
	var from []byte
	var n int64
	began := time.Now()
	for {
		list, more, err := c.a.Range(c.ctx, from, nil, asd.RangeOptions{Limit: 10_000})
		if err != nil {
			return err
		}
		n += int64(len(list))
		if !more {
			break
		}
		from = append(list[len(list)-1].Key, 0)
	}
	if n != c.records {
		return fmt.Errorf("%d records were listed, want %d", n, c.records)
	}
	c.emit("/s", float64(n)/time.Since(began).Seconds(), "keys listed in order")
	c.memory("after the listing")
	return nil
}

// churn overwrites records at random, and says how many batches are durable, until it is killed.
func (c *child) churn() error {
	acks := make(chan struct{}, manyWriters)
	defer close(acks)
	go func() {
		n := 0
		for range acks {
			if n++; n%16 == 0 {
				c.emit("", float64(n), rowAcks)
			}
		}
	}()
	spread := func(i int64) int64 { return int64(uint64(i) * 0xD6E8FEB86659FD93 % uint64(c.records)) }
	for round := int64(0); ; round++ {
		if _, err := c.write(round*c.records, (round+1)*c.records, 1, spread, func() error {
			acks <- struct{}{}
			return nil
		}); err != nil {
			return err
		}
	}
}

// check reads records at random, which must be of one of the generations.
func (c *child) check() error {
	if st := c.a.Stat(); st.Records != c.records {
		return fmt.Errorf("%d records, want %d", st.Records, c.records)
	}
	r := rand.New(rand.NewPCG(3, 4))
	want := make([]byte, c.payload)
	var buf, key []byte
	n := min(20_000, c.records)
	began := time.Now()
	for range n {
		i := r.Int64N(c.records)
		p, err := c.a.Get(c.ctx, c.key(key, i), buf)
		if err != nil {
			return err
		}
		buf = p
		if len(p) != c.payload {
			return fmt.Errorf("record %d has %d bytes", i, len(p))
		}
		generation := binary.LittleEndian.Uint64(p[8:])
		if content(want, i, generation); generation > 1 || !bytes.Equal(p, want) {
			return fmt.Errorf("record %d has wrong content", i)
		}
	}
	c.emit("/s", float64(n)/time.Since(began).Seconds(), "gets of %d bytes by 1, cold", c.payload)
	return nil
}

// memory says how much memory the process has, and had at most.
func (c *child) memory(when string) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return
	}
	for l := range strings.Lines(string(status)) {
		var kb float64
		if _, err := fmt.Sscanf(l, "VmRSS: %f", &kb); err == nil {
			c.emit("MiB", kb/1024, "memory (RSS) %s", when)
		}
		if _, err := fmt.Sscanf(l, "VmHWM: %f", &kb); err == nil {
			c.emit("MiB at most", kb/1024, "memory (RSS) %s", when)
		}
	}
}

// deviceReads is how many bytes this process had the disk read.
func deviceReads() int64 {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(b)) {
		var n int64
		if _, err := fmt.Sscanf(l, "read_bytes: %d", &n); err == nil {
			return n
		}
	}
	return 0
}

// evictDir drops the files of a folder that nobody has open from the page cache.
func evictDir(dir string) error {
	return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}
