package raftkv_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/kv/raftkv/raftlog"
)

func tryOpen(o raftkv.Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := raftkv.Open(ctx, o)
	if err == nil {
		err = s.Close()
	}
	return err
}

// TestReopen: what was written is there after an orderly restart, from the log and the state file.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	for round := range uint64(6) {
		s := open(t, crashOptions(dir))
		if n := crashPicture(t, s); n != round*130 {
			t.Fatalf("round %d: %d transactions", round, n)
		}
		for range 130 {
			if _, err := crashStep(s, kv.Ordered); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	var locked *raftkv.LockedError
	var version *raftkv.VersionError
	var id *raftkv.IDError
	var corrupt *kv.CorruptError

	dir := t.TempDir()
	s := open(t, raftkv.Options{Dir: dir})
	if err := tryOpen(raftkv.Options{Dir: dir}); !errors.As(err, &locked) || locked.Dir != dir {
		t.Errorf("open twice: %v", err)
	}
	if err := put(s, kv.Ordered, "k", "v"); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tryOpen(raftkv.Options{Dir: dir, ID: "2"}); !errors.As(err, &id) {
		t.Errorf("open as another member: %v", err)
	}
	if err := tryOpen(raftkv.Options{}); err == nil {
		t.Error("open without a directory")
	}

	format := filepath.Join(dir, "format")
	good, err := os.ReadFile(format)
	if err != nil {
		t.Fatal(err)
	}
	newer := append([]byte(nil), good...)
	binary.LittleEndian.PutUint32(newer[8:], 2)
	sum := crc32.Checksum(newer[:len(newer)-4], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(newer[len(newer)-4:], sum)
	for name, c := range map[string]struct {
		content []byte
		target  any
	}{
		"newer":   {newer, &version},
		"cut":     {good[:12], &corrupt},
		"empty":   {nil, &corrupt},
		"foreign": {[]byte("something else, but long enough"), &corrupt},
	} {
		if err := os.WriteFile(format, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := tryOpen(raftkv.Options{Dir: dir}); !errors.As(err, c.target) {
			t.Errorf("%s format file: %v", name, err)
		}
	}
	if err := os.Remove(format); err != nil {
		t.Fatal(err)
	}
	if err := tryOpen(raftkv.Options{Dir: dir}); !errors.As(err, &corrupt) {
		t.Errorf("no format file: %v", err)
	}
	if err := os.WriteFile(format, good, 0o600); err != nil {
		t.Fatal(err)
	}

	// A state file that is missing is not a new store.
	if err := os.Remove(filepath.Join(dir, "state.db")); err != nil {
		t.Fatal(err)
	}
	if err := tryOpen(raftkv.Options{Dir: dir}); !errors.As(err, &corrupt) {
		t.Errorf("no state file: %v", err)
	}
}

// TestCreationCutOff: a crash at any point of the creation leaves something that opens.
func TestCreationCutOff(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"lock only":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "LOCK"), nil, 0o600) },
		"half format": func(dir string) error { return os.WriteFile(filepath.Join(dir, "format.new"), []byte("gab"), 0o600) },
	} {
		dir := t.TempDir()
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		if err := tryOpen(raftkv.Options{Dir: dir}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Past the format file: remove what comes later, in the order of its making.
	for _, keep := range []string{"format", "log", "state"} {
		dir := t.TempDir()
		if err := tryOpen(raftkv.Options{Dir: dir}); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "log")); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "state.db")); err != nil {
			t.Fatal(err)
		}
		if keep != "format" {
			l, err := raftlog.Open(raftlog.Options{Dir: filepath.Join(dir, "log")})
			if err != nil {
				t.Fatal(err)
			}
			if keep == "state" { // the bootstrap has set the term, the first entry is missing
				s := open(t, raftkv.Options{Dir: filepath.Join(dir, "other")})
				s.Close()
				if err := os.Rename(filepath.Join(dir, "other", "state.db"), filepath.Join(dir, "state.db")); err != nil {
					t.Fatal(err)
				}
				if err := l.SetUint64([]byte("CurrentTerm"), 1); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := tryOpen(raftkv.Options{Dir: dir}); err != nil {
			t.Errorf("up to %s: %v", keep, err)
		}
	}
}

// TestLogIsBounded: the log does not grow with what was written.
func TestLogIsBounded(t *testing.T) {
	s := open(t, crashOptions(t.TempDir()))
	defer s.Close()
	for range 10000 {
		if _, err := crashStep(s, kv.Ordered); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	wait(t, "for the flusher to finish", func() bool { st := s.Stats(); return st.RecentBytes <= 200<<10 && st.LogBytes < 4<<20 })
	st := s.Stats()
	if st.BatchBytes < 8<<20 || st.Flushes < 3 {
		t.Errorf("the test wrote too little: %+v", st)
	}
	if st.PendingBytes != 0 || st.OpenViews != 0 || !st.Leads || st.Err != nil {
		t.Errorf("stats at rest: %+v", st)
	}
}

// TestStops: a store whose log cannot be written says so to everyone, for good.
func TestStops(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a loop device")
	}
	mount := loopMount(t)
	s := open(t, raftkv.Options{Dir: filepath.Join(mount, "kv")})
	defer s.Close()
	if err := put(s, kv.Durable, "k", "v"); err != nil {
		t.Fatal(err)
	}
	powerCut(t, mount)
	if err := put(s, kv.Durable, "k", "w"); !errors.Is(err, kv.ErrUnknownOutcome) && !errors.Is(err, kv.ErrClosed) {
		t.Errorf("update on a dead disk: %v", err)
	}
	wait(t, "for the store to stop", func() bool { return s.Stats().Err != nil })
	for name, err := range map[string]error{
		"update": put(s, kv.Ordered, "k", "x"),
		"sync":   s.Sync(context.Background()),
		"view":   s.View(context.Background(), kv.Stale, func(kv.Reader) error { return nil }),
	} {
		if !errors.Is(err, kv.ErrClosed) {
			t.Errorf("%s after the log failed: %v", name, err)
		}
	}
}
