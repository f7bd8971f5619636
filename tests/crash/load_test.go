package crash

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

// Who works, and on how much. A writer has files with a history, a replacer one file that is replaced by
// rename, a sequencer a directory in which it adds and removes.
const (
	writers    = 4
	filesEach  = 5
	replacers  = 2
	sequencers = 2
	window     = 40 // entries in a sequencer's directory
	seqAttr    = "user.seq"
)

// progress is what is known of something that was worked on: the last step that was started, and the last
// one that is promised to survive. Steps count from 1.
type progress struct {
	Started int `json:"started"`
	Acked   int `json:"acked"`
}

// record is what a load prints at its end.
type record struct {
	Files    map[string]*progress `json:"files"`
	Replaced map[string]*progress `json:"replaced"`
	Dirs     map[string]*progress `json:"dirs"`
	Ops      int64                `json:"ops"`
	Syncs    int64                `json:"syncs"`
	Error    string               `json:"error"` // the first one
}

// load works in a directory until something fails, or until standard input ends, and prints its record.
func load(args []string) error {
	dir := args[0]
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	l := &loader{dir: dir, seed: seed, rec: record{
		Files: map[string]*progress{}, Replaced: map[string]*progress{}, Dirs: map[string]*progress{},
	}}
	if err := os.Mkdir(dir, 0o755); err != nil { // it may be cut off this early
		l.rec.Error = err.Error()
		return json.NewEncoder(os.Stdout).Encode(&l.rec)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		l.stop.Store(true)
	}()
	var wg sync.WaitGroup
	start := func(fn func() error) {
		wg.Go(func() {
			if err := fn(); err != nil {
				l.mu.Lock()
				if l.rec.Error == "" {
					l.rec.Error = err.Error()
				}
				l.mu.Unlock()
			}
		})
	}
	for w := range writers {
		var files []*file
		for i := range filesEach {
			name := fmt.Sprintf("w%d-%d", w, i)
			p := &progress{}
			l.rec.Files[name] = p
			files = append(files, &file{path: filepath.Join(dir, name), h: newHistory(seed, name), p: p, l: l})
		}
		start(func() error { return l.write(w, files) })
	}
	for i := range replacers {
		name := fmt.Sprintf("r%d", i)
		p := &progress{}
		l.rec.Replaced[name] = p
		start(func() error { return l.replace(name, p) })
	}
	for i := range sequencers {
		name := fmt.Sprintf("s%d", i)
		p := &progress{}
		l.rec.Dirs[name] = p
		start(func() error { return l.sequence(name, p) })
	}
	wg.Wait()
	l.rec.Ops, l.rec.Syncs = l.ops.Load(), l.syncs.Load()
	return json.NewEncoder(os.Stdout).Encode(&l.rec)
}

type loader struct {
	dir        string
	seed       uint64
	stop       atomic.Bool
	ops, syncs atomic.Int64
	mu         sync.Mutex // guards rec.Error
	rec        record
}

func (l *loader) write(w int, files []*file) error {
	r := harness.Rand(l.seed, fmt.Sprint("writer ", w))
	defer func() {
		for _, f := range files {
			f.close()
		}
	}()
	for !l.stop.Load() {
		if err := files[r.IntN(len(files))].step(r.IntN(4) == 0); err != nil {
			return err
		}
	}
	return nil
}

// file is one with a history, as its writer sees it.
type file struct {
	path string
	h    *history
	p    *progress
	l    *loader
	fd   *os.File // nil when it is closed
}

func (f *file) close() {
	if f.fd != nil {
		f.fd.Close()
		f.fd = nil
	}
}

// step does the next operation of the history.
func (f *file) step(closeAfter bool) (err error) {
	o := f.h.next()
	f.p.Started = f.h.n
	f.l.ops.Add(1)
	if o.kind == opCreate {
		f.fd, err = os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		return err
	}
	if f.fd == nil {
		if f.fd, err = os.OpenFile(f.path, os.O_RDWR, 0); err != nil {
			return err
		}
	}
	if closeAfter {
		defer f.close()
	}
	ack := func(err error) error {
		if err == nil {
			f.p.Acked = f.h.n
			f.l.syncs.Add(1)
		}
		return err
	}
	switch o.kind {
	case opWrite:
		_, err = f.fd.WriteAt(o.data, o.off)
		return err
	case opAppend:
		return f.through(unix.O_APPEND, func(fd *os.File) error { _, err := fd.Write(o.data); return err })
	case opSyncWrite:
		return ack(f.through(unix.O_DSYNC, func(fd *os.File) error { _, err := fd.WriteAt(o.data, o.off); return err }))
	case opTruncate:
		return f.fd.Truncate(o.off)
	case opSync:
		return ack(f.fd.Sync())
	case opDataSync:
		return ack(os.NewSyscallError("fdatasync", unix.Fdatasync(int(f.fd.Fd()))))
	}
	return fmt.Errorf("operation %d", o.kind)
}

// through does something through a descriptor of its own.
func (f *file) through(flags int, do func(*os.File) error) error {
	fd, err := os.OpenFile(f.path, os.O_WRONLY|flags, 0)
	if err != nil {
		return err
	}
	defer fd.Close()
	return do(fd)
}

// replace writes a new version under another name and renames it over the file, again and again. The first
// one is synced; of the others some are, before or after the rename.
func (l *loader) replace(name string, p *progress) error {
	target := filepath.Join(l.dir, name)
	r := harness.Rand(l.seed, name)
	for v := 1; !l.stop.Load(); v++ {
		p.Started = v
		l.ops.Add(1)
		f, err := os.Create(target + ".new")
		if err != nil {
			return err
		}
		sync, early := v == 1 || r.IntN(3) == 0, r.IntN(2) == 0
		err = writeAll(f, version(l.seed, name, v))
		if err == nil && sync {
			err = f.Sync()
		}
		if err == nil && early {
			err = f.Close()
		}
		if err == nil {
			err = os.Rename(target+".new", target)
		}
		if err == nil && (v == 1 || r.IntN(5) == 0) {
			if err = syncPath(target); err == nil {
				p.Acked = v
				l.syncs.Add(1)
			}
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// writeAll writes p in pieces, so that a crash can fall between them.
func writeAll(f *os.File, p []byte) error {
	for len(p) > 0 {
		n, err := f.Write(p[:min(len(p), 60_000)])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// sequence adds entries to a directory and removes the oldest: step i adds entry i, then writes i into an
// attribute of the directory, then removes entry i - window.
func (l *loader) sequence(name string, p *progress) error {
	dir := filepath.Join(l.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := 1; !l.stop.Load(); i++ {
		p.Started = i
		l.ops.Add(1)
		if err := add(dir, i); err != nil {
			return err
		}
		if err := unix.Setxattr(dir, seqAttr, []byte(strconv.Itoa(i)), 0); err != nil {
			return err
		}
		if i > window {
			if err := os.Remove(entry(dir, i-window)); err != nil {
				return err
			}
		}
		if i%50 == 0 {
			if err := syncPath(dir); err != nil {
				return err
			}
			p.Acked = i
			l.syncs.Add(1)
		}
	}
	return nil
}

func entry(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("e%07d", i)) }

// add makes entry i of a directory: one of each kind in turn.
func add(dir string, i int) error {
	path := entry(dir, i)
	switch i % 5 {
	case 0:
		return os.Mkdir(path, 0o755)
	case 1:
		return os.Symlink("target of "+strconv.Itoa(i), path)
	case 2:
		return os.Link(entry(dir, i-1), path)
	case 3:
		if err := os.WriteFile(filepath.Dir(dir)+"/moving-"+filepath.Base(dir), nil, 0o644); err != nil {
			return err
		}
		return os.Rename(filepath.Dir(dir)+"/moving-"+filepath.Base(dir), path)
	}
	return os.WriteFile(path, nil, 0o644)
}
