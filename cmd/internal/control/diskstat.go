package control

import (
	"context"
	"net/http"
	"time"

	"github.com/gabionfs/gabion/objstore/asd"
)

// DiskStat is what a disk counts. Sizes are bytes; what is counted is since the disk was opened.
type DiskStat struct {
	ID           string  `json:"id,omitempty"` // its number, where one is known
	ASD          string  `json:"asd"`
	Cluster      string  `json:"cluster,omitempty"`
	Capacity     int64   `json:"capacity"`
	Used         int64   `json:"used"`
	Free         int64   `json:"free"`
	Live         int64   `json:"live"`
	Garbage      int64   `json:"garbage"`
	GarbageRatio float64 `json:"garbage_ratio"`
	Records      int64   `json:"records"`
	Segments     int     `json:"segments"`
	Pooled       int     `json:"pooled_segments"`
	Index        int64   `json:"index"`

	Puts        int64 `json:"puts"`
	Deletes     int64 `json:"deletes"`
	Reads       int64 `json:"reads"`
	Written     int64 `json:"bytes_written"`
	Read        int64 `json:"bytes_read"`
	Syncs       int64 `json:"syncs"`
	Corrupt     int64 `json:"corrupt_reads"`
	ReadErrors  int64 `json:"read_errors"`
	Compactions int64 `json:"segments_compacted"`
	Compacted   int64 `json:"bytes_compacted"`
	IndexReads  int64 `json:"index_reads"` // blocks of the index that were not in memory
	Yields      int64 `json:"yields"`      // how often the background waited for the foreground

	// Latencies in the foreground: of reads, of puts until they are durable, of deletions, and of the disk's syncs.
	ReadTime   Latency `json:"read_time"`
	PutTime    Latency `json:"put_time"`
	DeleteTime Latency `json:"delete_time"`
	SyncTime   Latency `json:"sync_time"`
}

// Latency sums up how long operations took, in microseconds.
type Latency struct {
	Count int64 `json:"count"`
	Mean  int64 `json:"mean_us"`
	P50   int64 `json:"p50_us"`
	P99   int64 `json:"p99_us"`
	P999  int64 `json:"p999_us"`
	Max   int64 `json:"max_us"`
}

func latency(l asd.Latency) Latency {
	return Latency{l.Count, l.Mean.Microseconds(), l.P50.Microseconds(), l.P99.Microseconds(), l.P999.Microseconds(), l.Max.Microseconds()}
}

// Duration of microseconds.
func Duration(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

// NewDiskStat translates what an ASD counts.
func NewDiskStat(id string, st asd.Stat) DiskStat {
	return DiskStat{ASD: id, Capacity: st.Capacity, Used: st.Used, Free: st.Free,
		Live: st.Live, Garbage: st.Garbage, GarbageRatio: st.GarbageRatio(), Records: st.Records,
		Segments: st.Segments, Pooled: st.Pooled, Index: st.IndexBytes,
		Puts: st.Puts, Deletes: st.Deletes, Reads: st.Reads, Written: st.BytesWritten, Read: st.BytesRead, Syncs: st.Syncs,
		Corrupt: st.Corrupt, ReadErrors: st.ReadErrors, Compactions: st.Compactions, Compacted: st.BytesCompacted,
		IndexReads: st.IndexReads, Yields: st.Yields,
		ReadTime: latency(st.ReadTime), PutTime: latency(st.ApplyTime), DeleteTime: latency(st.DeleteTime), SyncTime: latency(st.SyncTime)}
}

// DiskRequest names a disk by its number.
type DiskRequest struct {
	ID string `json:"id"`
}

// Compacted is a disk before and after it was compacted.
type Compacted struct {
	Before DiskStat `json:"before"`
	After  DiskStat `json:"after"`
}

// DetailBackend is a Backend that has disks open.
type DetailBackend interface {
	DiskStat(ctx context.Context, q DiskRequest) (DiskStat, error)
	// CompactDisk brings the space of what was deleted back, while the disk is used.
	CompactDisk(ctx context.Context, q DiskRequest) (Compacted, error)
}

// serveDetails adds what is about single disks to mux, if b has it:
//
//	POST /v1/asds/stat      DiskRequest   DiskStat
//	POST /v1/asds/compact   DiskRequest   Compacted
func serveDetails(mux *http.ServeMux, b Backend) {
	if d, ok := b.(DetailBackend); ok {
		mux.HandleFunc("POST /v1/asds/stat", answer(posted(d.DiskStat)))
		mux.HandleFunc("POST /v1/asds/compact", answer(posted(d.CompactDisk)))
	}
}

// DiskStat returns what a disk counts.
func (c *Client) DiskStat(ctx context.Context, q DiskRequest) (s DiskStat, err error) {
	return s, c.call(ctx, http.MethodPost, "/v1/asds/stat", nil, q, &s)
}

// CompactDisk brings the space of what was deleted from a disk back.
func (c *Client) CompactDisk(ctx context.Context, q DiskRequest) (r Compacted, err error) {
	return r, c.call(ctx, http.MethodPost, "/v1/asds/compact", nil, q, &r)
}
