package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var cluster = asd.ID{1, 2, 3}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(p)
	return p
}

// dirs returns n paths of folders that do not exist yet.
func dirs(t testing.TB, n int) []string {
	base := t.TempDir()
	out := make([]string, n)
	for i := range out {
		out[i] = filepath.Join(base, fmt.Sprint("asd", i))
	}
	return out
}

func options(store kv.Store, dirs []string) Options {
	return Options{KV: store, Cluster: cluster, Dirs: dirs, Capacity: 1 << 30, Compression: objstore.CompressS2,
		WatchEvery: 20 * time.Millisecond, Maintenance: maint.Options{RepairDelay: -1},
		// Nothing is late here but by the load of other tests.
		Client: client.Options{Grace: time.Minute}}
}

func open(t testing.TB, o Options) *Backend {
	t.Helper()
	b, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func namespace(t testing.TB, b *Backend) objstore.Namespace {
	t.Helper()
	ns, err := b.Namespace(context.Background(), "ns")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// objects are what a test has put.
type objects map[string][]byte

func (o objects) put(t testing.TB, ns objstore.Namespace, name string, p []byte) {
	t.Helper()
	if _, err := ns.Put(context.Background(), name, p); err != nil {
		t.Fatal(err)
	}
	o[name] = p
}

func (o objects) check(t testing.TB, ns objstore.Namespace) {
	t.Helper()
	for name, want := range o {
		got := make([]byte, len(want))
		if err := ns.ReadAt(context.Background(), name, 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %v, equal %v", name, err, bytes.Equal(got, want))
		}
	}
}

func (o objects) fill(t testing.TB, ns objstore.Namespace, n int) {
	t.Helper()
	for i := range n {
		o.put(t, ns, fmt.Sprint("o", len(o)), noise(1+i*37_123%600_000))
	}
}

// problems checks and returns what is worse than least.
func problems(t testing.TB, b *Backend, least maint.Severity) []maint.Problem {
	t.Helper()
	var out []maint.Problem
	_, err := b.Check(context.Background(), maint.CheckOptions{Full: true}, func(p maint.Problem) {
		if p.Severity >= least {
			out = append(out, p)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

func TestEndToEnd(t *testing.T) {
	store := memkv.New()
	d := dirs(t, 6)
	b := open(t, options(store, d))
	ns := namespace(t, b)
	all := objects{}
	all.fill(t, ns, 12)
	all.put(t, ns, "text", bytes.Repeat([]byte("gabion "), 700_000))
	all.check(t, ns)
	if p := problems(t, b, maint.Note); len(p) > 0 {
		t.Fatal(p)
	}
	c, err := b.Capacity(context.Background())
	if err != nil || c.Free <= 0 || c.Used <= 0 || c.Total != c.Free+c.Used {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// Known folders need not be given again.
	b = open(t, options(store, nil))
	if got := len(b.Disks()); got != 6 {
		t.Fatalf("%d disks after a restart", got)
	}
	ns = namespace(t, b)
	all.check(t, ns)
	s, err := b.Safety(context.Background())
	if err != nil || len(s) != 1 || s[0].Spare != 2 || s[0].Objects != int64(len(all)) {
		t.Fatalf("%+v, %v", s, err)
	}
	for name := range all {
		if err := ns.Delete(context.Background(), name); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the fragments to go, but for the labels of the namespace", func() bool {
		n := int64(0)
		for _, d := range b.disks.Disks() {
			_ = d.Refresh(context.Background())
			n += d.Stat().Fragments
		}
		return n == 6
	})
}

// TestTwoFoldersVanishUnderLoad removes two of six folders while objects are written and read.
func TestTwoFoldersVanishUnderLoad(t *testing.T) {
	d := dirs(t, 6)
	b := open(t, options(memkv.New(), d))
	ns := namespace(t, b)
	all := objects{}
	all.fill(t, ns, 10)
	var mu sync.Mutex
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name, p := fmt.Sprint("w", w, "-", i), noise(1000+i*7919%300_000)
				if _, err := ns.Put(context.Background(), name, p); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, len(p))
				if err := ns.ReadAt(context.Background(), name, 0, got); err != nil || !bytes.Equal(got, p) {
					t.Errorf("%s: %v", name, err)
					return
				}
				mu.Lock()
				all[name] = p
				mu.Unlock()
			}
		})
	}
	for _, dir := range d[:2] {
		waitFor(t, dir+" to be gone", func() bool { // the disk makes files there at the same time
			_ = os.RemoveAll(dir)
			_, err := os.Lstat(dir)
			return errors.Is(err, os.ErrNotExist)
		})
	}
	waitFor(t, "the loss to be noticed", func() bool {
		s := b.Disks()
		return s[0].State == manager.Missing && s[1].State == manager.Missing
	})
	close(stop)
	wg.Wait()
	all.check(t, ns)
	// With four disks (4,2) cannot be whole: objects at the brink are coded anew by (2,2).
	waitFor(t, "objects to be safe again", func() bool {
		s, err := b.maint.Safety(context.Background())
		return err == nil && len(s) > 0 && s[0].Spare > 0
	})
	all.check(t, ns)
	all.put(t, ns, "after", noise(100_000))
	if p := problems(t, b, maint.Error); len(p) > 0 {
		t.Fatal(p)
	}
	// Two new disks: full redundancy comes back.
	for i := range 2 {
		if _, err := b.AddDisk(context.Background(), d[i]+"new"); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "full redundancy", func() bool {
		s, err := b.maint.Safety(context.Background())
		return err == nil && len(s) > 0 && s[0].Spare == s[0].Full
	})
	all.check(t, ns)
	if p := problems(t, b, maint.Error); len(p) > 0 {
		t.Fatal(p)
	}
}

// TestFolderVanishesFromAFailedDisk: those who use a disk may find that it fails before the watch finds that its
// folder is gone. It is missing all the same, and taken back when the folder is there again.
func TestFolderVanishesFromAFailedDisk(t *testing.T) {
	d := dirs(t, 6)
	b := open(t, options(memkv.New(), d))
	if err := os.Rename(d[1], d[1]+".away"); err != nil {
		t.Fatal(err)
	}
	b.disks.Detach(b.disks.Disk(b.Disks()[1].ID), manager.Failed, asd.ErrFailed)
	waitFor(t, "the disk to be missing", func() bool { return b.Disks()[1].State == manager.Missing })
	if err := os.Rename(d[1]+".away", d[1]); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the folder to be taken back", func() bool { return b.Disks()[1].State == manager.Up })
}

func TestMissingAndDamagedFoldersAtStart(t *testing.T) {
	store := memkv.New()
	d := dirs(t, 6)
	b := open(t, options(store, d))
	all := objects{}
	all.fill(t, namespace(t, b), 6)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d[1], d[1]+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d[4], "format"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	b = open(t, options(store, d))
	s := b.Disks()
	if s[1].State != manager.Missing || s[4].State != manager.Damaged || s[0].State != manager.Up {
		t.Fatalf("%v %v %v", s[0].State, s[1].State, s[4].State)
	}
	all.check(t, namespace(t, b))
	if _, err := os.Stat(d[1]); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the missing folder was created anew")
	}
	// It comes back while we run.
	if err := os.Rename(d[1]+".away", d[1]); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the folder to be taken back", func() bool { return b.Disks()[1].State == manager.Up })
	all.check(t, namespace(t, b))
}

func TestAnEmptyFolderIsANewDisk(t *testing.T) {
	store := memkv.New()
	d := dirs(t, 6)
	b := open(t, options(store, d))
	all := objects{}
	all.fill(t, namespace(t, b), 6)
	old := b.Disks()[2]
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(d[2]); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d[2], 0o700); err != nil {
		t.Fatal(err)
	}
	b = open(t, options(store, d))
	s := b.Disks()
	if len(s) != 7 || s[2].State != manager.Missing || s[2].ASD != old.ASD || s[6].State != manager.Up || s[6].ID == old.ID || s[6].Dir != d[2] {
		t.Fatalf("%+v", s)
	}
	all.check(t, namespace(t, b))
	waitFor(t, "full redundancy", func() bool {
		s, err := b.maint.Safety(context.Background())
		return err == nil && len(s) == 1 && s[0].Spare == 2
	})
	if err := b.PurgeDisk(context.Background(), old.ID, false); err != nil {
		t.Fatal(err)
	}
	if len(b.Disks()) != 6 {
		t.Fatal("the lost disk was not forgotten")
	}
}

func TestForeignAndBusyFoldersAreRefused(t *testing.T) {
	d := dirs(t, 2)
	b := open(t, options(memkv.New(), d))
	if _, err := Open(context.Background(), options(memkv.New(), d)); !errors.Is(err, asd.ErrInUse) {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	o := options(memkv.New(), d)
	o.Cluster = asd.ID{9}
	if _, err := Open(context.Background(), o); !errors.Is(err, asd.ErrForeign) {
		t.Fatal(err)
	}
}

func TestDrain(t *testing.T) {
	d := dirs(t, 7)
	o := options(memkv.New(), d)
	o.Policies = []objstore.Policy{{K: 4, M: 2, C: 5, X: 6}}
	b := open(t, o)
	ns := namespace(t, b)
	all := objects{}
	all.fill(t, ns, 10)
	if err := b.DrainDisk(context.Background(), 3); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the disk to be empty and retired", func() bool { return len(b.Disks()) == 6 })
	all.check(t, ns)
	if p := problems(t, b, maint.Warning); len(p) > 0 {
		t.Fatal(p)
	}
}

func TestRotIsHealed(t *testing.T) {
	ctx := context.Background()
	b := open(t, options(memkv.New(), dirs(t, 6)))
	ns := namespace(t, b)
	all := objects{}
	all.put(t, ns, "x", noise(400_000))
	// A fragment that the disk has lost.
	m, err := b.list()[0].NSM().Lookup(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	dev, done, err := b.disks.Disk(m.Chunks[0].Fragments[1].Disk).Use()
	if err != nil {
		t.Fatal(err)
	}
	err = dev.DeleteFragments(ctx, []objstore.FragmentKey{m.Key(1, 0, 1)})
	done()
	if err != nil {
		t.Fatal(err)
	}
	if p := problems(t, b, maint.Warning); len(p) == 0 {
		t.Fatal("the check finds nothing")
	}
	all.check(t, ns)
	waitFor(t, "the fragment to be written anew", func() bool {
		m, err := b.list()[0].NSM().Fetch(ctx, "x")
		return err == nil && m.Chunks[0].Fragments[1].Version == 1
	})
	if p := problems(t, b, maint.Warning); len(p) > 0 {
		t.Fatal(p)
	}
}

// TestRoomAtOnce fills the disks and removes what is on them: both the capacity and the next put know of the
// room without waiting for the watch, or for maintenance.
func TestRoomAtOnce(t *testing.T) {
	ctx := context.Background()
	o := options(memkv.New(), dirs(t, 6))
	o.Capacity, o.WatchEvery, o.Compression = 40<<20, time.Hour, objstore.CompressNone
	b := open(t, o)
	ns := namespace(t, b)
	for round := range 2 {
		var names []string
		for {
			name := fmt.Sprint("object ", round, len(names))
			if _, err := ns.Put(ctx, name, noise(4<<20)); err != nil {
				if !errors.Is(err, objstore.ErrFull) {
					t.Fatal(err)
				}
				break
			}
			names = append(names, name)
		}
		if len(names) < 10 {
			t.Fatalf("full after %d objects", len(names))
		}
		if c, err := b.Capacity(ctx); err != nil || c.Free > 16<<20 {
			t.Fatalf("full: %+v, %v", c, err)
		}
		if err := ns.Delete(ctx, names...); err != nil {
			t.Fatal(err)
		}
		if err := ns.(objstore.Reclaimer).Reclaim(ctx); err != nil {
			t.Fatal(err)
		}
		if c, err := b.Capacity(ctx); err != nil || c.Free < 64<<20 {
			t.Fatalf("empty: %+v, %v", c, err)
		}
	}
}
