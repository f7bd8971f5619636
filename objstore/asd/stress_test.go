package asd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var stressFor = flag.Duration("stress", time.Second, "how long TestStress runs")

// stressPayload is content that says whose it is: every 16 bytes hold key and count.
func stressPayload(buf []byte, key, count uint64) {
	for i := 0; i+16 <= len(buf); i += 16 {
		binary.LittleEndian.PutUint64(buf[i:], key)
		binary.LittleEndian.PutUint64(buf[i+8:], count)
	}
}

func checkStress(b []byte, key uint64) (count uint64, err error) {
	for i := 0; i+16 <= len(b); i += 16 {
		k, c := binary.LittleEndian.Uint64(b[i:]), binary.LittleEndian.Uint64(b[i+8:])
		if i == 0 {
			count = c
		}
		if k != key || c != count {
			return 0, fmt.Errorf("at %d: key %d count %d, want key %d count %d", i, k, c, key, count)
		}
	}
	return count, nil
}

// TestStress races lookups with compaction and recycling: few keys, small segments that are recycled all the
// time, and a segment is freed as slowly as it takes readers to notice.
func TestStress(t *testing.T) {
	t.Run("memory", func(t *testing.T) { stress(t, memoryDir(t)) })
	// On a disk direct writes and buffered reads of recycled files meet in the page cache.
	t.Run("disk", func(t *testing.T) { stress(t, t.TempDir()) })
}

func stress(t *testing.T, dir string) {
	if _, err := Format(dir, testCluster); err != nil {
		t.Fatal(err)
	}
	a := mustOpen(t, dir, Options{SegmentSize: 1 << 20, Compaction: Compaction{MinGarbage: 0.01, Rate: -1, PoolDelay: time.Millisecond}})
	const keys = 40
	var durable [keys]atomic.Uint64 // count of the last put known to be done; 0 after a delete
	var locks [keys]sync.Mutex
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// It runs on where it had too little of the processors to free a segment.
	limit := time.AfterFunc(*stressFor, func() {
		for end := time.Now().Add(2 * time.Minute); a.counters.freedSegment.Load() == 0 && time.Now().Before(end) && ctx.Err() == nil; {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	})
	defer limit.Stop()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for ctx.Err() == nil {
				k := r.Uint64N(keys)
				locks[k].Lock()
				err := stressWrite(a, r, k, &durable[k])
				locks[k].Unlock()
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 2))
			buf := make([]byte, 128<<10)
			for ctx.Err() == nil {
				k := r.Uint64N(keys)
				if err := stressRead(a, r, k, &durable[k], buf); err != nil {
					t.Errorf("key %d: %v", k, err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := a.Compact(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("compact: %v", err)
				return
			}
		}
	})
	wg.Wait()
	st := a.Stat()
	t.Logf("%d puts, %d deletes, %d reads, %d bytes compacted, %d segments freed", st.Puts, st.Deletes, st.Reads, st.BytesCompacted, a.counters.freedSegment.Load())
	if a.counters.freedSegment.Load() == 0 {
		t.Error("no segment was freed; the test shows nothing")
	}
	if st.Corrupt != 0 {
		t.Errorf("%d corrupt reads", st.Corrupt)
	}
}

func stressWrite(a *ASD, r *rand.Rand, k uint64, durable *atomic.Uint64) error {
	key := fmt.Appendf(nil, "key-%d", k)
	var b Batch
	d := Durability(r.IntN(2))
	if r.IntN(4) == 0 {
		durable.Store(0)
		b.Delete(key)
		_, err := a.Apply(context.Background(), &b, d)
		return err
	}
	count := r.Uint64()>>1 | 1
	p := NewBuffer(16 * (1 + r.IntN(6000)))
	stressPayload(p, k, count)
	b.Put(key, fmt.Appendf(nil, "%d", count), p)
	durable.Store(0)
	if _, err := a.Apply(context.Background(), &b, d); err != nil {
		return err
	}
	durable.Store(count)
	return nil
}

// stressRead checks that a read shows a whole record, and the very one that was there all the time when nothing was
// written meanwhile.
func stressRead(a *ASD, r *rand.Rand, k uint64, durable *atomic.Uint64, buf []byte) error {
	key := fmt.Appendf(nil, "key-%d", k)
	before := durable.Load()
	var got []byte
	var err error
	switch r.IntN(3) {
	case 0:
		reads := []Read{{Key: key, Dst: buf}}
		if err = a.MultiGet(context.Background(), reads); err == nil {
			got, err = reads[0].Dst, reads[0].Err
		}
	case 1:
		var h Head
		if h, err = a.Head(context.Background(), key); err == nil && before != 0 && durable.Load() == before {
			if !bytes.Equal(h.Info, fmt.Appendf(nil, "%d", before)) {
				return fmt.Errorf("info %s, want %d", h.Info, before)
			}
		}
		if errors.Is(err, ErrNotFound) && before != 0 && durable.Load() == before {
			return fmt.Errorf("no head of count %d", before)
		}
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	default:
		got, err = a.Get(context.Background(), key, buf)
	}
	same := before != 0 && durable.Load() == before
	if errors.Is(err, ErrNotFound) && !same {
		return nil
	}
	if err != nil {
		return err
	}
	count, err := checkStress(got, k)
	if err == nil && same && count != before {
		err = fmt.Errorf("count %d, want %d", count, before)
	}
	return err
}
