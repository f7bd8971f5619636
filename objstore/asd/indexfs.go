package asd

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// indexFS is the filesystem that pebble sees. A disk that fails must take nothing but its own ASD along:
//
//   - Pebble panics when a folder cannot be synced. Here that fails the ASD instead.
//   - Pebble leaks files whose writing failed, so that the disk could not be unmounted. Here they are known,
//     and closed with the index.
//   - Pebble keeps and syncs a log file even when it is told to keep none. Here it is in memory.
type indexFS struct {
	vfs.FS
	mem    vfs.FS
	failed func(error)

	reads, readBytes atomic.Int64 // that missed pebble's cache

	mu   sync.Mutex
	open map[*indexFile]struct{}
}

func newIndexFS(failed func(error)) *indexFS {
	return &indexFS{FS: vfs.Default, mem: vfs.NewMem(), failed: failed, open: make(map[*indexFile]struct{})}
}

func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

// track wraps a file that pebble opens.
func (x *indexFS) track(f vfs.File, dir bool, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	t := &indexFile{File: f, fs: x, dir: dir}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open[t] = struct{}{}
	return t, nil
}

// closeAll closes what pebble forgot. It is called after pebble was closed.
func (x *indexFS) closeAll() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for t := range x.open {
		t.File.Close()
	}
	clear(x.open)
}

func (x *indexFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if isLog(name) {
		return x.mem.Create("/log", c)
	}
	f, err := x.FS.Create(name, c)
	return x.track(f, false, err)
}

func (x *indexFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if isLog(newname) {
		return x.mem.Create("/log", c)
	}
	f, err := x.FS.ReuseForWrite(oldname, newname, c)
	return x.track(f, false, err)
}

func (x *indexFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := x.FS.Open(name)
	if err != nil {
		return nil, err
	}
	t, err := x.track(f, false, nil)
	for _, o := range opts {
		o.Apply(t)
	}
	return t, err
}

func (x *indexFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := x.FS.OpenReadWrite(name, c, opts...)
	return x.track(f, false, err)
}

func (x *indexFS) OpenDir(name string) (vfs.File, error) {
	f, err := x.FS.OpenDir(name)
	return x.track(f, true, err)
}

func (x *indexFS) Remove(name string) error {
	err := x.FS.Remove(name)
	if isLog(name) && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (x *indexFS) Unwrap() vfs.FS { return x.FS }

type indexFile struct {
	vfs.File
	fs  *indexFS
	dir bool
}

// ReadAt implements vfs.File.
func (f *indexFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.reads.Add(1)
	f.fs.readBytes.Add(int64(len(p)))
	return f.File.ReadAt(p, off)
}

func (f *indexFile) Close() error {
	f.fs.mu.Lock()
	_, open := f.fs.open[f]
	delete(f.fs.open, f)
	f.fs.mu.Unlock()
	if !open {
		return fs.ErrClosed
	}
	return f.File.Close()
}

func (f *indexFile) Sync() error {
	err := f.File.Sync()
	if err != nil && f.dir {
		f.fs.failed(fmt.Errorf("sync the folder of the index: %w", err))
		return nil
	}
	return err
}
