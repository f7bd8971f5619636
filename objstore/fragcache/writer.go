package fragcache

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// batch is what one Put wants to be written: records with their content, one after the other in buf.
type batch struct {
	buf     *bufpool.Buf
	records []record
	reached chan struct{} // if not nil it is only about the place in the queue
}

// writer is the one goroutine that changes the files of a folder.
type writer struct {
	*folder
	active   [2]*active
	next     uint32 // number of the next segment
	evicting bool
}

// active is a segment that is being written.
type active struct {
	s   *segment
	end int64
	dir []byte
}

func (w *writer) run() {
	w.load()
	for {
		select {
		case b := <-w.batches:
			w.handle(b)
			continue
		default:
		}
		select {
		case b := <-w.batches:
			w.handle(b)
		case <-w.stop:
			for len(w.batches) > 0 {
				w.handle(<-w.batches)
			}
			for q := range w.active {
				w.seal(queue(q))
			}
			return
		}
	}
}

func (w *writer) handle(b *batch) {
	if b.reached != nil {
		close(b.reached)
		return
	}
	defer w.finished(b)
	at := 0
	for i := 0; i < len(b.records); {
		if w.putsOff.now() {
			w.skip(len(b.records) - i)
			return
		}
		// As many as go to the same queue, and are not there meanwhile.
		q, n, size, skip := w.run1(b.records[i:])
		if !skip {
			w.append(q, b.records[i:i+n], b.buf.B[at:at+size], nil)
		}
		i, at = i+n, at+size
	}
}

// run1 returns how many records, of how many bytes, at the beginning of a list go to one queue, or are to be left out.
func (w *writer) run1(list []record) (q queue, n, size int, skip bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, r := range list {
		h := w.hash(r.key)
		_, has := w.index[h]
		to := small
		if !has && w.ghost.take(h) {
			to = main
		}
		if i > 0 && (to != q || has != skip) {
			if to == main {
				w.ghost.add(h, len(w.index)) // it is asked about again
			}
			break
		}
		q, skip = to, has
		n++
		size += recHeader + r.n
	}
	return q, n, size, skip
}

// append writes records, whose bytes are raw, to the end of a queue. freq has how often each was wanted; nil: never.
func (w *writer) append(q queue, list []record, raw []byte, freq []uint8) {
	for len(list) > 0 {
		a := w.active[q]
		if a != nil && a.s.dead {
			a, w.active[q] = nil, nil
		}
		n, size := 0, 0
		if a != nil {
			n, size = a.fits(list, w.segSize)
		}
		if n == 0 {
			w.seal(q)
			if !w.begin(q) {
				w.skip(len(list))
				return
			}
			continue
		}
		if _, err := a.s.f.WriteAt(raw[:size], a.end); err != nil {
			w.failed(q, err)
			w.skip(len(list))
			return
		}
		w.add(a, list[:n], freq)
		list, raw = list[n:], raw[size:]
		if freq != nil {
			freq = freq[n:]
		}
	}
}

// fits returns how many of the records go into the segment, and their bytes.
func (a *active) fits(list []record, most int64) (n, size int) {
	room := most - a.end - int64(len(a.dir)) - trailerLen
	for _, r := range list {
		// The record itself, and its place and those before it in the directory.
		if int64(size+recHeader+r.n+(n+1)*recHeader) > room {
			break
		}
		size += recHeader + r.n
		n++
	}
	return n, size
}

// add makes records known that are written.
func (w *writer) add(a *active, list []record, freq []uint8) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, r := range list {
		h := w.hash(r.key)
		if !a.s.dead {
			p := place{segment: a.s.number, at: uint32(a.end), last: uint16(r.n - 1)}
			if freq != nil {
				p.freq = freq[i]
			}
			w.index[h] = p
		}
		a.s.keys = append(a.s.keys, h)
		a.dir = r.append(a.dir)
		a.end += recHeader + int64(r.n)
		w.s.Written += recHeader + int64(r.n)
	}
}

// begin makes a new segment.
func (w *writer) begin(q queue) bool {
	if !w.evicting {
		w.makeRoom()
	}
	number := w.next
	f, err := os.OpenFile(filepath.Join(w.o.Dir, segmentName(number)), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		w.next++
		if _, err = f.WriteAt(segmentHead{q, number, w.o.Owner}.append(nil), 0); err != nil {
			_ = f.Close()
			w.unlink(number)
		}
	} else if errors.Is(err, os.ErrExist) {
		w.next++
	}
	if err != nil {
		w.failed(q, err)
		return false
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // a read takes what it wants, and no more
	s := &segment{number: number, queue: q, f: f, size: w.segSize}
	w.mu.Lock()
	w.segments[number] = s
	w.queues[q] = append(w.queues[q], s)
	w.mu.Unlock()
	w.active[q] = &active{s: s, end: segHeader}
	return true
}

// seal completes the segment that is being written.
func (w *writer) seal(q queue) {
	a := w.active[q]
	w.active[q] = nil
	if a == nil || a.s.dead {
		return
	}
	size := a.end
	end := trailer{uint32(len(a.dir) / recHeader), a.end}.append(a.dir)
	if _, err := a.s.f.WriteAt(end, a.end); err == nil {
		size += int64(len(end))
	} else {
		w.note("write", err) // its records are there without a directory
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	a.s.size = size
}

func (w *writer) note(what string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.s.WriteErrors++
	w.trouble(what, err)
}

// failed takes note of a write that failed: the segment stays as it is, and nothing is written for a while.
func (w *writer) failed(q queue, err error) {
	w.note("write", err)
	w.putsOff.begin()
	if a := w.active[q]; a != nil {
		w.active[q] = nil
		w.mu.Lock()
		a.s.size = a.end
		w.mu.Unlock()
	}
	if !w.evicting && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
		w.evict() // others need the room
	}
}

// makeRoom evicts until a segment may be added. Two more are held back for what moves from one to another.
func (w *writer) makeRoom() {
	for w.used()+w.segSize > w.o.Size-2*w.segSize {
		if !w.evict() {
			return
		}
	}
}

func (w *writer) used() (n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.segments {
		n += s.size
	}
	return n
}

// evict removes the oldest complete segment of a queue, and writes anew what is to stay. It reports false when there is
// none.
func (w *writer) evict() bool {
	w.evicting = true
	defer func() { w.evicting = false }()
	w.mu.Lock()
	var smallSize int64
	for _, s := range w.queues[small] {
		smallSize += s.size
	}
	oldest := func(q queue) *segment {
		if l := w.queues[q]; len(l) > 0 && (w.active[q] == nil || l[0] != w.active[q].s) {
			return l[0]
		}
		return nil
	}
	s := oldest(small)
	if m := oldest(main); m != nil && (s == nil || smallSize <= w.o.Size/smallShare) {
		s = m
	}
	w.mu.Unlock()
	if s == nil {
		return false
	}
	w.retire(s)
	return true
}

// survivor is a page that stays when its segment goes.
type survivor struct {
	place
	hash uint64
	freq uint8 // from now on
}

// retire removes a segment but for what was wanted often enough while it was there.
func (w *writer) retire(s *segment) {
	var stay []survivor
	w.mu.Lock()
	room := s.size / 2 // of the main queue no more than half stays, or there would be no end
	for _, h := range s.keys {
		p, ok := w.index[h]
		switch {
		case !ok || p.segment != s.number:
			continue
		case s.queue == small && p.freq >= promote:
			stay = append(stay, survivor{p, h, 0})
			continue
		case s.queue == main && p.freq > 0 && room >= recHeader+int64(p.n()):
			room -= recHeader + int64(p.n())
			stay = append(stay, survivor{p, h, p.freq - 1})
			continue
		case s.queue == small:
			w.ghost.add(h, len(w.index))
		}
		delete(w.index, h)
		w.s.Evicted++
	}
	w.mu.Unlock()
	w.move(s, stay)
	w.mu.Lock()
	gone := s.dead
	if !gone {
		w.detach(s)
	}
	w.mu.Unlock()
	if !gone {
		w.unlink(s.number)
	}
}

// moveStep is how much is read of a segment at a time when pages move.
const moveStep = 1 << 20

// move writes pages of a segment anew, to the main queue.
func (w *writer) move(s *segment, stay []survivor) {
	for len(stay) > 0 && !w.putsOff.now() {
		// As many as lie together.
		n, size := 0, 0
		for n < len(stay) && size < moveStep && int64(stay[n].at) == int64(stay[0].at)+int64(size) {
			size += recHeader + stay[n].n()
			n++
		}
		if !w.moveSome(s, stay[:n], size) {
			return
		}
		stay = stay[n:]
	}
}

func (w *writer) moveSome(s *segment, stay []survivor, size int) bool {
	buf := w.pool.Get(size)
	defer buf.Release()
	if _, err := s.f.ReadAt(buf.B, int64(stay[0].at)); err != nil {
		w.condemn(s, err)
		return false
	}
	var list []record
	var freq []uint8
	at := 0
	for _, x := range stay {
		r, err := parseRecord(buf.B[at : at+recHeader])
		if err == nil && (r.n != x.n() || crc.Sum(buf.B[at+recHeader:][:r.n]) != r.sum) {
			err = damaged("a page of segment %d", s.number)
		}
		if err != nil {
			w.condemn(s, err)
			return false
		}
		list, freq = append(list, r), append(freq, x.freq)
		at += recHeader + r.n
	}
	w.append(main, list, buf.B, freq)
	return true
}
