package asd

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"
)

const (
	// iterateBytes and iterateRecords bound what Iterate reads at a time. It holds two of that: what is passed on, and what
	// is read meanwhile.
	iterateBytes   = 16 << 20
	iterateRecords = 16 << 10
	// iterateSpan is the largest read of Iterate, and iterateGap what it reads in vain to make one of two.
	iterateSpan = 1<<20 - pageSize // so that the pages around it are a megabyte at most
	iterateGap  = 64 << 10
	// iterateReads is how many reads are under way: the checksums of one are computed while others wait for the disk.
	iterateReads = 4
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
// It reads ahead up to 32 MiB of records in the order in which they lie on the disk, in several reads at a time. After
// compaction records lie sorted in their segments, so that it reads long stretches of each.
func (a *ASD) Iterate(ctx context.Context, from, to []byte, fn func(Record) error) error {
	ctx, cancel := context.WithCancel(ctx)
	windows := [2]window{{a: a, ctx: ctx}, {a: a, ctx: ctx}}
	ready, free := make(chan *window), make(chan *window, len(windows))
	for i := range windows {
		free <- &windows[i]
	}
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		for i := range windows {
			windows[i].release()
		}
	}()
	wg.Go(func() {
		defer close(ready)
		for more := true; more; {
			w := <-free // there is one in the end: only one at a time is being passed on
			from, more = w.fill(from, to)
			select {
			case ready <- w:
			case <-ctx.Done():
				return
			}
		}
	})
	for w := range ready {
		if w.err != nil {
			return w.err
		}
		for i := range w.records {
			if err := fn(w.records[i]); err != nil {
				return err
			}
		}
		free <- w
	}
	return ctx.Err()
}

// window is what Iterate has read ahead.
type window struct {
	a       *ASD
	ctx     context.Context
	records []Record
	err     error

	mu   sync.Mutex
	bufs []*Buffer // that payloads lie in
}

// release ends the use of the records.
func (w *window) release() {
	for _, b := range w.bufs {
		b.Free()
	}
	clear(w.records)
	w.records, w.bufs = w.records[:0], w.bufs[:0]
}

// fill reads records from a key on, and returns where the next window begins, and whether there may be one.
func (w *window) fill(from, to []byte) (next []byte, more bool) {
	w.release()
	if w.err = w.a.readable(w.ctx); w.err != nil {
		return nil, false
	}
	size := 0
	list, err := w.a.entries(from, to, func(list []found) bool {
		if len(list) > 0 {
			size += list[len(list)-1].e.size
		}
		return size < iterateBytes && len(list) < iterateRecords
	})
	if w.err = err; err != nil || len(list) == 0 {
		return nil, false
	}
	w.read(list)
	return append(list[len(list)-1].key, 0), true
}

// read fills the window with the payloads of records.
func (w *window) read(list []found) {
	order := make([]int, len(list))
	for i, f := range list {
		w.records = append(w.records, Record{Key: f.key, Version: f.e.seq})
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		x, y := list[i].e, list[j].e
		return cmp.Or(cmp.Compare(x.segment, y.segment), cmp.Compare(x.payloadOffset(), y.payloadOffset()))
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	turn := make(chan struct{}, iterateReads)
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
		members := order[:n]
		order = order[n:]
		turn <- struct{}{}
		wg.Go(func() {
			w.span(list, members, first.payloadOffset(), end)
			<-turn
		})
	}
}

// span reads records that lie together. What cannot be had that way is got one by one.
func (w *window) span(list []found, members []int, start, end int64) {
	b, size := w.readSpan(list[members[0]].e.segment, start, end), 0
	for _, i := range members {
		size += list[i].e.size
	}
	// Payloads stay where they were read, but not in memory that is mostly not theirs.
	keep := b != nil && 2*size >= len(b.Bytes())
	for _, i := range members {
		r, e := &w.records[i], list[i].e
		if b != nil {
			p := b.Bytes()[e.payloadOffset()-start&^(pageSize-1):][:e.size:e.size]
			if badBlock(p, e.crcs) < 0 {
				if r.Payload = p; !keep {
					r.Payload = bytes.Clone(p)
				}
				w.a.counters.readDone(e.size)
				continue
			}
		}
		// It was moved or deleted meanwhile, or is damaged: Get tells.
		if r.Payload, r.Err = w.a.Get(w.ctx, r.Key, nil); r.Err != nil {
			r.Payload = nil
		}
	}
	switch {
	case keep:
		w.mu.Lock()
		w.bufs = append(w.bufs, b)
		w.mu.Unlock()
	case b != nil:
		b.Free()
	}
}

// readSpan reads the pages from start to end of a segment past the page cache, or returns nil.
func (w *window) readSpan(segment uint64, start, end int64) *Buffer {
	s := w.a.hold(segment)
	if s == nil {
		return nil
	}
	defer s.release()
	f, err := s.directReader()
	if err != nil {
		return nil
	}
	op, err := w.a.enter(w.ctx, &w.a.counters.read)
	if err != nil {
		return nil
	}
	defer op.end()
	first := start &^ (pageSize - 1)
	b := w.a.buffers.Get(int(pageCeil(end) - first))
	if n, _ := f.ReadAt(b.Bytes(), first); int64(n) < end-first {
		b.Free()
		return nil
	}
	return b
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
