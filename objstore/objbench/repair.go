package objbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/manager"
)

// Repair says how the repair of a lost disk is measured.
type Repair struct {
	Backend Repairable
	Dir     string // on the disk to measure
	Policy  objstore.Policy
	Size    int   // of objects; 0 means 4 MiB
	Bytes   int64 // of objects; 0 means 512 MiB
	// Lose are the folders of the disks that are lost, one after the other: a round each. There are k+m disks besides.
	Lose []string
}

// Repairable is a backend that repairs nothing unasked, and as fast as it can when asked.
type Repairable interface {
	Namespace(ctx context.Context, name string) (objstore.Namespace, error)
	// Disks returns a picture of every disk.
	Disks() []manager.Status
	// Heal rebuilds what is lost, and returns how many bytes of fragments that were.
	Heal(ctx context.Context) (int64, error)
}

// Repaired is what came of it: MB of rebuilt fragments per second.
type Repaired struct {
	Policy string `json:"policy"` // (k,m)
	Size   int    `json:"size"`
	// Rebuilt is beside a program that, eight at a time, reads k fragments from as many files past the page cache
	// and appends one, durably, to another.
	Rebuilt Pair `json:"repair"`
}

// repairParallel is how many fragments the ceiling of repair makes at a time.
const repairParallel = 8

// Run fills the disks and takes some away.
func (r Repair) Run(ctx context.Context) (out Repaired, err error) {
	if r.Size == 0 {
		r.Size = 4 << 20
	}
	if r.Bytes == 0 {
		r.Bytes = 512 << 20
	}
	p := r.Policy
	out.Policy, out.Size = fmt.Sprintf("(%d,%d)", p.K, p.M), r.Size
	if p.M < 1 || len(r.Lose) == 0 {
		return out, fmt.Errorf("repair: nothing is lost, or nothing can be rebuilt by %v", p)
	}
	if err := r.fill(ctx); err != nil {
		return out, err
	}
	raw, err := newCeiling(r.Dir, p.K, p.M)
	if err != nil {
		return out, err
	}
	defer raw.close()
	fragment := shapeOf(r.Size, p).fragment
	var rounds [][2]float64
	for _, dir := range r.Lose {
		ceiling, err := raw.repair(ctx, p.K, fragment, max(16, r.Bytes/int64(r.Size)))
		if err != nil {
			return out, err
		}
		rebuilt, err := r.lose(ctx, dir)
		if err != nil {
			return out, err
		}
		rounds = append(rounds, [2]float64{rebuilt, ceiling})
	}
	out.Rebuilt = pair(rounds)
	return out, nil
}

func (r Repair) fill(ctx context.Context) error {
	ns, err := r.Backend.Namespace(ctx, "repair")
	if err != nil {
		return err
	}
	data := noise(r.Size + windows)
	s := session{clients: 8}
	return s.each(ctx, max(1, r.Bytes/int64(r.Size)), func(_ int, i int64) error {
		_, err := ns.Put(ctx, fmt.Sprint(i), data[i%windows:][:r.Size])
		return err
	})
}

// lose takes away the disk in dir and returns how fast what was on it is rebuilt.
func (r Repair) lose(ctx context.Context, dir string) (rate float64, err error) {
	if err := os.Rename(dir, dir+".lost"); err != nil {
		return 0, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	for up := true; up; {
		for _, d := range r.Backend.Disks() {
			if d.Dir == abs {
				up = d.State == manager.Up
			}
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	bytes, err := r.Backend.Heal(ctx)
	if err == nil && bytes == 0 {
		err = errors.New("nothing was lost with the disk")
	}
	return float64(bytes) / time.Since(begin).Seconds() / 1e6, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// repair is the ceiling of repair: n fragments, each of k others.
func (c *ceiling) repair(ctx context.Context, k, fragment int, n int64) (rate float64, err error) {
	size := int64(pages(fragment))
	// The first half of each file has what is read, the second gets what is written.
	if err := c.reset(2 * n * size); err != nil {
		return 0, err
	}
	for range n {
		if err := c.chunk(int(size)); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	var next atomic.Int64
	s := session{clients: repairParallel}
	bufs := make([][]byte, repairParallel*k)
	for i := range bufs {
		bufs[i] = bufpool.Alloc(int(size))
	}
	err = s.parallel(func(client int) error {
		for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
			if err := c.rebuild(int(i), bufs[client*k:][:k], i*size); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	return float64(n) * float64(fragment) / time.Since(begin).Seconds() / 1e6, err
}

// rebuild reads what lies at off in as many files as there are buffers, and appends one of them to another file.
func (c *ceiling) rebuild(i int, bufs [][]byte, off int64) error {
	errs := make([]error, len(bufs))
	var wg sync.WaitGroup
	for j := range bufs {
		wg.Go(func() { _, errs[j] = c.logs[(i+1+j)%len(c.logs)].f.ReadAt(bufs[j], off) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.logs[i%len(c.logs)].append(bufs[0])
}
