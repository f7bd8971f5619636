package asd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func wantOpenError(t *testing.T, err, want error, words ...string) {
	t.Helper()
	var oe *OpenError
	if !errors.Is(err, want) || !errors.As(err, &oe) || oe.Hint == "" {
		t.Fatalf("got %v, want %v with a hint", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("%q does not say %q", err, w)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	ctx := t.Context()
	base := t.TempDir()
	_, err := Open(ctx, filepath.Join(base, "nowhere"), Options{})
	wantOpenError(t, err, ErrMissing, "does not exist")
	empty := filepath.Join(base, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Open(ctx, empty, Options{})
	wantOpenError(t, err, ErrMissing, "no format file")

	dir := newDir(t)
	_, err = Open(ctx, dir, Options{Cluster: ID{9}})
	wantOpenError(t, err, ErrForeign, testCluster.String())
	_, err = Open(ctx, dir, Options{ASD: ID{9}})
	wantOpenError(t, err, ErrForeign, "swapped")
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Fatalf("a refused folder was changed: %v", list)
	}
	a := mustOpen(t, dir, Options{Cluster: testCluster})
	_, err = Open(ctx, dir, Options{})
	wantOpenError(t, err, ErrInUse)
	a.Close()
	mustOpen(t, dir, Options{ASD: a.Identity().ASD}).Close()

	id, err := Inspect(dir)
	if err != nil || id.Cluster != testCluster || id.ASD != a.Identity().ASD {
		t.Fatalf("inspect: %+v, %v", id, err)
	}
	id.Version = formatVersion + 1
	if err := os.WriteFile(filepath.Join(dir, formatName), id.encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(ctx, dir, Options{})
	wantOpenError(t, err, ErrNewer, "later gabion")
}

func TestFormatErrors(t *testing.T) {
	dir := newDir(t)
	_, err := Format(dir, testCluster)
	wantOpenError(t, err, ErrClaimed, testCluster.String())
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "holiday.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Format(other, testCluster)
	wantOpenError(t, err, ErrNotEmpty, "holiday.jpg")
	if list, _ := os.ReadDir(other); len(list) != 1 {
		t.Fatalf("a refused folder was changed: %v", list)
	}
	_, err = Format(filepath.Join(other, "no", "parent"), testCluster)
	wantOpenError(t, err, os.ErrNotExist)
	fresh := t.TempDir()
	if err := os.Mkdir(filepath.Join(fresh, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Format(fresh, testCluster); err != nil {
		t.Fatal(err)
	}
}

func TestFormatRace(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		var wg sync.WaitGroup
		var mu sync.Mutex
		winners := make(map[ID]ID)
		for i := range 8 {
			wg.Go(func() {
				cluster := ID{byte(i + 1)}
				id, err := Format(dir, cluster)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winners[cluster] = id
				} else if !errors.Is(err, ErrClaimed) {
					t.Errorf("format: %v", err)
				}
			})
		}
		wg.Wait()
		id, err := Inspect(dir)
		if err != nil || len(winners) != 1 || winners[id.Cluster] != id.ASD {
			t.Fatalf("winners %v, the folder says %v, %v", winners, id, err)
		}
		if list, _ := os.ReadDir(dir); len(list) != 1 {
			t.Fatalf("left over: %v", list)
		}
	}
}

func TestClosed(t *testing.T) {
	a := mustOpen(t, newDir(t), Options{})
	put(t, a, "k", []byte("v"))
	a.Close()
	var b Batch
	b.Put([]byte("x"), nil, nil)
	_, err := a.Apply(t.Context(), &b, Durable)
	_, err2 := a.Get(t.Context(), []byte("k"), nil)
	_, err3 := a.Exists(t.Context(), []byte("k"))
	_, _, err4 := a.Range(t.Context(), nil, nil, RangeOptions{})
	for i, err := range []error{err, err2, err3, err4, a.Sync(t.Context()), a.Compact(t.Context()), a.MultiGet(t.Context(), []Read{{Key: []byte("k")}})} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestFailure: the first write that fails latches; reads go on; the next Open finds all that was acknowledged.
func TestFailure(t *testing.T) {
	for _, what := range []string{"write", "sync"} {
		dir := newDir(t)
		a := mustOpen(t, dir, Options{})
		put(t, a, "k", []byte("v"))
		act := a.table.active
		good := act.file
		var err error
		if what == "write" {
			act.file, err = os.Open(act.seg.path) // EBADF
		} else {
			var b Batch
			b.Put([]byte("unsynced"), nil, []byte("v"))
			if _, err := a.Apply(t.Context(), &b, Written); err != nil {
				t.Fatal(err)
			}
			var w *os.File
			act.file, w, err = os.Pipe() // EINVAL
			defer w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		good.Close()
		if what == "write" {
			var b Batch
			b.Put([]byte("x"), nil, []byte("v"))
			_, err = a.Apply(t.Context(), &b, Durable)
		} else {
			err = a.Sync(t.Context())
		}
		if !errors.Is(err, ErrFailed) || !errors.Is(a.Err(), ErrFailed) || !errors.Is(a.Stat().Failed, ErrFailed) {
			t.Fatalf("%s: %v, latched %v", what, err, a.Err())
		}
		var b Batch
		b.Delete([]byte("k"))
		if _, err := a.Apply(t.Context(), &b, Durable); !errors.Is(err, ErrFailed) {
			t.Fatalf("%s: delete after the failure: %v", what, err)
		}
		check(t, a, "k", []byte("v"))
		if err := a.Close(); !errors.Is(err, ErrFailed) {
			t.Fatalf("%s: close: %v", what, err)
		}
		a = mustOpen(t, dir, Options{})
		check(t, a, "k", []byte("v"))
		check(t, a, "x", nil)
		put(t, a, "x", []byte("now"))
	}
}

func TestLimits(t *testing.T) {
	a := mustOpen(t, newDir(t), Options{SegmentSize: 2 << 20})
	for name, f := range map[string]func(b *Batch){
		"key":     func(b *Batch) { b.Put(make([]byte, MaxKey+1), nil) },
		"info":    func(b *Batch) { b.Put([]byte("k"), make([]byte, MaxInfo+1)) },
		"payload": func(b *Batch) { b.Put([]byte("k"), nil, make([]byte, a.MaxBatchBytes())) },
		"ops": func(b *Batch) {
			for range MaxBatchOps + 1 {
				b.Delete([]byte("k"))
			}
		},
	} {
		var b Batch
		f(&b)
		if _, err := a.Apply(t.Context(), &b, Durable); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var b Batch
	b.Put(nil, nil)
	if _, err := a.Apply(t.Context(), &b, Durable); !errors.Is(err, ErrInvalid) {
		t.Errorf("empty key: %v", err)
	}
	b.Reset()
	b.Put([]byte("largest"), make([]byte, MaxInfo), make([]byte, a.MaxBatchBytes()-MaxInfo-8192))
	for i := range 3 {
		if _, err := a.Apply(t.Context(), &b, Durable); err != nil {
			t.Fatalf("largest, time %d: %v", i, err)
		}
	}
}
