package data_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore/memns"
)

// TestFoldRace folds a file all the time while its content is cut, replaced and copied: what is gone must not
// come back.
func TestFoldRace(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Hour})
	ino := w.file("f")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := w.Fold(w.ctx, ino); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const limit = 300_000
	want := make([]byte, 0, limit)
	for i := range 1500 {
		off, n := int64(r.IntN(len(want)+1)), int64(1+r.IntN(40_000))
		end := min(off+n, int64(len(want)))
		switch r.IntN(8) {
		case 0:
			w.ok(w.SetSize(w.ctx, ino, off))
			want = want[:off]
		case 1:
			if off+n <= limit {
				w.ok(w.SetSize(w.ctx, ino, off+n))
				old := len(want)
				want = want[:off+n]
				clear(want[min(old, len(want)):])
			}
		case 2:
			w.ok(w.Allocate(w.ctx, ino, fs.AllocPunchHole|fs.AllocKeepSize, off, n))
			clear(want[off:end])
		case 3:
			src := int64(0)
			if end <= off {
				continue
			}
			if n = end - off; src+n > off {
				continue
			}
			_, err := w.CopyRange(w.ctx, ino, src, ino, off, n)
			w.ok(err)
			copy(want[off:end], want[src:src+n])
		default:
			if off+n > limit {
				continue
			}
			p := noise(uint64(i), int(n))
			w.ok(w.Write(w.ctx, ino, off, p))
			w.ok(w.Fsync(w.ctx, ino))
			want = append(want[:off], append(p, want[end:]...)...)
		}
		w.want(ino, want)
	}
	w.ok(w.Sync(w.ctx))
	w.check()
}

// TestSyncBesideFold: who syncs small writes does not wait for the disks while what he wrote before is brought into
// packs, and what he overwrites meanwhile stays as he wrote it.
func TestSyncBesideFold(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Hour})
	ino := w.file("log")
	var want []byte
	ctx, cancel := context.WithTimeout(w.ctx, 2*time.Minute)
	defer cancel()
	write := func(off int, p []byte) {
		t.Helper()
		w.ok(w.Write(ctx, ino, int64(off), p))
		w.ok(w.Fsync(ctx, ino))
		want = append(want[:off], append(p, want[min(off+len(p), len(want)):]...)...)
	}
	for i := range 100 {
		write(len(want), noise(uint64(i), 4096))
	}
	putting, resume := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.ns.Fail(func(op, _ string) error {
		if op == "put" {
			once.Do(func() {
				close(putting)
				select {
				case <-resume:
				case <-ctx.Done():
				}
			})
		}
		return nil
	})
	folded := make(chan error)
	go func() { folded <- w.Fold(w.ctx, ino) }()
	<-putting
	for i := range 10 { // none of these returns before the disks, which wait for us, when it needs them
		write(len(want), noise(uint64(100+i), 4096))
		write(i*20_000, noise(uint64(200+i), 6000))
	}
	w.want(ino, want)
	close(resume)
	w.ok(<-folded)
	w.want(ino, want)
	w.check()
	w.ok(w.Fold(w.ctx, ino))
	w.want(ino, want)
	s, err := data.Check(w.ctx, w.kv, w.ns, data.CheckOptions{Deep: true, Volume: w.Store}, func(p data.Problem) { t.Error(p) })
	w.ok(err)
	if s.Inline != 0 {
		t.Errorf("%d inline rows are left", s.Inline)
	}
}

// TestFoldFrayed: rows all over a block are merged with it, not laid over it in as many pieces.
func TestFoldFrayed(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Hour})
	ino := w.file("db")
	want := noise(1, 1<<20)
	w.ok(w.Write(w.ctx, ino, 0, want))
	w.ok(w.Fsync(w.ctx, ino))
	for i := range 500 {
		p := noise(uint64(i), 100)
		w.ok(w.Write(w.ctx, ino, int64(i)*2000, p))
		w.ok(w.Fsync(w.ctx, ino))
		copy(want[i*2000:], p)
	}
	w.ok(w.Fold(w.ctx, ino))
	w.eventually("the rows are merged", func() bool {
		s, err := data.Check(w.ctx, w.kv, w.ns, data.CheckOptions{Volume: w.Store}, func(data.Problem) {})
		w.ok(err)
		return s.Inline == 0
	})
	w.want(ino, want)
	w.check()
}

// rowCounter counts the inline rows that transactions look at.
type rowCounter struct {
	kv.Store
	rows *int
}

func (c rowCounter) Update(ctx context.Context, how kv.Commit, fn func(kv.Txn) error) error {
	return c.Store.Update(ctx, how, func(t kv.Txn) error { return fn(rowCounterTxn{t, c.rows}) })
}

type rowCounterTxn struct {
	kv.Txn
	rows *int
}

func (c rowCounterTxn) Range(ks kv.Keyspace, r kv.Range, fn func(k, v []byte) bool) error {
	return c.Txn.Range(ks, r, func(k, v []byte) bool {
		if ks == "inline" {
			*c.rows++
		}
		return fn(k, v)
	})
}

// TestRowsOfSyncedAppend: what a synced append costs does not grow with how many there were before.
func TestRowsOfSyncedAppend(t *testing.T) {
	rows := 0
	w := &world{T: t, kv: memkv.New(), ns: memns.New(), ctx: context.Background()}
	w.format(rowCounter{w.kv, &rows}, data.Options{FlushAfter: time.Hour})
	ino := w.file("log")
	for i := range 200 {
		w.ok(w.Write(w.ctx, ino, int64(i)*4096, noise(uint64(i), 4096)))
		rows = 0
		w.ok(w.Fsync(w.ctx, ino))
		if rows > 17 { // those that could reach into it
			t.Fatalf("append %d looks at %d rows", i, rows)
		}
	}
	w.check()
}

// BenchmarkSyncedAppend appends 4 KiB and syncs, over the models of the layers below.
func BenchmarkSyncedAppend(b *testing.B) {
	ctx := context.Background()
	store, ns := memkv.New(), memns.New()
	ino := benchFile(b, store, "log")
	s, err := data.Open(ctx, store, ns, data.Options{FlushAfter: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(ctx)
	p := noise(1, 4096)
	b.SetBytes(4096)
	for i := range b.N {
		copy(p, fmt.Sprint(i))
		if err := s.Write(ctx, ino, int64(i)*4096, p); err != nil {
			b.Fatal(err)
		}
		if err := s.Fsync(ctx, ino); err != nil {
			b.Fatal(err)
		}
	}
}
