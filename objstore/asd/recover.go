package asd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// foundFile is a segment file as it lies on disk.
type foundFile struct {
	slot uint32
	size int64
	info segmentInfo
	err  error // of the header
}

// recover brings index and segments together.
func (a *ASD) recover(ctx context.Context) error {
	files, err := a.findFiles()
	if err != nil {
		return err
	}
	mark := filepath.Join(a.home, indexName+".rebuild")
	_, err = os.Stat(mark)
	if marked := err == nil; !marked {
		err = a.openFromIndex(ctx, files)
		if err == nil || !isIndexDamage(err) {
			return err
		}
		a.log.Error("the index is damaged and will be rebuilt from the segments", "error", err)
		a.closeIndex()
		if err := markRebuild(a.home); err != nil {
			return err
		}
	} else {
		a.log.Error("the index was found damaged earlier and will be rebuilt from the segments")
	}
	if err := a.rebuildAtOpen(ctx, files); err != nil {
		return err
	}
	if err := a.index.db.Flush(); err != nil {
		return err
	}
	return os.Remove(mark)
}

func (a *ASD) closeIndex() {
	if a.index != nil {
		a.index.close()
		a.index = nil
	}
}

func (a *ASD) events() indexEvents {
	return indexEvents{
		corrupt: func(err error) {
			a.log.Error("index", "error", err)
			a.damage.Store(true)
			a.wake()
		},
		failed: func(err error) {
			a.fail(err)
			if err := markRebuild(a.home); err != nil {
				a.log.Error("cannot mark the index for a rebuild", "error", err)
			}
		},
		noSpace: a.dropBallast,
	}
}

func (a *ASD) findFiles() ([]*foundFile, error) {
	list, err := os.ReadDir(filepath.Join(a.dir, segmentsName))
	if err != nil {
		return nil, err
	}
	var out []*foundFile
	for _, de := range list {
		name, ok := strings.CutSuffix(de.Name(), ".seg")
		slot, err := strconv.ParseUint(name, 10, 32)
		if !ok || err != nil {
			continue
		}
		ff := &foundFile{slot: uint32(slot)}
		ff.read(segmentPath(a.dir, ff.slot))
		if ff.err == nil && ff.info.asd != a.identity.ASD {
			ff.err = bad("segment of ASD %s", ff.info.asd)
		}
		out = append(out, ff)
		a.table.nextSlot = max(a.table.nextSlot, ff.slot+1)
		a.table.allocated += ff.size
		if ff.err == nil {
			a.writer.nextID = max(a.writer.nextID, ff.info.id+1)
		}
	}
	a.writer.nextID = max(a.writer.nextID, 1)
	return out, nil
}

func (ff *foundFile) read(path string) {
	f, err := os.Open(path)
	if err != nil {
		ff.err = err
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil {
		ff.size = st.Size()
	}
	b := make([]byte, segmentHeader)
	if _, err := f.ReadAt(b, 0); err != nil {
		ff.err = err
		return
	}
	ff.info, ff.err = decodeSegmentInfo(b)
}

// openFromIndex is the usual way: the index is there, and at most the tail is missing in it.
func (a *ASD) openFromIndex(ctx context.Context, files []*foundFile) error {
	x, err := openIndex(filepath.Join(a.home, indexName), a.cache, a.ballastSize()/2, a.log, a.events())
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return err
		}
		return &indexDamage{err}
	}
	a.index = x
	pos, clean, states, err := x.load()
	if err != nil {
		return err
	}
	if pos.segment != 0 && pos.asd != a.identity.ASD {
		return &indexDamage{bad("index of ASD %s", pos.asd)}
	}
	tail, err := a.attach(files, pos, states)
	if err != nil {
		return err
	}
	a.writer.lsn, a.writer.seq = pos.lsn, pos.seq
	a.writer.prevID, a.writer.prevEnd = pos.segment, pos.offset
	a.writer.nextID = max(a.writer.nextID, pos.segment+1)
	a.writer.clean = clean
	if clean && len(tail) <= 1 {
		if err := a.continueTail(pos); err != nil {
			return err
		}
	} else if err := a.replay(ctx, tail, pos); err != nil {
		return err
	}
	a.table.written, a.syncer.synced = a.writer.lsn, a.writer.lsn
	return nil
}

// attach sorts the files into segments and pool, and returns those that may have frames after pos.
func (a *ASD) attach(files []*foundFile, pos position, states map[uint64]segmentState) ([]*foundFile, error) {
	bySlot := make(map[uint32]*foundFile)
	for _, ff := range files {
		bySlot[ff.slot] = ff
	}
	claimed := make(map[uint32]bool)
	for id, st := range states {
		ff := bySlot[st.slot]
		switch {
		case ff != nil && ff.err == nil && ff.info.state == segmentInUse && ff.info.id == id && ff.info.epoch == st.epoch:
		case st.records == 0 && (id != pos.segment || ff == nil || ff.err == nil):
			// It died just before a crash. The newest one may have had frames that are not in the index, if
			// its file is not there because it was lost.
			if id == pos.segment && ff == nil {
				a.log.Warn("the newest segment was freed, or is lost with what was written last", "segment", id)
			}
			continue
		case ff != nil && ff.err != nil:
			a.log.Error("segment header is damaged; going on with what the index knows", "segment", id, "error", ff.err)
			ff.info = segmentInfo{state: segmentInUse, id: id, epoch: st.epoch, asd: a.identity.ASD}
			ff.err = a.repairHeader(ff)
		default:
			a.log.Error("segment file is missing", "segment", id, "records", st.records)
			ff = nil
		}
		seg := newSegment(a.dir, id, st)
		seg.missing = ff == nil
		seg.sealed = true
		if ff != nil {
			seg.allocated = ff.size
		}
		a.table.segments[id] = seg
		if ff != nil {
			claimed[st.slot] = true
		}
	}
	var tail []*foundFile
	for _, ff := range files {
		inUse := ff.err == nil && ff.info.state == segmentInUse
		switch {
		case inUse && ff.info.id >= pos.segment:
			tail = append(tail, ff)
			if a.table.segments[ff.info.id] == nil {
				a.adopt(ff)
			}
		case claimed[ff.slot]:
		case inUse: // dead, and its file was to be wiped
			if err := a.bury(ff.slot, ff.info.id, ff.info.epoch, ff.size); err != nil {
				return nil, err
			}
		default:
			// Free, or never begun: its header fails, or the index would know it. Without a header that
			// could also be a segment begun after pos whose header rotted; then its frames tell.
			if ff.err != nil && a.inferHeader(ff) && ff.info.id >= pos.segment {
				tail = append(tail, ff)
				a.adopt(ff)
				continue
			}
			a.table.pool = append(a.table.pool, &poolFile{slot: ff.slot, size: ff.size, since: time.Now()})
		}
	}
	slices.SortFunc(tail, func(x, y *foundFile) int { return cmp.Compare(x.info.id, y.info.id) })
	return tail, nil
}

func (a *ASD) adopt(ff *foundFile) *segment {
	seg := newSegment(a.dir, ff.info.id, segmentState{epoch: ff.info.epoch, slot: ff.slot, end: segmentStart})
	seg.sealed, seg.allocated = true, ff.size
	a.table.segments[seg.id] = seg
	return seg
}

// repairHeader writes a header that was damaged again.
func (a *ASD) repairHeader(ff *foundFile) error {
	if a.salvage {
		return nil
	}
	f, _, err := openDirect(segmentPath(a.dir, ff.slot), os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeAll(f, [][]byte{ff.info.encode()}, 0); err != nil {
		return err
	}
	return f.Sync()
}

// inferHeader finds out from the first frame which segment a file with a damaged header is.
func (a *ASD) inferHeader(ff *foundFile) bool {
	f, err := os.Open(segmentPath(a.dir, ff.slot))
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, frameHeader)
	if _, err := f.ReadAt(b, segmentStart); err != nil {
		return false
	}
	h, err := decodeFrame(b)
	if err != nil || h.offset() != segmentStart {
		if !a.salvage || len(bytes.Trim(b, "\x00")) == 0 { // a file that was freed begins with zeroes
			return false
		}
		if h, err = latestFrame(f, ff.size); err != nil {
			return false
		}
	}
	a.log.Error("segment header is damaged; its first frame tells which it is", "segment", h.segment, "error", ff.err)
	ff.info = segmentInfo{state: segmentInUse, asd: a.identity.ASD, id: h.segment, epoch: h.epoch}
	ff.err = a.repairHeader(ff)
	a.writer.nextID = max(a.writer.nextID, h.segment+1)
	return ff.err == nil
}

// latestFrame finds a frame of the last life of a segment file whose header and first frame are damaged.
func latestFrame(f *os.File, size int64) (best frameInfo, err error) {
	err = bad("no frame")
	sc := &scanner{f: f, size: size}
	for off := int64(segmentStart); off+pageSize <= size; off += pageSize {
		sc.next = off // read ahead
		b, rerr := sc.bytes(off, frameHeader)
		if rerr != nil {
			continue
		}
		if h, derr := decodeFrame(b); derr == nil && h.offset() == off && h.segment > best.segment {
			best, err = h, nil
		}
	}
	return best, err
}

// continueTail goes on writing where a clean close ended.
func (a *ASD) continueTail(pos position) error {
	seg := a.table.segments[pos.segment]
	if a.salvage || seg == nil || seg.allocated < pos.offset || pos.offset >= a.segmentSize {
		return nil // the next write begins a segment
	}
	f, _, err := openDirect(seg.path, os.O_RDWR)
	if err != nil {
		return err
	}
	seg.sealed = false
	act := &activeSegment{seg: seg, pos: pos.offset, allocated: seg.allocated, file: f}
	act.synced.Store(pos.offset)
	a.table.active = act
	return nil
}

// markDirty removes the mark of the clean close before the first frame is written.
func (a *ASD) markDirty() error {
	if !a.writer.clean {
		return nil
	}
	if err := a.withIndex(func(x *index) error { return x.setClean(false) }); err != nil {
		return err
	}
	a.writer.clean = false
	return nil
}

// replay indexes the frames after pos. The segment in which they end is sealed there.
func (a *ASD) replay(ctx context.Context, tail []*foundFile, pos position) error {
	began := time.Now()
	r := &replayer{a: a, ctx: ctx, x: a.index, seq: pos.seq, lsn: pos.lsn}
	for i, ff := range tail {
		from := int64(segmentStart)
		if ff.info.id == pos.segment {
			from = pos.offset
		}
		end, err := r.segment(ff, from, knownEnd(tail, i))
		if err != nil {
			return err
		}
		if i == len(tail)-1 {
			if err := a.sealRecovered(ff, end); err != nil {
				return err
			}
		}
	}
	a.writer.lsn, a.writer.seq = r.lsn, r.seq
	a.log.Info("replayed the tail", "frames", r.frames, "segments", len(tail), "took", time.Since(began))
	return nil
}

// knownEnd returns where a segment ends, -1 when it is the last and recovery has to find out.
func knownEnd(files []*foundFile, i int) int64 {
	if i == len(files)-1 {
		return -1
	}
	end := files[i].size
	if next := &files[i+1].info; next.prevID == files[i].info.id && next.prevEnd > 0 {
		end = min(end, next.prevEnd)
	}
	return end
}

// sealRecovered makes what was found durable and cuts off the torn rest. Nothing is appended to a
// segment after a crash: a frame that was torn off could be followed by a whole one.
func (a *ASD) sealRecovered(ff *foundFile, end int64) error {
	if err := a.cutOff(ff, end); err != nil {
		return err
	}
	if seg := a.table.segments[ff.info.id]; seg != nil {
		a.table.allocated -= seg.allocated - end
		seg.allocated, seg.state.end = end, end
	}
	a.writer.prevID, a.writer.prevEnd = ff.info.id, end
	return nil
}

func (a *ASD) cutOff(ff *foundFile, end int64) error {
	if a.salvage {
		return nil
	}
	f, err := os.OpenFile(segmentPath(a.dir, ff.slot), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if ff.size > end {
		if err := f.Truncate(end); err != nil {
			return err
		}
	}
	return f.Sync()
}

const (
	scanWindow = 256 << 10
	// resyncWindow is how far a frame can reach, and with it how far the next one can be.
	resyncWindow = maxPayload + 2*maxGroup
)
