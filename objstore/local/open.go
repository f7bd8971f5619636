package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/remote"
)

// openDirs opens all folders that are known or given.
func (b *Backend) openDirs(ctx context.Context) error {
	type job struct {
		dir   string
		given bool
	}
	var jobs []job
	seen := make(map[string]bool)
	for _, d := range b.o.Dirs {
		abs, err := place(d)
		if err != nil {
			return err
		}
		if !seen[abs] {
			seen[abs] = true
			jobs = append(jobs, job{abs, true})
		}
	}
	for _, d := range b.disks.Disks() {
		if dir := d.Dir(); !seen[dir] {
			seen[dir] = true
			jobs = append(jobs, job{dir, false})
		}
	}
	opened := make([]opened, len(jobs))
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() { opened[i] = b.openDir(ctx, j.dir, j.given) })
	}
	wg.Wait()
	// One after the other, in the order given, so that new disks are numbered in that order.
	var errs []error
	for i, j := range jobs {
		if err := b.take(ctx, j.dir, opened[i]); err != nil && j.given {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// opened is how the opening of a folder ended.
type opened struct {
	id  string
	dev objstore.Disk
	err error
}

func (b *Backend) openDir(ctx context.Context, dir string, given bool) opened {
	id, dev, err := b.opener.Open(ctx, dir, "")
	if given && errors.Is(err, asd.ErrMissing) {
		if err = b.claim(ctx, dir); err == nil {
			id, dev, err = b.opener.Open(ctx, dir, "")
		}
	}
	return opened{id, dev, err}
}

// claim makes a new disk of a folder that was given, if it may be one.
func (b *Backend) claim(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && b.known(dir) {
		return &asd.OpenError{Dir: dir, Err: asd.ErrMissing, Hint: "the folder does not exist, but a disk was there; is it mounted?"}
	}
	err := b.opener.Claim(ctx, dir)
	if err == nil {
		b.log.Info("claimed a new disk", "dir", dir)
	}
	return err
}

// known tells whether a disk was last seen in dir.
func (b *Backend) known(dir string) bool {
	return slices.ContainsFunc(b.disks.Disks(), func(d *manager.Disk) bool { return d.Dir() == dir })
}

// take takes a folder that was opened into use, or records what is wrong with it. It returns an error
// only for what the user must correct.
func (b *Backend) take(ctx context.Context, dir string, o opened) error {
	if o.err == nil {
		if _, err := b.disks.Attach(ctx, o.id, dir, nodeOf(o.dev, b.o.Node), o.dev); err != nil {
			return errors.Join(err, o.dev.Close())
		}
		return nil
	}
	state := stateOf(o.err)
	found := false
	for _, d := range b.disks.Disks() {
		if d.Dir() == dir && !d.Readable() {
			found = true
			d.MarkDown(state, o.err)
			b.log.Warn("disk is out of use", "disk", d.ID(), "dir", dir, "state", state, "error", o.err)
		}
	}
	for _, refuse := range []error{asd.ErrForeign, asd.ErrInUse, asd.ErrNewer} {
		if errors.Is(o.err, refuse) {
			return o.err
		}
	}
	if !found {
		return o.err // nobody knows it: a mistake in the options rather than a lost disk
	}
	return nil
}

// stateOf tells what an error says about a disk.
func stateOf(err error) manager.State {
	switch {
	case errors.Is(err, asd.ErrMissing), errors.Is(err, fs.ErrNotExist), errors.Is(err, asd.ErrForeign),
		errors.Is(err, remote.ErrUnreachable), errors.Is(err, asd.ErrClaimed):
		return manager.Missing
	case errors.Is(err, asd.ErrFailed):
		return manager.Failed
	}
	return manager.Damaged
}
