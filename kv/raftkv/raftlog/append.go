package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore: it returns once the entries are durable.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	l.write.Lock()
	defer l.write.Unlock()
	defer l.waiting()()
	if l.failed != nil {
		return l.failed
	}
	if err := l.check(entries); err != nil {
		return err
	}
	for len(entries) > 0 {
		n, err := l.appendEntries(entries)
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	l.dirty = true
	l.idle.Reset(l.opts.MarkAfter)
	return nil
}

// check refuses what raft never asks for.
func (l *Log) check(entries []*raft.Log) error {
	next := entries[0].Index
	if last, _ := l.LastIndex(); last != 0 && next != last+1 {
		return fmt.Errorf("raftlog: entry %d cannot follow %d", next, last)
	}
	for i, e := range entries {
		if e.Index != next+uint64(i) {
			return fmt.Errorf("raftlog: entry %d cannot follow %d", e.Index, next+uint64(i)-1)
		}
		if len(e.Data)+len(e.Extensions) > maxPayload {
			return fmt.Errorf("raftlog: entry %d has %d bytes, allowed are %d", e.Index, len(e.Data)+len(e.Extensions), maxPayload)
		}
	}
	return nil
}

func entrySize(e *raft.Log) int64 {
	return align(recordHeader + int64(len(e.Data)+len(e.Extensions)))
}

// appendEntries writes as many of the entries as the segment takes, as one batch, and syncs it.
func (l *Log) appendEntries(entries []*raft.Log) (n int, err error) {
	s, err := l.room(entrySize(entries[0]))
	if err != nil {
		return 0, err
	}
	end := s.end
	for n < len(entries) && s.fits(end, entrySize(entries[n])) {
		end += entrySize(entries[n])
		n++
	}
	l.batch++
	records := make([]record, n)
	var w gather
	w.small = l.buf[:0]
	at := s.end
	for i, e := range entries[:n] {
		r := &records[i]
		*r = record{
			kind: kindEntry, typ: uint8(e.Type), last: i == n-1, batch: l.batch, index: e.Index, term: e.Term,
			length: uint32(len(e.Data) + len(e.Extensions)), extensions: uint32(len(e.Extensions)),
		}
		if !e.AppendedAt.IsZero() {
			r.time = e.AppendedAt.UnixNano()
		}
		var b [recordHeader]byte
		r.put(b[:])
		binary.LittleEndian.PutUint32(b[:], sum(s.epoch, at, b[:], e.Data, e.Extensions))
		w.add(b[:])
		w.add(e.Data)
		w.add(e.Extensions)
		w.pad(int(r.size() - recordHeader - int64(r.length)))
		at += r.size()
	}
	if err := w.writeTo(s.file, s.end); err != nil {
		return 0, l.fail(err)
	}
	if l.buf = w.small; cap(l.buf) > 4<<20 {
		l.buf = nil
	}
	if err := l.sync(s); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range records {
		l.index(s, &records[i], s.end)
		s.end += records[i].size()
	}
	return n, nil
}

// fits says whether a record of the size at the offset leaves room for the seal.
func (s *segment) fits(at, size int64) bool { return at+size+recordHeader <= s.size }

// room returns the segment that takes a record of the size, beginning a new one if necessary.
func (l *Log) room(size int64) (*segment, error) {
	s := l.active()
	if s.fits(s.end, size) {
		return s, nil
	}
	if err := l.seal(s); err != nil {
		return nil, err
	}
	if err := l.nextSegment(size); err != nil {
		return nil, err
	}
	return l.active(), nil
}

// nextSegment begins a segment with room for a record of the size.
func (l *Log) nextSegment(size int64) error {
	number := l.active().number + 1
	if blockSize+size+recordHeader <= l.opts.SegmentBytes {
		if spare, ok := l.takeSpare(); ok {
			defer l.wantSpare()
			if err := l.begin(spare, number); err != nil {
				return l.fail(err)
			}
			return nil
		}
	}
	path := filepath.Join(l.opts.Dir, "spare-now.part")
	if err := prepare(path, max(l.opts.SegmentBytes, blockSize+size+recordHeader)); err != nil {
		return l.fail(err)
	}
	if err := l.begin(path, number); err != nil {
		return l.fail(err)
	}
	return nil
}

// appendControl appends a record that is no entry, and syncs it.
func (l *Log) appendControl(r record) error {
	s, err := l.room(recordHeader)
	if err != nil {
		return err
	}
	l.batch++
	r.batch, r.last = l.batch, true
	if err := l.put(s, &r); err != nil {
		return err
	}
	return l.sync(s)
}

// mark appends a record behind the last batch, so that damage to that batch is told from a torn write.
// It need not be durable itself.
func (l *Log) mark() {
	l.write.Lock()
	defer l.write.Unlock()
	s := l.active()
	if l.failed != nil || !l.dirty || !s.fits(s.end, recordHeader) {
		return
	}
	l.dirty = false
	l.batch++
	_ = l.put(s, &record{kind: kindMark, last: true, batch: l.batch}) // latches a failure
}

// DeleteRange implements raft.LogStore. It drops a beginning or an end of the log.
func (l *Log) DeleteRange(from, to uint64) error {
	l.write.Lock()
	defer l.write.Unlock()
	defer l.waiting()()
	if l.failed != nil {
		return l.failed
	}
	l.mu.RLock()
	first, n := l.first, uint64(len(l.where))
	l.mu.RUnlock()
	if n == 0 || to < first || from > first+n-1 {
		return nil
	}
	switch {
	case from <= first && to >= first+n-1: // all of it
		if err := l.appendControl(record{kind: kindReset}); err != nil {
			return err
		}
		l.mu.Lock()
		l.where = nil
		l.mu.Unlock()
		return l.retire(math.MaxUint64)
	case to >= first+n-1: // the end
		if err := l.appendControl(record{kind: kindTruncate, index: from}); err != nil {
			return err
		}
		l.mu.Lock()
		l.cut(from)
		l.mu.Unlock()
		return nil
	case from <= first: // the beginning
		l.mu.Lock()
		l.where = append([]location(nil), l.where[to+1-first:]...)
		l.first = to + 1
		l.mu.Unlock()
		return l.retire(to)
	}
	return fmt.Errorf("raftlog: cannot drop entries %d to %d from the middle of %d to %d", from, to, first, first+n-1)
}

// retire takes the oldest segments out of use that have no entry above index.
func (l *Log) retire(index uint64) error {
	changed := false
	for {
		l.mu.Lock()
		s := l.segments[0]
		if s == l.active() || s.last > index {
			l.mu.Unlock()
			break
		}
		l.segments = l.segments[1:]
		l.mu.Unlock()
		if err := l.retireSegment(s); err != nil {
			return l.fail(err)
		}
		changed = true
	}
	if changed {
		if err := syncDir(l.opts.Dir); err != nil {
			return l.fail(err)
		}
	}
	return nil
}

// retireSegment makes a spare of the segment, or removes it.
func (l *Log) retireSegment(s *segment) error {
	if err := s.file.Close(); err != nil {
		return err
	}
	l.mu.Lock()
	keep := s.size == l.opts.SegmentBytes && len(l.spares) < maxSpares
	l.spareNo++
	spare := filepath.Join(l.opts.Dir, fmt.Sprintf("spare-%d", l.spareNo))
	l.mu.Unlock()
	if !keep {
		l.bytes.Add(-s.size)
		return os.Remove(s.path)
	}
	if err := os.Rename(s.path, spare); err != nil {
		return err
	}
	l.mu.Lock()
	l.spares = append(l.spares, spare)
	l.mu.Unlock()
	return nil
}

func (l *Log) takeSpare() (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spares) == 0 {
		return "", false
	}
	spare := l.spares[len(l.spares)-1]
	l.spares = l.spares[:len(l.spares)-1]
	return spare, true
}

func (l *Log) wantSpare() {
	select {
	case l.need <- struct{}{}:
	default:
	}
}

// prepareSpares is the goroutine that keeps one spare file ready.
func (l *Log) prepareSpares() {
	for {
		select {
		case <-l.need:
		case <-l.stop:
			return
		}
		l.mu.Lock()
		enough := len(l.spares) > 0
		l.spareNo++
		path := filepath.Join(l.opts.Dir, fmt.Sprintf("spare-%d", l.spareNo))
		l.mu.Unlock()
		if enough {
			continue
		}
		err := prepare(path+".part", l.opts.SegmentBytes)
		if err == nil {
			err = os.Rename(path+".part", path)
		}
		if err != nil { // the disk may be full; the log asks again when it needs one
			l.opts.Logger.Warn("no spare segment", "dir", l.opts.Dir, "cause", err)
			continue
		}
		l.mu.Lock()
		l.spares = append(l.spares, path)
		l.mu.Unlock()
		l.bytes.Add(l.opts.SegmentBytes)
	}
}

// gather collects pieces for one write: small ones are copied together, large ones are not copied.
type gather struct {
	small  []byte
	pieces []piece
}

// piece is a stretch of small, or a slice of the caller's.
type piece struct {
	from, to int
	large    []byte
}

func (g *gather) add(b []byte) {
	if len(b) >= gatherBelow {
		g.pieces = append(g.pieces, piece{large: b})
		return
	}
	if n := len(g.pieces); n == 0 || g.pieces[n-1].large != nil {
		g.pieces = append(g.pieces, piece{from: len(g.small), to: len(g.small)})
	}
	g.small = append(g.small, b...)
	g.pieces[len(g.pieces)-1].to = len(g.small)
}

func (g *gather) pad(n int) {
	var zeroes [8]byte
	g.add(zeroes[:n])
}

// maxPieces is how many pieces one writev takes (IOV_MAX).
const maxPieces = 1024

func (g *gather) writeTo(f *os.File, at int64) error {
	if len(g.pieces) == 1 && g.pieces[0].large == nil {
		_, err := f.WriteAt(g.small, at)
		return err
	}
	iov := make([][]byte, 0, len(g.pieces))
	for _, p := range g.pieces {
		if p.large != nil {
			iov = append(iov, p.large)
		} else if p.to > p.from {
			iov = append(iov, g.small[p.from:p.to])
		}
	}
	for len(iov) > 0 {
		n, err := unix.Pwritev(int(f.Fd()), iov[:min(len(iov), maxPieces)], at)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("pwritev", err)
		}
		if n == 0 && err == nil {
			return io.ErrShortWrite
		}
		at += int64(max(n, 0))
		for n > 0 {
			if n < len(iov[0]) {
				iov[0] = iov[0][n:]
				break
			}
			n -= len(iov[0])
			iov = iov[1:]
		}
	}
	return nil
}
