package fstest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/gabionfs/gabion/fs"
)

const threads = 8

// together runs fn on several goroutines at once; their errors fail the test.
func (e *env) together(fn func(thread int) error) {
	e.Helper()
	var wg sync.WaitGroup
	for thread := range threads {
		wg.Go(func() {
			if err := fn(thread); err != nil {
				e.Errorf("thread %d: %v", thread, err)
			}
		})
	}
	wg.Wait()
	if e.Failed() {
		e.FailNow()
	}
}

// concurrentCreate: of all who create one name, one succeeds.
func concurrentCreate(e *env) {
	const rounds = 50
	var won [rounds]atomic.Int32
	e.together(func(thread int) error {
		for i := range rounds {
			_, err := e.Mknod(e.ctx, owner, fs.Root, fmt.Sprint("f", i), fs.TypeRegular|0o644, 0)
			if err == nil {
				won[i].Add(1)
			} else if !errors.Is(err, fs.ErrExist) {
				return err
			}
			if _, err := e.Mkdir(e.ctx, owner, fs.Root, fmt.Sprint("d", thread, "-", i), 0o755); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range won {
		if n := won[i].Load(); n != 1 {
			e.Errorf("%d threads created f%d", n, i)
		}
	}
	e.wantNlink(fs.Root, 2+threads*rounds)
	if n := len(e.list(fs.Root)); n != rounds+threads*rounds {
		e.Errorf("%d entries", n)
	}
	e.together(func(thread int) error {
		for i := range rounds {
			if err := e.Rmdir(e.ctx, fs.Root, fmt.Sprint("d", thread, "-", i)); err != nil {
				return err
			}
		}
		return nil
	})
	e.wantNlink(fs.Root, 2)
}

// concurrentRename: a name that is replaced again and again is never missing.
func concurrentRename(e *env) {
	d := e.dir(fs.Root, "d")
	e.fileWith(fs.Root, "target", []byte("0"))
	e.together(func(thread int) error {
		for i := range 50 {
			if thread < 2 {
				a, err := e.Lookup(e.ctx, fs.Root, "target")
				if err != nil {
					return err
				}
				if a.Nlink != 1 {
					return fmt.Errorf("the target has %d links", a.Nlink)
				}
				continue
			}
			name := fmt.Sprint("t", thread)
			a, err := e.Mknod(e.ctx, owner, d, name, fs.TypeRegular|0o644, 0)
			if err != nil {
				return err
			}
			if err := e.Write(e.ctx, a.Ino, 0, fmt.Append(nil, i)); err != nil {
				return err
			}
			if err := e.Rename(e.ctx, d, name, fs.Root, "target", 0); err != nil {
				return err
			}
		}
		return nil
	})
	if len(e.list(d)) != 0 || len(e.list(fs.Root)) != 2 {
		e.Error("entries are left over")
	}
	if got := e.readAt(e.look(fs.Root, "target").Ino, 0, 10); string(got) != "49" {
		e.Errorf("the target holds %q", got) // the last rename of every thread was of its last file
	}
}

// concurrentDirectories moves directories into each other at random; the tree stays a tree.
func concurrentDirectories(e *env) {
	const n = 12
	dirs := []fs.Ino{fs.Root}
	for i := range n {
		dirs = append(dirs, e.dir(fs.Root, fmt.Sprint("d", i)))
	}
	e.together(func(thread int) error {
		r := rand.New(rand.NewPCG(uint64(thread), 1))
		for range 150 {
			name := fmt.Sprint("d", r.IntN(n))
			from, to := dirs[r.IntN(len(dirs))], dirs[r.IntN(len(dirs))]
			err := e.Rename(e.ctx, from, name, to, name, fs.RenameNoReplace)
			switch {
			case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrInvalid):
			default:
				return err
			}
		}
		return nil
	})
	found := 0
	var walk func(dir fs.Ino, depth int)
	walk = func(dir fs.Ino, depth int) {
		if depth > n {
			e.Fatal("directories form a ring")
		}
		entries := e.list(dir)
		e.wantNlink(dir, uint32(2+len(entries)))
		for _, entry := range entries {
			found++
			if p, err := e.Parent(e.ctx, entry.Ino); err != nil || p != dir {
				e.Fatalf("the parent of %q is %d, %v; want %d", entry.Name, p, err, dir)
			}
			walk(entry.Ino, depth+1)
		}
	}
	if walk(fs.Root, 0); found != n {
		e.Errorf("%d directories of %d can be reached", found, n)
	}
}

// concurrentContent writes neighbouring ranges of one file, and copies and cuts others meanwhile.
func concurrentContent(e *env) {
	f := e.file(fs.Root, "f")
	const part, parts = 10_007, 40 // nothing aligned
	want := noise(9, part*parts*threads)
	e.together(func(thread int) error {
		for i := range parts {
			off := (i*threads + thread) * part
			if err := e.Write(e.ctx, f, int64(off), want[off:off+part]); err != nil {
				return err
			}
			got := make([]byte, part)
			if _, err := e.Read(e.ctx, f, int64(off), got); err != nil {
				return err
			}
			if !bytes.Equal(got, want[off:off+part]) {
				return errors.New("reading what was just written: " + difference(got, want[off:off+part]))
			}
			if i%8 == 0 {
				if err := e.Fsync(e.ctx, f); err != nil {
					return err
				}
			}
		}
		return nil
	})
	e.wantContent(f, want)
	e.together(func(thread int) error {
		name := fmt.Sprint("copy", thread)
		a, err := e.Mknod(e.ctx, owner, fs.Root, name, fs.TypeRegular|0o644, 0)
		if err != nil {
			return err
		}
		for range 5 {
			if _, err := e.CopyRange(e.ctx, f, 0, a.Ino, 0, int64(len(want))); err != nil {
				return err
			}
			if _, err := e.Setattr(e.ctx, a.Ino, fs.SetAttr{Mask: fs.SetSize, Size: 1000}); err != nil {
				return err
			}
		}
		return e.Unlink(e.ctx, fs.Root, name)
	})
	e.wantContent(f, want)
}
