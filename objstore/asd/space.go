package asd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	minSegment = 8 << 20
	maxSegment = 256 << 20
	// deleteMargin is the end of the allocated part of the active segment that puts leave to deletes,
	// so that those pass when nothing more can be allocated.
	deleteMargin = 128 << 10
	// spareSize is what the last file in the pool keeps allocated, so that there is a next segment for deletes
	// on a filesystem that is full to the last byte.
	spareSize = 1 << 20
	maxGrow   = 16 << 20
)

// activeSegment is the segment that is written to. The leader of the queue owns pos and allocated.
type activeSegment struct {
	seg       *segment
	pos       int64
	allocated int64
	synced    atomic.Int64 // offset below which everything is durable

	use  sync.RWMutex // held for writing by who closes the file
	file *os.File
}

func (act *activeSegment) close() {
	act.use.Lock()
	defer act.use.Unlock()
	if act.file != nil {
		act.file.Close()
		act.file = nil
	}
}

// poolFile is a segment file without a life: dead, durably so, and waiting to be recycled.
type poolFile struct {
	slot  uint32
	size  int64
	since time.Time
}

func (a *ASD) sizes() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(a.dir, &fs); err != nil {
		return err
	}
	total := int64(fs.Blocks) * int64(fs.Bsize)
	a.capacity = a.opts.Capacity
	if a.capacity <= 0 || a.capacity > total {
		a.capacity = total
	}
	if a.opts.Reserve <= 0 {
		a.opts.Reserve = min(max(total/32, 6<<20), 1<<30)
	}
	a.segmentSize = pageCeil(a.opts.SegmentSize)
	if a.segmentSize <= 0 {
		a.segmentSize = minSegment
		for a.segmentSize < maxSegment && a.segmentSize < a.capacity/1024 {
			a.segmentSize *= 2
		}
	}
	if a.segmentSize < 1<<20 || a.segmentSize > 4<<30 {
		return fmt.Errorf("segment size of %d bytes: %w", a.segmentSize, ErrInvalid)
	}
	return nil
}

// roomFor reports whether a request of that class may allocate n more bytes.
func (a *ASD) roomFor(n int64, c class) bool {
	switch c {
	case classPut, classRestore:
		return a.room() >= n
	case classMove:
		// Compaction may go into the reserve, but leaves enough for the index and for deletes.
		return a.hostFree()-n >= a.moveReserve()
	}
	return true
}

func (a *ASD) hostFree() int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(a.dir, &fs); err != nil {
		return 0
	}
	return int64(fs.Bavail) * int64(fs.Bsize)
}

// room is how many bytes puts may still allocate; it can be negative.
func (a *ASD) room() int64 {
	free := a.hostFree() - a.opts.Reserve
	if a.opts.Capacity > 0 {
		a.table.RLock()
		used := a.table.allocated
		a.table.RUnlock()
		// One segment stays free for compaction.
		free = min(free, a.capacity-used-a.segmentSize)
	}
	return free
}

// remaining is the room in the active segment.
func (a *ASD) remaining() int64 {
	act := a.table.active
	if act == nil {
		return 0
	}
	return a.segmentSize - act.pos
}

// reserve makes sure that a frame of that size can be written to the active segment. When that takes another segment
// and begun says that the frame has ops already, which lie in this one, it reports false and changes nothing. The
// caller leads.
func (a *ASD) reserve(size int64, c class, begun bool) (bool, error) {
	next := size > a.remaining()
	if !next {
		// Or nothing may be allocated, but there is a file that has it already.
		grow := a.need(size, c) - a.table.active.allocated
		next = grow > 0 && !a.roomFor(grow, c) && a.pooled(segmentStart+size+deleteMargin)
	}
	if next && begun {
		return false, nil
	}
	if next {
		if err := a.roll(c); err != nil {
			return false, err
		}
	}
	return true, a.grow(a.need(size, c), c)
}

// need is how far the active segment must be allocated for a frame of that size.
func (a *ASD) need(size int64, c class) int64 {
	need := a.table.active.pos + size
	if c != classDelete {
		need += deleteMargin
	}
	return min(need, a.segmentSize)
}

// roomToMove refuses a compaction that could not be finished: it would use up what is left, and free nothing.
func (a *ASD) roomToMove(s *segment) error {
	t := &a.table
	t.RLock()
	need := s.state.live + s.state.deletes
	// A frame is a multiple of a page, and has a header.
	need += (need/compactStep + 2) * pageSize
	var have int64
	if act := t.active; act != nil {
		have += max(0, act.allocated-act.seg.state.end-deleteMargin)
	}
	for _, pf := range t.pool {
		have += max(0, pf.size-segmentStart-deleteMargin)
	}
	t.RUnlock()
	if need > have+max(0, a.hostFree()-a.moveReserve()) {
		return fmt.Errorf("asd %s: no room to compact segment %d: %w", a.dir, s.id, ErrFull)
	}
	return nil
}

// moveReserve is what compaction leaves free on the filesystem: enough for the index and for deletes.
func (a *ASD) moveReserve() int64 { return max(a.opts.Reserve/4, 2*a.ballastSize()) }

// pooled reports whether there is a file of that size in the pool.
func (a *ASD) pooled(size int64) bool {
	a.table.RLock()
	defer a.table.RUnlock()
	for _, pf := range a.table.pool {
		if pf.size >= size && pf.size > spareSize {
			return true
		}
	}
	return false
}

// grow allocates the active segment up to need, and some ahead.
func (a *ASD) grow(need int64, c class) error {
	act := a.table.active
	if need <= act.allocated {
		return nil
	}
	step := min(max(spareSize, act.allocated/2), maxGrow)
	target := min(max(need, act.allocated+step), a.segmentSize)
	if !a.roomFor(target-act.allocated, c) {
		if target = need; !a.roomFor(target-act.allocated, c) {
			return fmt.Errorf("asd %s: %w", a.dir, ErrFull)
		}
	}
	err := allocate(act.file, act.allocated, target)
	if isNoSpace(err) && target > need {
		target = need
		err = allocate(act.file, act.allocated, target)
	}
	if isNoSpace(err) {
		return fmt.Errorf("asd %s: %w", a.dir, ErrFull)
	}
	if err != nil {
		return a.fail(fmt.Errorf("allocate segment %d: %w", act.seg.id, err))
	}
	a.table.Lock()
	a.table.allocated += target - act.allocated
	act.allocated, act.seg.allocated = target, target
	a.table.Unlock()
	return nil
}

func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// allocate gives the file blocks from..to.
func allocate(f *os.File, from, to int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, from, to-from)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return f.Truncate(to)
		}
		return err
	}
}

// roll seals the active segment and begins the next. The caller leads the queue.
func (a *ASD) roll(c class) error {
	pf, err := a.takeFile(c)
	if err != nil {
		return err
	}
	if err := a.seal(); err != nil {
		return err
	}
	return a.begin(pf)
}

// seal ends the active segment: durable up to its end, and without what was allocated beyond.
func (a *ASD) seal() error {
	act := a.table.active
	if act == nil {
		return nil
	}
	if err := a.releaseActive(); err != nil {
		return err
	}
	a.writer.prevID, a.writer.prevEnd = act.seg.id, act.pos
	return nil
}

// releaseActive makes the active segment durable, cuts it to its end and closes it for writing.
func (a *ASD) releaseActive() error {
	act := a.table.active
	if act == nil {
		return nil
	}
	if err := act.sync(act.pos); err != nil {
		return a.fail(fmt.Errorf("sync segment %d: %w", act.seg.id, err))
	}
	if act.allocated > act.pos {
		if err := act.file.Truncate(act.pos); err != nil {
			return a.fail(fmt.Errorf("truncate segment %d: %w", act.seg.id, err))
		}
	}
	a.table.Lock()
	a.table.allocated -= act.allocated - act.pos
	act.seg.allocated, act.seg.sealed = act.pos, true
	a.table.active = nil
	a.table.Unlock()
	act.close()
	return nil
}

// begin gives a file its next life as the active segment. It becomes durable with its first frame.
func (a *ASD) begin(pf *poolFile) error {
	path := segmentPath(a.dir, pf.slot)
	f, _, err := openDirect(path, os.O_RDWR)
	if err != nil {
		return a.fail(fmt.Errorf("open segment: %w", err))
	}
	info := segmentInfo{state: segmentInUse, asd: a.identity.ASD, id: a.writer.nextID, epoch: randomUint64(),
		prevID: a.writer.prevID, prevEnd: a.writer.prevEnd}
	if err := writeAll(f, [][]byte{info.encode()}, 0); err != nil {
		f.Close()
		return a.fail(fmt.Errorf("write header of segment %d: %w", info.id, err))
	}
	a.writer.nextID++
	seg := newSegment(a.dir, info.id, segmentState{epoch: info.epoch, slot: pf.slot, end: segmentStart})
	seg.allocated = pf.size
	act := &activeSegment{seg: seg, pos: segmentStart, allocated: pf.size, file: f}
	a.table.Lock()
	a.table.segments[seg.id] = seg
	a.table.active = act
	a.table.Unlock()
	return nil
}

// takeFile returns a file for the next segment: from the pool, or a new one.
func (a *ASD) takeFile(c class) (*poolFile, error) {
	t := &a.table
	t.Lock()
	best := -1
	for i, pf := range t.pool {
		if best < 0 || pf.size > t.pool[best].size {
			best = i
		}
	}
	// The last small file is the spare: it is for deletes and compaction, unless there is room for another.
	if best >= 0 {
		pf := t.pool[best]
		if pf.size > spareSize || len(t.pool) > 1 || c != classPut {
			t.pool = append(t.pool[:best], t.pool[best+1:]...)
			t.Unlock()
			return pf, nil
		}
	}
	t.Unlock()
	if !a.roomFor(spareSize, c) {
		return nil, fmt.Errorf("asd %s: %w", a.dir, ErrFull)
	}
	return a.createFile(spareSize)
}

// createFile makes a new segment file, durably there, without a life.
func (a *ASD) createFile(size int64) (*poolFile, error) {
	a.table.Lock()
	slot := a.table.nextSlot
	a.table.nextSlot++
	a.table.Unlock()
	path := segmentPath(a.dir, slot)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		if err = allocate(f, 0, size); err == nil {
			err = f.Sync()
		}
		f.Close()
		if err != nil {
			os.Remove(path)
		}
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if isNoSpace(err) {
		return nil, fmt.Errorf("asd %s: %w", a.dir, ErrFull)
	}
	if err != nil {
		return nil, a.fail(fmt.Errorf("create segment: %w", err))
	}
	a.table.Lock()
	a.table.allocated += size
	a.table.Unlock()
	return &poolFile{slot: slot, size: size, since: time.Now()}, nil
}

// bury ends the life of a segment file durably: its frames can never be found again. Then the file goes to the
// pool.
func (a *ASD) bury(slot uint32, id, epoch uint64, size int64) error {
	if a.salvage {
		return nil
	}
	f, _, err := openDirect(segmentPath(a.dir, slot), os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	info := segmentInfo{state: segmentFree, asd: a.identity.ASD, id: max(id, 1), epoch: epoch}
	iov := [][]byte{info.encode()}
	if size > segmentStart {
		// Even when the header rots, the file must not look like a segment: wipe its first frame too.
		iov = append(iov, NewBuffer(pageSize))
	}
	if err := writeAll(f, iov, 0); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return err
	}
	a.table.Lock()
	a.table.pool = append(a.table.pool, &poolFile{slot: slot, size: size, since: time.Now()})
	a.table.Unlock()
	return nil
}

// trimPool gives the space of pool files that were not recycled for a while back to the filesystem. One stays,
// cut to the size of the spare.
func (a *ASD) trimPool(delay time.Duration) error {
	a.trimMu.Lock()
	defer a.trimMu.Unlock()
	t := &a.table
	t.Lock()
	keep := max(1, len(t.segments)/8)
	var out []*poolFile
	for i := len(t.pool) - 1; i >= 0 && len(t.pool) > 1; i-- {
		if pf := t.pool[i]; time.Since(pf.since) >= delay || len(t.pool) > keep {
			t.pool = append(t.pool[:i], t.pool[i+1:]...)
			t.allocated -= pf.size
			out = append(out, pf)
		}
	}
	var spare *poolFile
	if len(t.pool) == 1 && t.pool[0].size > spareSize && time.Since(t.pool[0].since) >= delay {
		spare = t.pool[0]
		t.pool = nil // nobody takes it meanwhile
	}
	t.Unlock()
	for _, pf := range out {
		if err := os.Remove(segmentPath(a.dir, pf.slot)); err != nil {
			return err
		}
	}
	if spare == nil {
		return nil
	}
	err := os.Truncate(segmentPath(a.dir, spare.slot), spareSize)
	t.Lock()
	defer t.Unlock()
	if err == nil {
		t.allocated -= spare.size - spareSize
		spare.size = spareSize
	}
	t.pool = append(t.pool, spare)
	return err
}

// trimActive gives back what the active segment has allocated ahead. The caller leads the queue.
func (a *ASD) trimActive() error {
	act := a.table.active
	if act == nil {
		return nil
	}
	target := pageCeil(act.pos) + spareSize
	if target >= act.allocated {
		return nil
	}
	if err := act.file.Truncate(target); err != nil {
		return a.fail(fmt.Errorf("truncate segment %d: %w", act.seg.id, err))
	}
	a.table.Lock()
	a.table.allocated -= act.allocated - target
	act.allocated, act.seg.allocated = target, target
	a.table.Unlock()
	return nil
}

// ensureSpare creates the spare when there is room for it.
func (a *ASD) ensureSpare() error {
	a.table.RLock()
	n := len(a.table.pool)
	a.table.RUnlock()
	if n > 0 || !a.roomFor(spareSize, classPut) {
		return nil
	}
	pf, err := a.createFile(spareSize)
	if err != nil {
		return err
	}
	a.table.Lock()
	a.table.pool = append(a.table.pool, pf)
	a.table.Unlock()
	return nil
}
