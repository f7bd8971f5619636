package data_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
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
