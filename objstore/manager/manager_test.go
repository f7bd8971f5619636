package manager

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openManager(t testing.TB, store kv.Store) *Manager {
	t.Helper()
	m, err := Open(context.Background(), store, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range m.Disks() {
			d.Shutdown()
		}
	})
	return m
}

func attach(t testing.TB, m *Manager, asd, dir string) *Disk {
	t.Helper()
	d, err := m.Attach(context.Background(), asd, dir, "node", disktest.New(0))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDisksAreKnownByTheirID(t *testing.T) {
	store := memkv.New(memkv.Rerun())
	m := openManager(t, store)
	a, b := attach(t, m, "A", "/a"), attach(t, m, "B", "/b")
	if a.ID() != 1 || b.ID() != 2 {
		t.Fatal(a.ID(), b.ID())
	}
	if _, err := m.Attach(context.Background(), "A", "/a", "node", disktest.New(0)); err == nil {
		t.Fatal("a disk was attached twice")
	}
	a.Shutdown()
	b.Shutdown()
	m = openManager(t, store)
	if l := m.Disks(); len(l) != 2 || l[0].Readable() || l[0].Status().State != Missing {
		t.Fatalf("%v", l)
	}
	// Swapped folders change nothing; another disk in a known folder is a new one.
	if d := attach(t, m, "B", "/a"); d.ID() != 2 || d.Dir() != "/a" {
		t.Fatal(d.Record())
	}
	if d := attach(t, m, "C", "/b"); d.ID() != 3 {
		t.Fatal(d.Record())
	}
	if node, ok := m.Node(3); !ok || node != "node" {
		t.Fatal(node, ok)
	}
}

func TestRetiredForEver(t *testing.T) {
	ctx := context.Background()
	store := memkv.New(memkv.Rerun())
	m := openManager(t, store)
	attach(t, m, "A", "/a")
	attach(t, m, "B", "/b")
	if err := m.SetAdmin(ctx, 1, Disabled); err != nil {
		t.Fatal(err)
	}
	if d := m.Disk(1); d.Writable() || !d.Readable() || d.Kept() {
		t.Fatal("a disabled disk is read and not written")
	}
	if err := m.SetAdmin(ctx, 1, Retired); err != nil {
		t.Fatal(err)
	}
	if err := m.SetAdmin(ctx, 9, Retired); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	for range 2 {
		if _, ok := m.Node(1); ok || len(m.Disks()) != 1 {
			t.Fatal("the retired disk is still known")
		}
		if _, err := m.Attach(ctx, "A", "/a", "node", disktest.New(0)); err == nil {
			t.Fatal("a retired disk came back")
		}
		m.Disk(2).Shutdown()
		m = openManager(t, store)
	}
	if d := attach(t, m, "C", "/c"); d.ID() != 3 {
		t.Fatalf("the number %d was given out again", d.ID())
	}
}

func TestFailuresInARowTakeADiskOut(t *testing.T) {
	m := openManager(t, memkv.New())
	d := attach(t, m, "A", "/a")
	bad := errors.New("I/O error")
	corrupt := &objstore.CorruptError{What: "x", Err: bad}
	for range 10 { // none of these is the disk's fault
		for _, err := range []error{objstore.ErrNoFragment, corrupt, context.Canceled, nil} {
			m.Observe(d, err)
		}
		m.Observe(d, bad)
	}
	if !d.Readable() {
		t.Fatal("taken out for single failures")
	}
	m.Observe(d, bad)
	m.Observe(d, fmt.Errorf("again: %w", bad))
	if s := d.Status(); s.State != Failed || !errors.Is(s.Err, bad) {
		t.Fatalf("%+v", s)
	}
	if _, _, err := d.Use(); !errors.Is(err, bad) {
		t.Fatal(err)
	}
	m.Observe(attach(t, m, "B", "/b"), objstore.ErrFull)
	if d := m.Disk(2); !d.Full() || d.Writable() || !d.Readable() {
		t.Fatal("a full disk is read and not written")
	}
	select {
	case <-m.Events():
	default:
		t.Fatal("nobody was told")
	}
}

func TestDiagnose(t *testing.T) {
	m := openManager(t, memkv.New())
	d := attach(t, m, "A", "/a")
	gone := errors.New("gone")
	if d.Diagnose(Missing, gone) || !d.Readable() {
		t.Fatal("a disk that is up was taken out of use")
	}
	m.Detach(d, Failed, errors.New("I/O error"))
	since := d.Status().Since
	if !d.Diagnose(Missing, gone) || d.Diagnose(Missing, gone) {
		t.Error("another state is reported once")
	}
	if s := d.Status(); s.State != Missing || !errors.Is(s.Err, gone) || !s.Since.Equal(since) {
		t.Errorf("down since %v: %+v", since, s)
	}
}

func TestADiskClosesAfterItsLastUser(t *testing.T) {
	m := openManager(t, memkv.New())
	fake := disktest.New(0)
	d, err := m.Attach(context.Background(), "A", "/a", "node", fake)
	if err != nil {
		t.Fatal(err)
	}
	dev, done, err := d.Use()
	if err != nil {
		t.Fatal(err)
	}
	m.Detach(d, Missing, errors.New("gone"))
	if err := dev.Probe(context.Background()); err != nil {
		t.Fatal("closed while in use")
	}
	done()
	for end := time.Now().Add(2 * time.Minute); fake.Probe(context.Background()) == nil; {
		if time.Now().After(end) {
			t.Fatal("never closed")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestTooManyLateWrites(t *testing.T) {
	m := openManager(t, memkv.New())
	d := attach(t, m, "A", "/a")
	var over []func()
	for range maxBacklog {
		if !d.Writable() {
			t.Fatal("given up too early")
		}
		over = append(over, d.Straggle())
	}
	if d.Writable() {
		t.Fatal("a disk that hangs is given more")
	}
	over[0]()
	if !d.Writable() {
		t.Fatal("not taken back")
	}
}

func TestPresetsAndNamespaces(t *testing.T) {
	ctx := context.Background()
	store := memkv.New(memkv.Rerun())
	m := openManager(t, store)
	p := objstore.Preset{Name: "p", Policies: objstore.DefaultPolicies(6), Compression: objstore.CompressS2}
	if _, err := m.Namespace(ctx, "n", "p"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	if err := m.PutPreset(ctx, p); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for i, name := range []string{"n", "o"} {
			if r, err := m.Namespace(ctx, name, "p"); err != nil || r.Number != uint32(i+1) || r.Preset != "p" {
				t.Fatal(r, err)
			}
		}
		m = openManager(t, store)
	}
	got, err := m.Preset(ctx, "p")
	if err != nil || got.FragmentSize != DefaultFragmentSize || fmt.Sprint(got.Policies) != fmt.Sprint(p.Policies) || got.Compression != p.Compression {
		t.Fatal(got, err)
	}
	if all, err := m.Namespaces(ctx); err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for what, bad := range map[string]objstore.Preset{
		"no name":     {Policies: p.Policies},
		"no policies": {Name: "x"},
		"bad policy":  {Name: "x", Policies: []objstore.Policy{{K: 0, M: 1, C: 1, X: 1}}},
		"twice":       {Name: "x", Policies: []objstore.Policy{{K: 1, M: 1, C: 1, X: 1}, {K: 1, M: 1, C: 2, X: 1}}},
		"fragment":    {Name: "x", Policies: p.Policies, FragmentSize: 1},
		"compression": {Name: "x", Policies: p.Policies, Compression: 9},
	} {
		if err := m.PutPreset(ctx, bad); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	for _, name := range []string{"", "a/b"} {
		if _, err := m.Namespace(ctx, name, "p"); err == nil {
			t.Errorf("namespace %q was accepted", name)
		}
	}
}

func TestDamagedRecordsAreReported(t *testing.T) {
	for _, value := range []string{"{", `{"v":7}`} {
		store := memkv.New()
		if err := store.Update(context.Background(), kv.Durable, func(tx kv.Txn) error {
			tx.Put(ksDisk, diskKey(1), []byte(value))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		var corrupt *objstore.CorruptError
		if _, err := Open(context.Background(), store, nil); !errors.As(err, &corrupt) {
			t.Fatalf("%s: %v", value, err)
		}
	}
}

func TestLatency(t *testing.T) {
	var l Latency
	if l.P95() != 0 || l.Mean() != 0 {
		t.Fatal("something from nothing")
	}
	for i := range 10000 {
		l.Add(time.Duration(1+i*7919%100) * time.Millisecond)
	}
	if p := l.P95(); p < 80*time.Millisecond || p > 130*time.Millisecond {
		t.Fatalf("the 95th of 1 to 100 ms is estimated as %v", p)
	}
	m := openManager(t, memkv.New())
	var disks []*Disk
	for i := range 5 {
		disks = append(disks, attach(t, m, fmt.Sprint(i), fmt.Sprint("/", i)))
	}
	for range 100 {
		for i, d := range disks {
			d.Reads.Add(time.Millisecond)
			if i == 3 {
				d.Reads.Add(200 * time.Millisecond)
			}
		}
	}
	JudgeReads(disks)
	for i, d := range disks {
		if d.Reads.Slow() != (i == 3) {
			t.Fatalf("disk %d slow: %v, mean %v", i, d.Reads.Slow(), d.Reads.Mean())
		}
	}
	for i := 0; disks[3].Reads.Slow(); i++ { // it gets another chance
		if i > 60 {
			t.Fatal("slow for ever")
		}
		JudgeReads(disks)
	}
}

func TestDoReturnsFromADiskThatHangs(t *testing.T) {
	m := openManager(t, memkv.New())
	fake := disktest.New(0)
	d, err := m.Attach(context.Background(), "A", "/a", "node", fake)
	if err != nil {
		t.Fatal(err)
	}
	release := fake.Hang()
	read := func(dev objstore.Disk) error {
		return dev.ReadFragment(context.Background(), objstore.FragmentKey{}, 0, nil)
	}
	if err := d.doWithin(context.Background(), time.Millisecond, read); !errors.Is(err, ErrHung) {
		t.Fatal(err)
	}
	release()
	if err := d.Do(context.Background(), read); !errors.Is(err, objstore.ErrNoFragment) {
		t.Fatal(err)
	}
}
