package raftkv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/gabionfs/gabion/kv"
)

// TestStaleLog: a log that a received snapshot has replaced is dropped when a crash kept it, and one that
// leads to the snapshot is not.
func TestStaleLog(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, c := range []struct {
		name string
		term uint64 // added to the term of the snapshot
		gone bool
	}{{"the same history", 0, false}, {"another history", 1, true}} {
		dir := t.TempDir()
		o := Options{Dir: dir, MinLog: 1 << 20}
		s, err := Open(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			if err := s.Update(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("a", []byte(fmt.Sprint(i)), nil); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		st := s.applied
		s.mu.Unlock()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		st.snapshot.Term += c.term
		db, err := bolt.Open(filepath.Join(dir, stateFile), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Update(func(tx *bolt.Tx) error { return putState(tx, st) }), db.Close(), os.Remove(filepath.Join(dir, sumsFile))); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(ctx, o); err != nil {
			t.Fatal(err)
		}
		enough := errors.New("enough")
		err = s.Watch(ctx, WatchOptions{From: 1}, func(uint64, []Event) error { return enough })
		if gone := errors.Is(err, kv.ErrCompacted); gone != c.gone || !gone && err != enough {
			t.Errorf("%s: a watch over the log: %v", c.name, err)
		}
		n := 0
		if err := s.View(ctx, kv.Linearizable, func(r kv.Reader) error {
			return r.Range("a", kv.Range{}, func(_, _ []byte) bool { n++; return true })
		}); err != nil || n != 20 {
			t.Errorf("%s: %d keys, %v", c.name, n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
