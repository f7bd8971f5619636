package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
)

// Options of Open. Only Dir is required.
type Options struct {
	Dir    string
	Logger *slog.Logger
	// SegmentBytes is the size of a segment; 16 MiB when 0. An entry that is larger gets a segment of
	// its own size.
	SegmentBytes int64
	// OnFailure is called once, from the goroutine that ran into it, when a write or a sync failed.
	OnFailure func(error)
	// MarkAfter is how long after the last write a mark is appended; 250 ms when 0.
	MarkAfter time.Duration
	// Sync makes what was written to a segment durable; fdatasync when nil. Tests use it.
	Sync func(*os.File) error
}

const (
	defaultSegment = 16 << 20
	// firstSegment is smaller, because it has to be filled with zeroes before the store can start.
	firstSegment = 1 << 20
	// maxSpares bounds how many retired segments wait for reuse.
	maxSpares = 4
	// gatherBelow is the size up to which payloads are copied together rather than written as pieces
	// of their own.
	gatherBelow = 32 << 10
)

// Log is an open log. Safe for concurrent use. Lock order: write, then mu.
type Log struct {
	*Vote
	opts Options

	// write is held while the files change.
	write  sync.Mutex
	batch  uint64 // of the last record
	buf    []byte // reused by append
	failed error
	dirty  bool // the last batch has no record behind it

	// mu guards the index. Readers hold it while they read a record, so that its segment stays.
	mu       sync.RWMutex
	segments []*segment // oldest first; the last one takes the records
	first    uint64     // index of where[0]; meaningless when where is empty
	where    []location
	spares   []string
	spareNo  int

	busy  atomic.Pointer[time.Time] // since when the disk is being waited for, or nil
	bytes atomic.Int64              // disk space of segments and spares

	idle    *time.Timer
	need    chan struct{} // wakes the goroutine that prepares spares
	stop    chan struct{}
	workers sync.WaitGroup
}

// location is where an entry is.
type location struct {
	segment *segment
	offset  int64
	size    uint32 // header and payload
}

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.StableStore       = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

// ErrClosed is returned by a log that was closed.
var ErrClosed = errors.New("raftlog: closed")

// Open opens the log in o.Dir, which it creates when it is absent.
func Open(o Options) (_ *Log, err error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegment
	}
	if o.MarkAfter == 0 {
		o.MarkAfter = 250 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Sync == nil {
		o.Sync = func(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("raftlog: %w", err)
	}
	l := &Log{opts: o, need: make(chan struct{}, 1), stop: make(chan struct{})}
	defer func() {
		if err != nil {
			l.closeFiles()
		}
	}()
	numbers, err := l.list()
	if err != nil {
		return nil, err
	}
	if l.Vote, err = openVote(filepath.Join(o.Dir, voteFile), len(numbers) == 0); err != nil {
		return nil, err
	}
	if len(numbers) == 0 && l.Vote.used() {
		return nil, &kv.CorruptError{What: o.Dir, Err: errors.New("there is a vote, but all segments of the log are missing")}
	}
	how, err := l.replay(numbers)
	if err != nil {
		return nil, err
	}
	if err := l.resume(how); err != nil {
		return nil, err
	}
	l.idle = time.AfterFunc(time.Hour, l.mark)
	l.idle.Stop()
	l.workers.Go(l.prepareSpares)
	l.wantSpare()
	return l, nil
}

// list returns the numbers of the segments, and collects the spares.
func (l *Log) list() ([]uint64, error) {
	entries, err := os.ReadDir(l.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("raftlog: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		name := e.Name()
		var n uint64
		if _, err := fmt.Sscanf(name, "%d.seg", &n); err == nil && name == segmentName(n) {
			numbers = append(numbers, n)
		} else if strings.HasPrefix(name, "spare-") {
			l.adoptSpare(filepath.Join(l.opts.Dir, name))
		}
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != numbers[0]+uint64(i) {
			return nil, &kv.CorruptError{What: filepath.Join(l.opts.Dir, segmentName(numbers[0]+uint64(i))), Err: os.ErrNotExist}
		}
	}
	return numbers, nil
}

// adoptSpare keeps a spare file of an earlier life, if it was finished.
func (l *Log) adoptSpare(path string) {
	fi, err := os.Stat(path)
	if err != nil || strings.HasSuffix(path, ".part") || len(l.spares) >= maxSpares || fi.Size() < l.opts.SegmentBytes {
		_ = os.Remove(path)
		return
	}
	var n int
	if _, err := fmt.Sscanf(filepath.Base(path), "spare-%d", &n); err == nil {
		l.spareNo = max(l.spareNo, n)
	}
	l.spares = append(l.spares, path)
	l.bytes.Add(fi.Size())
}

// replay reads the segments and builds the index.
func (l *Log) replay(numbers []uint64) (how ending, err error) {
	for i, n := range numbers {
		s := &segment{path: filepath.Join(l.opts.Dir, segmentName(n)), number: n}
		if s.file, err = os.OpenFile(s.path, os.O_RDWR, 0); err != nil {
			return 0, fmt.Errorf("raftlog: %w", err)
		}
		l.segments = append(l.segments, s)
		fi, err := s.file.Stat()
		if err != nil {
			return 0, fmt.Errorf("raftlog: %w", err)
		}
		s.size = fi.Size()
		l.bytes.Add(s.size)
		before := l.batch
		if how, err = s.replay(func(r record, at int64) error { return l.replayRecord(s, r, at) }); err != nil {
			return 0, err
		}
		if i > 0 && s.batch != before+1 {
			return 0, s.corrupt(fmt.Errorf("it begins with batch %d, the one before ends with %d", s.batch, before))
		}
		if i < len(numbers)-1 && how != sealed {
			return 0, s.corrupt(fmt.Errorf("it breaks off at offset %d, but another segment follows", s.end))
		}
	}
	return how, nil
}

func (l *Log) replayRecord(s *segment, r record, at int64) error {
	l.batch = r.batch
	switch r.kind {
	case kindEntry:
		if len(l.where) > 0 && r.index != l.first+uint64(len(l.where)) {
			return s.corrupt(fmt.Errorf("entry %d at offset %d does not follow %d", r.index, at, l.first+uint64(len(l.where))-1))
		}
		l.index(s, &r, at)
	case kindTruncate:
		l.cut(r.index)
	case kindReset:
		l.where = nil
	}
	return nil
}

func (l *Log) index(s *segment, r *record, at int64) {
	if len(l.where) == 0 {
		l.first = r.index
	}
	l.where = append(l.where, location{s, at, recordHeader + r.length})
	s.last = max(s.last, r.index)
}

// cut drops the entries from index on.
func (l *Log) cut(index uint64) {
	if n := int64(index) - int64(l.first); n < int64(len(l.where)) {
		l.where = l.where[:max(n, 0)]
	}
}

// resume makes the log ready for appending. Behind a crash nothing may be written into the same life of
// the segment, because it may hold whole records of the batch that was torn: it is sealed.
func (l *Log) resume(how ending) error {
	if len(l.segments) == 0 {
		path := filepath.Join(l.opts.Dir, "spare-first.part")
		if err := prepare(path, min(firstSegment, l.opts.SegmentBytes)); err != nil {
			return fmt.Errorf("raftlog: %w", err)
		}
		return l.begin(path, 1)
	}
	if how == closed {
		// From here on a missing end means a crash, durably before anything else is written.
		return l.appendControl(record{kind: kindMark})
	}
	s := l.segments[len(l.segments)-1]
	if how == torn {
		if s.end+recordHeader <= s.size {
			if err := l.seal(s); err != nil {
				return err
			}
		} else {
			return s.corrupt(errors.New("there is no room for its seal"))
		}
	}
	return l.nextSegment(0)
}

// begin makes a segment of the spare file and appends it to the list.
func (l *Log) begin(spare string, number uint64) error {
	s, err := activate(l.opts.Dir, spare, number, l.batch+1)
	if err != nil {
		return fmt.Errorf("raftlog: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, s)
	if strings.HasSuffix(spare, ".part") {
		l.bytes.Add(s.size)
	}
	return nil
}

func (l *Log) active() *segment { return l.segments[len(l.segments)-1] }

// seal ends a segment. The space for it is always kept free. The caller holds write.
func (l *Log) seal(s *segment) error {
	l.batch++
	r := record{kind: kindSeal, last: true, batch: l.batch}
	if err := l.put(s, &r); err != nil {
		return err
	}
	return l.sync(s)
}

// put appends a record without a payload. The caller holds write.
func (l *Log) put(s *segment, r *record) error {
	var b [recordHeader]byte
	r.put(b[:])
	binary.LittleEndian.PutUint32(b[:], sum(s.epoch, s.end, b[:]))
	if _, err := s.file.WriteAt(b[:], s.end); err != nil {
		return l.fail(err)
	}
	s.end += recordHeader
	return nil
}

func (l *Log) sync(s *segment) error {
	if err := l.opts.Sync(s.file); err != nil {
		return l.fail(os.NewSyscallError("fdatasync", err))
	}
	return nil
}

// fail latches the first failure. A sync that failed may succeed when it is repeated, and still have
// lost the data.
func (l *Log) fail(err error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("raftlog: %s: %w", l.opts.Dir, err)
		l.opts.Logger.Error("the log failed", "dir", l.opts.Dir, "cause", err)
		if l.opts.OnFailure != nil {
			l.opts.OnFailure(l.failed)
		}
	}
	return l.failed
}

// waiting marks the time in which raft waits for the disk. The caller holds write.
func (l *Log) waiting() (done func()) {
	now := time.Now()
	l.busy.Store(&now)
	return func() { l.busy.Store(nil) }
}

// Busy returns since when StoreLogs or DeleteRange has been waiting for the disk, or the zero time. It has a monotonic
// clock reading: setting the clock neither makes a disk look stalled nor hides that one is.
func (l *Log) Busy() time.Time {
	if since := l.busy.Load(); since != nil {
		return *since
	}
	return time.Time{}
}

// Bytes returns the disk space that the log takes.
func (l *Log) Bytes() int64 { return l.bytes.Load() }

// IsMonotonic implements raft.MonotonicLogStore: there are no gaps.
func (l *Log) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.where) == 0 {
		return 0, nil
	}
	return l.first, nil
}

// LastIndex implements raft.LogStore.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.where) == 0 {
		return 0, nil
	}
	return l.first + uint64(len(l.where)) - 1, nil
}

// Tail returns the highest index from which on the entries take at least n bytes, or the first index when
// all together take less.
func (l *Log) Tail(n int64) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i := len(l.where)
	for ; i > 0 && n > 0; i-- {
		n -= int64(l.where[i-1].size)
	}
	return l.first + uint64(i)
}

// GetLog implements raft.LogStore.
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if index < l.first || index-l.first >= uint64(len(l.where)) {
		return raft.ErrLogNotFound
	}
	at := l.where[index-l.first]
	b := make([]byte, at.size)
	if _, err := at.segment.file.ReadAt(b, at.offset); err != nil {
		return fmt.Errorf("raftlog: read entry %d: %w", index, err)
	}
	r, payload, ok := parse(b, at.segment.epoch, at.offset)
	if !ok || r.index != index || r.kind != kindEntry {
		return at.segment.corrupt(fmt.Errorf("entry %d at offset %d does not match its checksum", index, at.offset))
	}
	data := len(payload) - int(r.extensions)
	*out = raft.Log{Index: r.index, Term: r.term, Type: raft.LogType(r.typ), Data: payload[:data:data]}
	if r.extensions > 0 {
		out.Extensions = payload[data:]
	}
	if r.time != 0 {
		out.AppendedAt = time.Unix(0, r.time)
	}
	return nil
}

// Close marks the end of an orderly life and closes the files.
func (l *Log) Close() error {
	l.idle.Stop()
	close(l.stop)
	l.workers.Wait()
	l.write.Lock()
	defer l.write.Unlock()
	if errors.Is(l.failed, ErrClosed) {
		return ErrClosed
	}
	var err error
	if l.failed == nil {
		err = l.appendControl(record{kind: kindClosed})
		l.failed = ErrClosed
	}
	return errors.Join(err, l.closeFiles())
}

func (l *Log) closeFiles() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, s := range l.segments {
		errs = append(errs, s.file.Close())
	}
	if l.Vote != nil {
		errs = append(errs, l.Vote.close())
	}
	return errors.Join(errs...)
}
