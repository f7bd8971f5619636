package data_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/memns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a volume's content over the models of the layers below.
type world struct {
	*testing.T
	*data.Store
	kv   *memkv.Store
	ns   *memns.Namespace
	tree *meta.Tree
	ctx  context.Context
}

func open(t *testing.T, o data.Options) *world {
	w := &world{T: t, kv: memkv.New(), ns: memns.New(), ctx: context.Background()}
	w.format(w.kv, o)
	return w
}

// format opens a new volume in store, which is w.kv with something in front of it.
func (w *world) format(store kv.Store, o data.Options) {
	_, err := meta.Format(w.ctx, w.kv, meta.FormatOptions{})
	w.ok(err)
	w.tree, err = meta.Open(w.ctx, w.kv, meta.Options{})
	w.ok(err)
	w.Store, err = data.Open(w.ctx, store, w.ns, o)
	w.ok(err)
	w.Cleanup(func() { w.Close(w.ctx) })
}

// benchFile makes a volume with one file.
func benchFile(b *testing.B, store kv.Store, name string) fs.Ino {
	ctx := context.Background()
	if _, err := meta.Format(ctx, store, meta.FormatOptions{}); err != nil {
		b.Fatal(err)
	}
	tree, err := meta.Open(ctx, store, meta.Options{})
	if err != nil {
		b.Fatal(err)
	}
	in, err := tree.Mknod(ctx, fs.Cred{}, fs.Root, name, fs.TypeRegular|0o644, 0)
	if err != nil {
		b.Fatal(err)
	}
	return in.Ino
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) file(name string) fs.Ino {
	w.Helper()
	in, err := w.tree.Mknod(w.ctx, fs.Cred{}, fs.Root, name, fs.TypeRegular|0o644, 0)
	w.ok(err)
	return in.Ino
}

func (w *world) remove(name string) {
	w.Helper()
	in, err := w.tree.Unlink(w.ctx, fs.Root, name)
	w.ok(err)
	w.Reap(in.Ino)
}

func (w *world) want(ino fs.Ino, p []byte) {
	w.Helper()
	got := make([]byte, len(p)+1)
	n, err := w.Read(w.ctx, ino, 0, got)
	w.ok(err)
	if !bytes.Equal(got[:n], p) {
		w.Fatalf("inode %d has %d bytes, want %d, or they differ", ino, n, len(p))
	}
}

func (w *world) check() {
	w.Helper()
	_, err := data.Check(w.ctx, w.kv, w.ns, data.CheckOptions{Deep: true, Volume: w.Store}, func(p data.Problem) {
		w.Errorf("%s: %s: %s", p.Kind, p.Object, p.Text)
	})
	w.ok(err)
}

// blobs counts the blobs that something refers to.
func (w *world) blobs() int64 {
	w.Helper()
	s, err := data.Check(w.ctx, w.kv, w.ns, data.CheckOptions{Volume: w.Store}, func(p data.Problem) { w.Error(p) })
	w.ok(err)
	return s.Blobs
}

// eventually waits until cond holds.
func (w *world) eventually(what string, cond func() bool) {
	w.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("it never came about that %s", what)
		}
	}
}

func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	return p
}

// TestSmallFilesSharePacks: ten thousand small files are a dozen objects, not ten thousand.
func TestSmallFilesSharePacks(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Hour})
	for i := range 2000 {
		w.ok(w.Write(w.ctx, w.file(fmt.Sprint("f", i)), 0, noise(uint64(i), 4096)))
	}
	w.ok(w.Sync(w.ctx))
	if _, n := w.ns.Size(); n > 8 {
		t.Errorf("2000 files of 4 KiB are %d objects", n)
	}
	w.check()
}

// TestDedup: identical content is stored once, within a flush and across them.
func TestDedup(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Hour})
	p := noise(1, 5<<20)
	for i := range 4 {
		ino := w.file(fmt.Sprint("f", i))
		w.ok(w.Write(w.ctx, ino, 0, p))
		w.ok(w.Sync(w.ctx))
		w.want(ino, p)
	}
	if size, _ := w.ns.Size(); size > 6<<20 {
		t.Errorf("four copies of 5 MiB take %d bytes", size)
	}
	for i := range 4 {
		w.check()
		w.remove(fmt.Sprint("f", i))
	}
	w.eventually("nothing is left", func() bool { _, n := w.ns.Size(); return n == 0 })
	w.check()
}

// TestRewrite: what is alive in packs of garbage moves, and the garbage goes.
func TestRewrite(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Hour})
	w.RewriteAfter(time.Hour) // all of them at once: fewer than a handful stay as they are
	const n, size = 400, 100 << 10
	for i := range n {
		w.ok(w.Write(w.ctx, w.file(fmt.Sprint("f", i)), 0, noise(uint64(i), size)))
	}
	w.ok(w.Sync(w.ctx))
	kept := map[fs.Ino]int{}
	for i := range n {
		if i%10 == 0 {
			in, err := w.tree.Lookup(w.ctx, fs.Root, fmt.Sprint("f", i))
			w.ok(err)
			kept[in.Ino] = i
			continue
		}
		w.remove(fmt.Sprint("f", i))
	}
	w.eventually("nine tenths are removed", func() bool { return w.blobs() == n/10 })
	w.RewriteAfter(0)
	w.eventually("most of the space is back", func() bool { s, _ := w.ns.Size(); return s < n/10*size*2 })
	for ino, i := range kept {
		w.want(ino, noise(uint64(i), size))
	}
	w.check()
}

// TestRemoveWithoutRewrite: what is alive in packs that are losing more and more is not moved.
func TestRemoveWithoutRewrite(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Hour})
	w.RewriteAfter(time.Hour)
	const n, size = 500, 100_000 // a dozen packs
	for i := range n {
		w.ok(w.Write(w.ctx, w.file(fmt.Sprint("f", i)), 0, noise(uint64(i), size)))
	}
	w.ok(w.Sync(w.ctx))
	var puts atomic.Int64
	w.ns.Fail(func(op, _ string) error {
		if op == "put" {
			puts.Add(1)
		}
		return nil
	})
	for i := range n * 9 / 10 { // from all packs alike
		w.remove(fmt.Sprint("f", i*7%n))
	}
	w.eventually("nine tenths are removed", func() bool { return w.blobs() == n/10 })
	for i := n * 9 / 10; i < n; i++ {
		w.remove(fmt.Sprint("f", i*7%n))
	}
	w.eventually("nothing is left", func() bool { _, objects := w.ns.Size(); return objects == 0 })
	if puts.Load() != 0 {
		t.Errorf("%d objects were written while all was removed", puts.Load())
	}
	w.check()
}

// TestFold: small synced writes are inline at first, and in packs after a while.
func TestFold(t *testing.T) {
	now := time.Now()
	w := open(t, data.Options{FlushAfter: time.Hour, Clock: func() time.Time { return now }})
	ino := w.file("db")
	var want []byte
	for i := range 700 { // 2.8 MiB: more than a file may keep inline
		p := noise(uint64(i), 4096)
		w.ok(w.Write(w.ctx, ino, int64(len(want)), p))
		w.ok(w.Fsync(w.ctx, ino))
		want = append(want, p...)
	}
	w.want(ino, want)
	w.eventually("inline rows are folded", func() bool {
		s, err := data.Check(w.ctx, w.kv, w.ns, data.CheckOptions{Volume: w.Store}, func(data.Problem) {})
		w.ok(err)
		return s.Inline < 300
	})
	w.want(ino, want)
	w.check()
}

// TestFull: a write that does not fit fails with ErrNoSpace, nothing that was there is lost, and when
// something was removed the very next write works, whether it is known beforehand how much fits or not.
func TestFull(t *testing.T) {
	t.Run("endless", func(t *testing.T) { full(t, open(t, data.Options{FlushAfter: time.Hour})) })
	t.Run("flushing", func(t *testing.T) { full(t, open(t, data.Options{FlushAfter: 4 * time.Millisecond})) })
	t.Run("capacity", func(t *testing.T) {
		var w *world
		w = open(t, data.Options{FlushAfter: time.Hour, Capacity: func() objstore.Capacity {
			used, _ := w.ns.Size()
			return objstore.Capacity{Total: fullAt, Used: used, Free: max(0, fullAt-used)}
		}})
		full(t, w)
	})
}

const fullAt = 20 << 20

func full(t *testing.T, w *world) {
	w.ns.Limit(fullAt)
	old := noise(1, 6<<20)
	a := w.file("old")
	w.ok(w.Write(w.ctx, a, 0, old))
	w.ok(w.Sync(w.ctx))
	big := w.file("big")
	var err error
	for i := 0; err == nil && i < 64; i++ {
		if err = w.Write(w.ctx, big, int64(i)<<20, noise(uint64(i), 1<<20)); err == nil {
			err = w.Fsync(w.ctx, big)
		}
	}
	if !errors.Is(err, fs.ErrNoSpace) {
		t.Fatalf("writing 64 MiB to 20 gave %v", err)
	}
	w.want(a, old)
	w.remove("big")
	next := w.file("next")
	w.ok(w.Write(w.ctx, next, 0, old[:1<<20]))
	w.ok(w.Fsync(w.ctx, next))
	w.want(a, old)
	w.want(next, old[:1<<20])
	w.check()
}

// TestRetry: content that could not be put stays in memory, readable, and is put when that works again.
func TestRetry(t *testing.T) {
	w := open(t, data.Options{FlushAfter: 10 * time.Millisecond})
	broken := errors.New("no disk answers")
	w.ns.Fail(func(op, _ string) error {
		if op == "put" {
			return broken
		}
		return nil
	})
	p := noise(1, 3<<20)
	ino := w.file("f")
	w.ok(w.Write(w.ctx, ino, 0, p))
	if err := w.Fsync(w.ctx, ino); !errors.Is(err, broken) {
		t.Fatalf("fsync without disks gave %v", err)
	}
	w.want(ino, p)
	w.ns.Fail(nil)
	w.eventually("nothing is dirty", func() bool { return w.Dirty() == 0 })
	w.ok(w.Fsync(w.ctx, ino))
	w.want(ino, p)
	w.check()
}

// TestBudget: dirty memory stays bounded whatever is written.
func TestBudget(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Hour, DirtyMax: 16 << 20})
	ino := w.file("f")
	for i := range 64 {
		w.ok(w.Write(w.ctx, ino, int64(i)<<20, noise(uint64(i), 1<<20)))
		if d := w.Dirty(); d > 24<<20 {
			t.Fatalf("%d bytes are dirty", d)
		}
	}
	w.ok(w.Fsync(w.ctx, ino))
	w.check()
}

// TestReadRace reads while content is replaced and its old blobs are deleted.
func TestReadRace(t *testing.T) {
	w := open(t, data.Options{FlushAfter: time.Millisecond})
	ino := w.file("f")
	w.ok(w.Write(w.ctx, ino, 0, bytes.Repeat([]byte{1}, 300<<10)))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := w.Write(w.ctx, ino, 0, bytes.Repeat([]byte{byte(i%200 + 1)}, 300<<10)); err != nil {
				t.Error(err)
				return
			}
			if i%3 == 0 {
				if err := w.Sync(w.ctx); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	buf := make([]byte, 300<<10)
	for range 300 {
		n, err := w.Read(w.ctx, ino, 0, buf)
		if err != nil || n != len(buf) {
			t.Fatal(n, err)
		}
		if i := bytes.IndexFunc(buf, func(r rune) bool { return r == 0 }); i >= 0 {
			t.Fatalf("byte %d is zero", i)
		}
	}
	close(stop)
	<-done
	w.ok(w.Sync(w.ctx))
	w.check()
}

// TestDefrag: random writes make pieces; a file that is left alone gets its blocks in one piece again.
func TestDefrag(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	w := open(t, data.Options{FlushAfter: time.Hour, Clock: func() time.Time { return time.Unix(0, now.Load()) }})
	want := noise(1, 6<<20)
	ino := w.file("f")
	w.ok(w.Write(w.ctx, ino, 0, want))
	w.ok(w.Sync(w.ctx))
	for i := range 100 {
		off := i * 40 << 10
		p := noise(uint64(i+2), 4096)
		copy(want[off:], p)
		w.ok(w.Write(w.ctx, ino, int64(off), p))
	}
	w.ok(w.Sync(w.ctx))
	w.want(ino, want)
	var reads atomic.Int64
	w.ns.Fail(func(op, _ string) error {
		if op == "read" {
			reads.Add(1)
		}
		return nil
	})
	w.want(ino, want)
	if n := reads.Load(); n < 100 {
		t.Fatalf("a block of many pieces is read in %d", n)
	}
	now.Add(int64(time.Minute))
	w.eventually("the file is in one piece a block", func() bool {
		reads.Store(0)
		w.want(ino, want)
		return reads.Load() <= 4
	})
	w.check()
}

// TestGarbageBesideAnIdleVolume: a volume that has put nothing yet has decided about everything of the run before.
func TestGarbageBesideAnIdleVolume(t *testing.T) {
	w := open(t, data.Options{})
	w.ok(w.Write(w.ctx, w.file("f"), 0, noise(1, 1<<20)))
	w.ok(w.Store.Close(w.ctx))
	var err error
	w.Store, err = data.Open(w.ctx, w.kv, w.ns, data.Options{})
	w.ok(err)
	garbage := fmt.Sprintf("%016x", 3)
	_, err = w.ns.Put(w.ctx, garbage, noise(2, 100))
	w.ok(err)
	var found []string
	_, err = data.Check(w.ctx, w.kv, w.ns, data.CheckOptions{Volume: w.Store}, func(p data.Problem) {
		found = append(found, p.Kind+" "+p.Object)
	})
	w.ok(err)
	if want := []string{data.KindGarbage + " object " + garbage}; !slices.Equal(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
}
