package asd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestClaimOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "asd")
	first, err := Announce(dir)
	if err != nil || first.ASD.IsZero() || !first.Cluster.IsZero() {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := Announce(dir); err != nil || again != first {
		t.Fatalf("%+v, %v; announced as %+v", again, err, first)
	}
	if _, err := Claim(dir, ID{1}, ID{7}); !errors.Is(err, ErrForeign) {
		t.Fatalf("claimed as another disk: %v", err)
	}
	id, err := Claim(dir, first.ASD, ID{7})
	if err != nil || id.ASD != first.ASD || id.Cluster != (ID{7}) {
		t.Fatalf("%+v, %v", id, err)
	}
	for _, cluster := range []ID{{7}, {8}} {
		_, err := Claim(dir, ID{}, cluster)
		var claimed *ClaimedError
		if !errors.As(err, &claimed) || claimed.Owner != (ID{7}) || !errors.Is(err, ErrClaimed) {
			t.Fatalf("claimed again: %v", err)
		}
	}
	if id, err := Announce(dir); err != nil || id.Cluster != (ID{7}) {
		t.Fatalf("%+v, %v", id, err)
	}
	a, err := Open(context.Background(), dir, Options{Cluster: ID{7}, ASD: first.ASD, Capacity: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestClaimRace lets many claim one folder, by both ways that there are.
func TestClaimRace(t *testing.T) {
	for round := range 5 {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(round))
		if _, err := Announce(dir); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var winners atomic.Int64
		var won atomic.Value
		for i := range 32 {
			wg.Go(func() {
				cluster := ID{byte(i + 1)}
				var err error
				if i%4 == 3 {
					_, err = Format(dir, cluster)
				} else {
					_, err = Claim(dir, ID{}, cluster)
				}
				if err == nil {
					winners.Add(1)
					won.Store(cluster)
				} else if !errors.Is(err, ErrClaimed) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		id, err := Inspect(dir)
		if err != nil || winners.Load() != 1 || won.Load() != id.Cluster {
			t.Fatalf("%d have claimed it; %+v, %v", winners.Load(), id, err)
		}
	}
}

func TestRelease(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "asd")
	if _, err := Format(dir, ID{7}); err != nil {
		t.Fatal(err)
	}
	before, err := Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(ctx, dir, Options{Capacity: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var b Batch
	b.Put([]byte("k"), nil, []byte("v"))
	if _, err := a.Apply(ctx, &b, Durable); err != nil {
		t.Fatal(err)
	}
	for _, wipe := range []bool{false, true} {
		if err := Release(ctx, dir, ID{7}, wipe); !errors.Is(err, ErrInUse) {
			t.Fatalf("released while open: %v", err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Release(ctx, dir, ID{7}, false); !errors.Is(err, ErrNotEmpty) {
		t.Fatalf("released with a record: %v", err)
	}
	if err := Release(ctx, dir, ID{8}, true); !errors.Is(err, ErrClaimed) {
		t.Fatalf("released by another: %v", err)
	}
	if err := Release(ctx, dir, ID{7}, true); err != nil {
		t.Fatal(err)
	}
	if err := Release(ctx, dir, ID{7}, true); !errors.Is(err, ErrMissing) {
		t.Fatalf("released twice: %v", err)
	}
	id, err := Claim(dir, ID{}, ID{9})
	if err != nil || id.ASD == before.ASD {
		t.Fatalf("%+v, %v: the id of a disk that is no more", id, err)
	}
	if a, err = Open(ctx, dir, Options{Cluster: ID{9}, Capacity: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if n := a.Stat().Records; n != 0 {
		t.Fatalf("%d records of another cluster", n)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Release(ctx, dir, ID{9}, false); err != nil {
		t.Fatalf("an empty disk: %v", err)
	}
}

// TestClaimCrashes stops claims and releases between any two of their steps; whoever comes next finds the folder
// claimed or free, never something in between, and never with records of another owner.
func TestClaimCrashes(t *testing.T) {
	ctx := context.Background()
	crash := errors.New("crash")
	steps := map[string]bool{}
	for n := 0; ; n++ {
		dir := filepath.Join(t.TempDir(), "asd")
		left, at := n, ""
		c := claimer{dir: dir, at: func(step string) error {
			if left--; left < 0 {
				at = step
				return crash
			}
			return nil
		}}
		_, err := c.claim(ID{}, ID{7})
		if errors.Is(err, ErrMissing) { // the folder is made by announce
			if _, err := c.announce(); err != nil {
				t.Fatal(err)
			}
			_, err = c.claim(ID{}, ID{7})
		}
		released := false
		if err == nil {
			if err := os.MkdirAll(filepath.Join(dir, segmentsName, "old"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err = c.release(ctx, ID{7}, true); err == nil {
				break // every step was a crash once
			}
			released = at != "release"
		}
		if !errors.Is(err, crash) {
			t.Fatal(err)
		}
		steps[at] = true
		id, err := Announce(dir)
		if err != nil {
			t.Fatalf("after a crash at %q: %v", at, err)
		}
		if claimed := at == "claimed" || at == "release"; claimed != (id.Cluster == ID{7}) {
			t.Fatalf("after a crash at %q: %+v", at, id)
		}
		if released {
			if _, err := os.Stat(filepath.Join(dir, segmentsName)); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("after a crash at %q the segments are there: %v", at, err)
			}
		}
		_, err = Claim(dir, ID{}, ID{9})
		if (err == nil) == (id.Cluster == ID{7}) {
			t.Fatalf("after a crash at %q: %v", at, err)
		}
	}
	if len(steps) < 7 {
		t.Fatalf("only stopped at %v", steps)
	}
}
