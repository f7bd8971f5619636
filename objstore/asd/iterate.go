package asd

import (
	"cmp"
	"context"
	"slices"
)

const (
	// iterateBytes and iterateRecords bound what Iterate holds in memory.
	iterateBytes   = 32 << 20
	iterateRecords = 32 << 10
	// iterateSpan is the largest read of Iterate, and iterateGap what it reads in vain to make one of two.
	iterateSpan = 1 << 20
	iterateGap  = 64 << 10
)

// Record is one record as Iterate passes it on.
type Record struct {
	Key     []byte
	Version uint64
	Payload []byte // verified
	Err     error  // why there is no payload: a *CorruptError, or what the disk answered
}

// Iterate calls fn for the records with from <= key < to in ascending order of keys, with their payloads, until it
// returns an error, which Iterate returns. Nil bounds are open. A record is valid only during the call. Records that
// come, change or go meanwhile may be passed as they were or as they are.
//
// It reads ahead up to 32 MiB of records in the order in which they lie on the disk. After compaction records lie sorted
// in their segments, so that it reads long stretches of each.
func (a *ASD) Iterate(ctx context.Context, from, to []byte, fn func(Record) error) error {
	w := &window{a: a, ctx: ctx}
	for {
		if err := a.readable(ctx); err != nil {
			return err
		}
		size := 0
		list, err := a.entries(from, to, func(list []found) bool {
			if len(list) > 0 {
				size += list[len(list)-1].e.size
			}
			return size < iterateBytes && len(list) < iterateRecords
		})
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return nil
		}
		w.read(list)
		for i := range w.records {
			if err := fn(w.records[i]); err != nil {
				return err
			}
		}
		from = append(list[len(list)-1].key, 0)
	}
}

// window is what Iterate has read ahead.
type window struct {
	a       *ASD
	ctx     context.Context
	records []Record
	mem     []byte
}

// read fills the window with the payloads of records.
func (w *window) read(list []found) {
	w.records = w.records[:0]
	size := 0
	for _, f := range list {
		size += f.e.size
	}
	if cap(w.mem) < size {
		w.mem = make([]byte, size)
	}
	mem := w.mem[:size]
	order := make([]int, len(list))
	for i, f := range list {
		w.records = append(w.records, Record{Key: f.key, Version: f.e.seq, Payload: mem[:f.e.size:f.e.size]})
		mem, order[i] = mem[f.e.size:], i
	}
	slices.SortFunc(order, func(i, j int) int {
		x, y := list[i].e, list[j].e
		return cmp.Or(cmp.Compare(x.segment, y.segment), cmp.Compare(x.payloadOffset(), y.payloadOffset()))
	})
	for len(order) > 0 {
		first := list[order[0]].e
		end := first.payloadOffset() + int64(first.size)
		n := 1
		for ; n < len(order); n++ {
			e := list[order[n]].e
			if e.segment != first.segment || e.payloadOffset() > end+iterateGap ||
				e.payloadOffset()+int64(e.size) > first.payloadOffset()+iterateSpan {
				break
			}
			end = max(end, e.payloadOffset()+int64(e.size))
		}
		w.span(list, order[:n], first.payloadOffset(), end)
		order = order[n:]
	}
}

// span reads records that lie together. What cannot be had that way is got one by one.
func (w *window) span(list []found, members []int, start, end int64) {
	var b *Buffer
	var err error
	if s := w.a.hold(list[members[0]].e.segment); s != nil {
		op, oerr := w.a.enter(w.ctx, &w.a.counters.read)
		if err = oerr; err == nil {
			b = w.a.buffers.Get(int(end - start))
			defer b.Free()
			err = w.a.readDirect(s, [][]byte{b.Bytes()}, start)
			op.end()
		}
		s.release()
	}
	for _, i := range members {
		r, e := &w.records[i], list[i].e
		if b != nil && err == nil {
			at := e.payloadOffset() - start
			if copy(r.Payload, b.Bytes()[at:at+int64(e.size)]); badBlock(r.Payload, e.crcs) < 0 {
				w.a.counters.readDone(e.size)
				continue
			}
		}
		// It was moved or deleted meanwhile, or is damaged: Get tells.
		var p []byte
		if p, r.Err = w.a.Get(w.ctx, r.Key, r.Payload); r.Err == nil {
			r.Payload = p
		} else {
			r.Payload = nil
		}
	}
}

// hold takes a reference of a segment; nil when it is gone.
func (a *ASD) hold(id uint64) *segment {
	a.table.RLock()
	defer a.table.RUnlock()
	s := a.table.segments[id]
	if s == nil || s.dying {
		return nil
	}
	s.refs.Add(1)
	return s
}
