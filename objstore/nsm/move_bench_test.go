package nsm

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/objstore"
)

// benchHost returns a namespace manager over a store on disk.
func benchHost(b *testing.B, name string) *Host {
	b.Helper()
	s, err := raftkv.Open(context.Background(), raftkv.Options{Dir: filepath.Join(b.TempDir(), name)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	h := NewHost(s)
	if _, err := h.Claim(context.Background(), name, true, false); err != nil {
		b.Fatal(err)
	}
	return h
}

// BenchmarkMove moves a namespace of 20,000 objects while one writer registers objects, and reports rows per second
// and how long the writer waited at most.
func BenchmarkMove(b *testing.B) {
	ctx := context.Background()
	for i := range b.N {
		from, to := benchHost(b, fmt.Sprint("from", i)), benchHost(b, fmt.Sprint("to", i))
		var at atomic.Pointer[Host]
		at.Store(from)
		n := Open(from.store, Options{Name: "test", Number: 7, Disks: sixDisks(), Policies: []objstore.Policy{{K: 2, M: 1, C: 2, X: 2}},
			Home: func(context.Context) (kv.Store, error) { return at.Load().store, nil }})
		for _, err := range []error{from.Obey(ctx, Message{1, KindCreate, 7}), to.Obey(ctx, Message{1, KindImport, 7})} {
			if err != nil {
				b.Fatal(err)
			}
		}
		const objects = 20_000
		for j := range objects {
			register(b, n, fmt.Sprint("object/", j), chunk(2, 1, 1, 3, 5))
		}
		over, done := make(chan struct{}), make(chan time.Duration)
		go func() {
			var longest time.Duration
			for j := 0; ; j++ {
				select {
				case <-over:
					done <- longest
					return
				default:
				}
				begin := time.Now()
				register(b, n, fmt.Sprint("new/", j), chunk(2, 1, 1, 3, 5))
				longest = max(longest, time.Since(begin))
			}
		}()
		rows := int64(0)
		t := Transfer{From: from, To: to, Namespace: 7, Progress: func(n int64) { rows = n }}
		begin := time.Now()
		for _, step := range []func() error{
			func() error { return t.Copy(ctx) }, func() error { return t.Freeze(ctx) },
			func() error { return from.Obey(ctx, Message{2, KindDrop, 7}) },
			func() error { return to.Obey(ctx, Message{2, KindOpen, 7}) },
		} {
			if err := step(); err != nil {
				b.Fatal(err)
			}
		}
		at.Store(to)
		n.Moved()
		took := time.Since(begin)
		close(over)
		longest := <-done
		b.ReportMetric(float64(rows)/took.Seconds(), "rows/s")
		b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest-wait")
		if problems, err := n.Recount(ctx); err != nil || len(problems) > 0 {
			b.Fatal(problems, err)
		}
	}
}

// BenchmarkRegisterAtHome registers objects with and without a row that says where the namespace is.
func BenchmarkRegisterAtHome(b *testing.B) {
	for _, claimed := range []bool{false, true} {
		b.Run(fmt.Sprint("claimed=", claimed), func(b *testing.B) {
			s, err := raftkv.Open(context.Background(), raftkv.Options{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = s.Close() })
			if claimed {
				h := NewHost(s)
				if _, err := h.Claim(context.Background(), "x", true, false); err != nil {
					b.Fatal(err)
				}
				if err := h.Obey(context.Background(), Message{1, KindCreate, 7}); err != nil {
					b.Fatal(err)
				}
			}
			n := Open(s, Options{Name: "test", Number: 7, Disks: sixDisks(), Policies: []objstore.Policy{{K: 2, M: 1, C: 2, X: 2}}})
			for i := 0; b.Loop(); i++ {
				register(b, n, fmt.Sprint("object/", i), chunk(2, 1, 1, 3, 5))
			}
		})
	}
}
