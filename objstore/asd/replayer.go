package asd

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
)

// replayer feeds the frames of segments, in the order in which they were written, to the index.
type replayer struct {
	a      *ASD
	ctx    context.Context
	x      *index
	seq    uint64
	lsn    uint64
	frames int
	gaps   int
}

// segment replays one segment from an offset to its end, or to where a torn tail begins when end is
// -1, and returns where it ended.
func (r *replayer) segment(ff *foundFile, from, end int64) (int64, error) {
	f, err := os.Open(segmentPath(r.a.dir, ff.slot))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sc := &scanner{f: f, id: ff.info.id, epoch: ff.info.epoch, size: ff.size}
	durable := end
	if end < 0 {
		durable = max(from, sc.durableEnd(from))
		end = ff.size
	}
	off := from
	for off+pageSize <= end {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		h, err := sc.header(off)
		if err == nil && h.end() > end {
			err = bad("frame runs past the end of its segment")
		}
		if err == nil && off >= durable && sc.verify(&h) != nil {
			return off, nil // torn
		}
		if err != nil {
			if off >= durable {
				return off, nil
			}
			r.gaps++
			next, ok := sc.resync(off+pageSize, end)
			r.a.log.Error("damaged frame in a segment", "segment", ff.info.id, "offset", off, "error", err)
			if !ok {
				return end, nil
			}
			off = next
			continue
		}
		if err := r.frame(sc, &h); err != nil {
			return 0, err
		}
		off = h.end()
	}
	return off, nil
}

// frame indexes one frame. Damage of its ops loses the frame, no more.
func (r *replayer) frame(sc *scanner, h *frameInfo) error {
	meta, err := sc.meta(h)
	if err != nil {
		return err
	}
	r.lsn = max(r.lsn, h.lsn)
	pf := &pendingFrame{lsn: r.lsn, segment: h.segment, end: h.end()}
	local := make(map[string]*pendingOp)
	err = decodeOps(h, meta, func(o *opView) error { return r.op(pf, local, h, o) })
	var fe formatError
	if errors.As(err, &fe) {
		r.gaps++
		r.a.log.Error("damaged frame in a segment", "segment", h.segment, "offset", h.offset(), "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	pf.seq = r.seq
	r.frames++
	return r.a.commitFrames(r.x, []*pendingFrame{pf})
}

func (r *replayer) op(pf *pendingFrame, local map[string]*pendingOp, h *frameInfo, o *opView) error {
	r.seq = max(r.seq, o.seq)
	var old *entry
	if p, ok := local[string(o.key)]; ok {
		old = p.cur
	} else {
		var err error
		if old, err = r.x.get(o.key); err != nil {
			return err
		}
	}
	p := &pendingOp{key: string(o.key)}
	switch {
	case o.kind == opPut && (old == nil || old.seq <= o.seq):
		p.cur, p.old = o.entry(h), old
		p.cost = p.cur.cost(len(o.key))
	case o.kind == opDelete && (old == nil || old.seq < o.seq):
		p.old = old
		if _, hi := r.a.aliveRange(o.prevLo, o.prevHi); hi != 0 {
			p.cost = deleteCost(len(o.key))
		}
	default:
		return nil
	}
	local[p.key] = p
	pf.ops = append(pf.ops, p)
	return nil
}

// everything replays what is not pending, with the accounts from zero. The caller holds indexMu.
func (r *replayer) everything() error {
	t := &r.a.table
	t.Lock()
	segs := slices.SortedFunc(maps.Values(t.segments), func(p, q *segment) int { return cmp.Compare(p.id, q.id) })
	ends := make([]int64, len(segs))
	for i, s := range segs {
		ends[i] = s.state.end
		s.state.live, s.state.deletes, s.state.records, s.state.end = 0, 0, 0, segmentStart
	}
	t.Unlock()
	for i, s := range segs {
		ff := &foundFile{slot: s.state.slot, size: ends[i], info: segmentInfo{id: s.id, epoch: s.epoch}}
		if _, err := r.segment(ff, segmentStart, ends[i]); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		t.Lock()
		s.state.end = ends[i]
		t.Unlock()
	}
	return nil
}
