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

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore/internal/bufpool"
)

// Ceiling measures what the disk under dir gives to a program that does nothing else: n files to which
// fragments are appended with direct I/O into allocated space, each followed by fdatasync, by so many
// writers per file as there are objects in flight. The figure is megabytes of user data per second for
// (k, m): what put could reach at most.
func Ceiling(ctx context.Context, dir string, k, m, fragment, inFlight int, total int64) (row Row, err error) {
	n := k + m
	fragment = (fragment + bufpool.Align - 1) / bufpool.Align * bufpool.Align // as direct I/O wants it
	row = Row{Name: fmt.Sprintf("ceiling of the disk at (%d,%d), %s fragments, %d in flight", k, m, sizeName(fragment), inFlight), Unit: "MB/s"}
	base, err := os.MkdirTemp(dir, "ceiling-")
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	rounds := max(1, total/int64(n*fragment))
	files := make([]*os.File, n)
	for i := range files {
		f, err := os.OpenFile(filepath.Join(base, fmt.Sprint(i)), os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
		if err != nil {
			return row, err
		}
		defer f.Close()
		if err := unix.Fallocate(int(f.Fd()), 0, 0, rounds*int64(fragment)); err != nil {
			return row, err
		}
		files[i] = f
	}
	data := bufpool.Alloc(fragment)
	copy(data, noise(fragment))
	var next atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for range inFlight {
		wg.Go(func() {
			for round := next.Add(1) - 1; round < rounds && ctx.Err() == nil; round = next.Add(1) - 1 {
				if e := writeRound(files, data, round*int64(fragment)); e != nil {
					mu.Lock()
					err = errors.Join(err, e)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	row.Value = float64(rounds) * float64(k*fragment) / time.Since(begin).Seconds() / 1e6
	return row, errors.Join(err, ctx.Err())
}

// writeRound writes one fragment to every file and waits until all are durable.
func writeRound(files []*os.File, data []byte, off int64) error {
	errs := make([]error, len(files))
	var wg sync.WaitGroup
	for i, f := range files {
		wg.Go(func() {
			if _, errs[i] = f.WriteAt(data, off); errs[i] == nil {
				errs[i] = unix.Fdatasync(int(f.Fd()))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
