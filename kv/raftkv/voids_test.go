package raftkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
)

// TestVoidsAreNotWatched: an entry that every member skips is never delivered, neither to a watch that saw
// it come nor after a restart to one that finds it in the log, where nothing tells it from others.
func TestVoidsAreNotWatched(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	o := Options{Dir: dir, MinLog: 1 << 20}
	s, err := Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) uint64 {
		t.Helper()
		for {
			index, err := s.UpdateAt(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("a", []byte(key), []byte("v")); return nil })
			if err == nil {
				return index
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			if err := s.WaitReady(ctx); err != nil { // the void entry ended the epoch
				t.Fatal(err)
			}
		}
	}
	// watched returns the keys of all entries up to index.
	watched := func(index uint64) string {
		t.Helper()
		var keys []string
		end := errors.New("end")
		err := s.Watch(ctx, WatchOptions{From: 1}, func(at uint64, events []Event) error {
			for _, e := range events {
				keys = append(keys, string(e.Key))
			}
			if at >= index {
				return end
			}
			return nil
		})
		if err != end {
			t.Fatal(err)
		}
		return fmt.Sprint(keys)
	}
	put("one")
	ghost, _, _ := appendOp(appendHeader(nil, s.raft.CurrentTerm(), 99), "a", []byte("ghost"), []byte("v"), false)
	if err := s.raft.ApplyLog(raft.Log{Data: ghost}, 0).Error(); err != nil {
		t.Fatal(err)
	}
	put("two")
	ghost, _, _ = appendOp(appendHeader(nil, s.raft.CurrentTerm()-1, 3), "a", []byte("ghost"), []byte("v"), false)
	if err := s.raft.ApplyLog(raft.Log{Data: ghost}, 0).Error(); err != nil {
		t.Fatal(err)
	}
	last := put("three")
	const want = "[one two three]"
	if got := watched(last); got != want || s.Stats().Void != 2 {
		t.Errorf("watched %s with %d void entries, want %s with 2", got, s.Stats().Void, want)
	}
	if err := s.flush(nil); err != nil { // so that they are not replayed
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(ctx, o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := watched(last); got != want || s.Stats().Void != 0 {
		t.Errorf("after a restart watched %s, replayed %d void entries; want %s and 0", got, s.Stats().Void, want)
	}
}

func FuzzVoids(f *testing.F) {
	v := voids{since: 3}
	f.Add(v.marshal())
	v.add(7)
	v.add(9)
	f.Add(v.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseVoids(b); err == nil && !bytes.Equal(v.marshal(), b) {
			t.Fatal("does not survive a round trip")
		}
	})
}

func TestVoids(t *testing.T) {
	v := voids{since: 3}
	for _, i := range []uint64{5, 6, 9, 12} {
		v.add(i)
	}
	before := v
	v.forget(9)
	if v.since != 9 || v.has(6) || !v.has(9) || !v.has(12) || v.has(10) {
		t.Errorf("%+v", v)
	}
	if !before.has(5) || before.since != 3 {
		t.Errorf("the copy changed: %+v", before)
	}
	v.forget(2)
	if v.since != 9 || len(v.list) != 2 {
		t.Errorf("%+v", v)
	}
}
