// Package session tests the filesystem over a store of a cluster.
package session_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/fstest"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvsession"
	"github.com/gabionfs/gabion/kv/kvsession/sessiontest"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/memns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, store kv.Store, ns objstore.Namespace) *volume.Volume {
	t.Helper()
	v, err := volume.Open(context.Background(), store, ns, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// check fails the test when anything in a volume that is not in use contradicts anything else.
func check(t *testing.T, store kv.Store, ns objstore.Namespace) {
	t.Helper()
	ctx := context.Background()
	if _, err := meta.Check(ctx, store, func(p meta.Problem) { t.Errorf("namespace: %v", p) }); err != nil {
		t.Error(err)
	}
	_, err := data.Check(ctx, store, ns, data.CheckOptions{Deep: true}, func(p data.Problem) {
		t.Errorf("content: %s: %s: %s", p.Kind, p.Object, p.Text)
	})
	if err != nil {
		t.Error(err)
	}
}

// TestContract runs the suite of the filesystem over a session that forgets quickly.
func TestContract(t *testing.T) {
	fstest.Run(t, func(t *testing.T) func(fs.Watcher) fs.FS {
		store, ns := sessiontest.New(t, 1).Session(kvsession.Options{CacheBytes: 100 << 10}), memns.New()
		v := open(t, store, ns)
		t.Cleanup(func() {
			if err := v.Close(context.Background()); err != nil {
				t.Error(err)
			}
			check(t, store, ns)
		})
		return v.Session
	})
}

// worker makes directories with files, overwrites, renames and removes some, and syncs now and then. What
// it leaves is in names: path in its directory to content.
type worker struct {
	s     fs.FS
	dir   fs.Ino
	names map[string][]byte
}

func (w *worker) round(ctx context.Context, i int) error {
	name := fmt.Sprintf("f%04d", i)
	content := bytes.Repeat([]byte(fmt.Sprintf("%s of %d\n", name, w.dir)), 1+i%700)
	a, err := w.s.Mknod(ctx, fs.Cred{}, w.dir, name, fs.TypeRegular|0o644, 0)
	if err != nil {
		return err
	}
	if err := w.s.Write(ctx, a.Ino, 0, content); err != nil {
		return err
	}
	w.names[name] = content
	if i%5 == 0 {
		if err := w.s.Fsync(ctx, a.Ino); err != nil {
			return err
		}
	}
	if i%3 == 0 { // over an older one, perhaps
		to := fmt.Sprintf("g%04d", i/2)
		if err := w.s.Rename(ctx, w.dir, name, w.dir, to, 0); err != nil {
			return err
		}
		w.names[to] = content
		delete(w.names, name)
	}
	if old := fmt.Sprintf("f%04d", i-10); i%4 == 0 && w.names[old] != nil {
		if err := w.s.Unlink(ctx, w.dir, old); err != nil {
			return err
		}
		delete(w.names, old)
	}
	return nil
}

// compare reads everything back.
func (w *worker) compare(ctx context.Context, t *testing.T, s fs.FS) {
	t.Helper()
	seen := 0
	if err := s.ReadDir(ctx, w.dir, 0, false, func(d fs.Dirent, _ *fs.Attr) bool {
		if d.Name != "." && d.Name != ".." {
			seen++
		}
		return true
	}); err != nil || seen != len(w.names) {
		t.Errorf("directory %d has %d entries, %v; want %d", w.dir, seen, err, len(w.names))
	}
	for name, content := range w.names {
		a, err := s.Lookup(ctx, w.dir, name)
		if err != nil {
			t.Errorf("%s in %d: %v", name, w.dir, err)
			continue
		}
		got := make([]byte, len(content)+1)
		n, err := s.Read(ctx, a.Ino, 0, got)
		if err != nil || !bytes.Equal(got[:n], content) {
			t.Errorf("%s in %d has %d bytes, %v; want %d", name, w.dir, n, err, len(content))
		}
	}
}

// TestLeaderLost: the members lose their leader, in every way, while files are made and changed. Nobody
// notices, nothing is lost, nothing contradicts anything.
func TestLeaderLost(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), sessiontest.Patience)
	defer cancel()
	r := sessiontest.New(t, 3)
	store, ns := r.Session(kvsession.Options{}), memns.New()
	v := open(t, store, ns)
	s := v.Session(nil)
	var workers []*worker
	var rounds atomic.Int64
	var stop atomic.Bool
	var work sync.WaitGroup
	for i := range 3 {
		a, err := s.Mkdir(ctx, fs.Cred{}, fs.Root, fmt.Sprint("d", i), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		w := &worker{s: s, dir: a.Ino, names: map[string][]byte{}}
		workers = append(workers, w)
		work.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := w.round(ctx, i); err != nil {
					t.Errorf("round %d: %v", i, err)
					return
				}
				rounds.Add(1)
			}
		})
	}
	more := func() {
		from := rounds.Load() + 60
		sessiontest.Wait(t, "for more files", func() bool { return rounds.Load() >= from || t.Failed() })
	}
	more()
	i := r.Leader()
	r.Stop(i)
	more()
	r.Start(i)
	more()
	if err := r.Member(r.Leader()).TransferLeadership(ctx); err != nil {
		t.Logf("transfer: %v", err)
	}
	more()
	i = r.Leader()
	r.Connect(i, false)
	more()
	r.Connect(i, true)
	more()
	stop.Store(true)
	work.Wait()
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	again := r.Session(kvsession.Options{}) // knows nothing yet
	v = open(t, again, ns)
	for _, w := range workers {
		w.compare(ctx, t, v.Session(nil))
	}
	if err := v.Close(ctx); err != nil {
		t.Error(err)
	}
	check(t, again, ns)
	t.Logf("%d rounds, %+v", rounds.Load(), store.Stats())
}
