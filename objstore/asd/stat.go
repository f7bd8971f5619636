package asd

import (
	"io"
	"os"
	"sync/atomic"
	"syscall"
)

var errUnexpectedEOF = io.ErrUnexpectedEOF

// counters are what the ASD counts since it was opened.
type counters struct {
	frames, written, syncs       atomic.Int64
	puts, deletes                atomic.Int64
	reads, readBytes, readErrors atomic.Int64
	corrupt, compacted, compacts atomic.Int64
	freedSegment, rounds         atomic.Int64

	read, apply, remove, sync Histogram // how long they took, in the foreground
}

func (c *counters) applied(r *request) {
	var puts int64
	for i := range r.ops {
		if r.ops[i].kind == opPut {
			puts++
		}
	}
	c.puts.Add(puts)
	c.deletes.Add(int64(len(r.ops)) - puts)
}

func (c *counters) readDone(n int) {
	c.reads.Add(1)
	c.readBytes.Add(int64(n))
}

// Stat is the state of an ASD. Sizes are in bytes.
type Stat struct {
	Capacity int64  // given to the ASD, or of its filesystem
	Used     int64  // allocated on the filesystem: segments, pool and index
	Live     int64  // of records that exist, with their keys, infos and checksums
	Garbage  int64  // in segments and not live; compaction brings it back
	Free     int64  // that can still be put: what is free beyond the reserve, and the garbage
	Own      int64  // of Free: in files that are allocated already, so that it can be put whatever others do
	Device   uint64 // of the filesystem: ASDs with the same one share what is free
	Records  int64
	Segments int
	Pooled   int // segment files that wait to be recycled
	Failed   error

	IndexBytes int64 // of Used: the index

	// Since Open:
	Puts, Deletes, Reads    int64
	BytesWritten, BytesRead int64 // to the segments; of payloads
	Syncs                   int64
	Corrupt, ReadErrors     int64 // reads that found damage; that the disk refused
	BytesCompacted          int64 // copied
	Compactions             int64 // segments that were emptied
	IndexReads              int64 // blocks of the index that were not in its cache
	Yields                  int64 // how often the background waited for the foreground

	// ReadTime is of gets, of a payload or a part of it; ApplyTime of batches with puts, until they are as durable as
	// was asked for; DeleteTime of batches without. SyncTime is of the disk's syncs. Of the background's, only syncs.
	ReadTime, ApplyTime, DeleteTime, SyncTime Latency
}

// GarbageRatio is the part of what the segments hold that is garbage, from 0 to 1.
func (s Stat) GarbageRatio() float64 {
	if s.Live+s.Garbage <= 0 {
		return 0
	}
	return float64(s.Garbage) / float64(s.Live+s.Garbage)
}

// Stat returns the state of the ASD.
func (a *ASD) Stat() Stat {
	c := &a.counters
	st := Stat{
		Capacity: a.capacity, Failed: a.Err(),
		Puts: c.puts.Load(), Deletes: c.deletes.Load(), Reads: c.reads.Load(),
		BytesWritten: c.written.Load(), BytesRead: c.readBytes.Load(), Syncs: c.syncs.Load(),
		Corrupt: c.corrupt.Load(), ReadErrors: c.readErrors.Load(), BytesCompacted: c.compacted.Load(), Compactions: c.compacts.Load(),
		Yields: a.gate.yields.Load(), ReadTime: c.read.Summary(), ApplyTime: c.apply.Summary(),
		DeleteTime: c.remove.Summary(), SyncTime: c.sync.Summary(),
	}
	a.table.RLock()
	t := &a.table
	st.Segments, st.Pooled, st.Used = len(t.segments), len(t.pool), t.allocated
	var usable int64  // in files that are there already
	var pending int64 // written to the active segment, and not in its account yet
	for _, f := range t.frames {
		pending += f.size
	}
	for _, s := range t.segments {
		st.Live += s.state.live
		st.Records += s.state.records
		st.Garbage += max(0, s.garbage())
		if !s.sealed {
			usable += max(0, s.allocated-s.state.end-pending-deleteMargin)
		}
	}
	for _, f := range t.frames {
		for _, p := range f.ops {
			if p.cur != nil {
				st.Live += p.cost
				st.Records++
			}
			if p.old != nil {
				st.Records--
				st.Live -= p.old.cost(len(p.key))
				st.Garbage += p.old.cost(len(p.key))
			}
		}
	}
	for _, pf := range t.pool {
		usable += max(0, pf.size-spareSize)
	}
	a.table.RUnlock()
	a.indexMu.RLock()
	if a.index != nil {
		st.IndexBytes = a.index.size()
		st.Used += st.IndexBytes
		st.IndexReads = a.index.files.reads.Load()
	}
	a.indexMu.RUnlock()
	st.Own = min(usable+st.Garbage, a.capacity)
	st.Free = min(max(0, a.room())+st.Own, a.capacity)
	if fi, err := os.Stat(a.dir); err == nil {
		if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
			st.Device = sys.Dev
		}
	}
	return st
}
